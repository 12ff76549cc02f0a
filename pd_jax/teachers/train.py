"""``pd-jax train-teacher``: the loop around an algorithm; owns files and time."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.checkpoint import Checkpointer
from pd_jax.config import TrainTeacherConfig, check_network
from pd_jax.divergence import check_loss, check_weights
from pd_jax.envs import Environment
from pd_jax.errors import UserError
from pd_jax.interrupts import Interrupted, Interrupts
from pd_jax.networks import make_network
from pd_jax.play import environment_options, fresh_seed
from pd_jax.reporting.metrics import MetricsWriter, score_values
from pd_jax.reporting.progress import Progress, print_warning
from pd_jax.run_directory import RunDirectory
from pd_jax.tasks import Task, get_task
from pd_jax.teachers import Teacher, dqn, load, pqn
from pd_jax.teachers.algorithm import Algorithm
from pd_jax.teachers.files import read_teacher
from pd_jax.teachers.keeping import FINAL_SEED_OFFSET, Keeper, run_settings
from pd_jax.teachers.timing import Pace

_ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({"pqn": pqn, "dqn": dqn})
_MAY_CHANGE = frozenset(
    {f"{name}.{key}" for name in _ALGORITHMS for key in ("total_steps", "learning_rate", "epsilon_end")}
    | {"evaluation", "init_from"}
)
"""What a resumed run may set anew: how long it goes on, how fast it learns and how it is scored."""


@dataclasses.dataclass
class Progression:
    """Where training stands; saved with every checkpoint.

    Attributes:
      env_steps: control steps so far, in all lanes together.
      wall_seconds: spent in all sessions together.
      curve: evaluations so far, as in the teacher file.
      best_mean: the best of their means; its weights are in ``teacher.safetensors``.
      best_env_steps: control steps behind those weights.
      network: that learns.
    """

    env_steps: int = 0
    wall_seconds: float = 0.0
    curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_mean: float | None = None
    best_env_steps: int = 0
    network: str = ""


def train_teacher(config: TrainTeacherConfig) -> dict[str, Any]:
    """Trains or resumes, leaves ``teacher.safetensors`` in the run directory and returns the summary.

    Raises:
      UserError: something the user gave does not fit; nothing was written.
      Interrupted: a signal came; the run was saved.
    """
    task = get_task(config.game)
    config = dataclasses.replace(config, game=task.name, layer_norm=config.uses_layer_norm)
    check_network(config.network, task)
    _ALGORITHMS[config.algorithm].check(config.learning, task)
    start_from = None
    # A run that goes on from a checkpoint of its own has no more use for it.
    if config.init_from is not None and not (config.resume and _has_checkpoints(config.out)):
        start_from = load(config.init_from, task.name)
    if start_from is not None:
        _check_start(start_from, config, task)
    with (
        RunDirectory.create(
            config.out, "train-teacher", run_settings(config), resume=config.resume, may_change=_MAY_CHANGE
        ) as run,
        Interrupts() as interrupts,
        Progress(f"train {task.name} with {config.algorithm}") as progress,
        Checkpointer(run.checkpoints, keep=config.checkpoint.keep) as checkpointer,
        MetricsWriter(run.path) as metrics,
    ):
        training = _Training(config, task, run, checkpointer, metrics, progress, interrupts, start_from)
        summary = training.run()
        run.write_summary(summary)
    return summary


class _Training:
    """One process's share of a training, from its newest checkpoint (if any) to its end."""

    def __init__(
        self,
        config: TrainTeacherConfig,
        task: Task,
        run: RunDirectory,
        checkpointer: Checkpointer,
        metrics: MetricsWriter,
        progress: Progress,
        interrupts: Interrupts,
        start_from: Teacher | None,
    ) -> None:
        self.config = config
        self.task = task
        self.run_directory = run
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.progress = progress
        self.interrupts = interrupts
        self.started = time.monotonic()
        self.pace = Pace()
        self.speed: dict[str, Any] = {}
        """What `Pace.summarise` says once this session has trained."""
        self.algorithm = _ALGORITHMS[config.algorithm]
        self.learning = config.learning
        self.remedy = f"resume with a smaller {config.algorithm}.learning_rate"
        self.network = make_network(
            config.network, task.num_actions, layer_norm=config.uses_layer_norm, hidden_sizes=config.mlp_hidden
        )
        self.keeper = Keeper(config, task, self.network, run.path)
        self.at = Progression(network=config.network)
        self.state = self._restore_or_init(start_from)
        self.saved_steps = self.at.env_steps
        self.steps = progress.add("steps", self.learning.total_steps, completed=self.at.env_steps)

    def run(self) -> dict[str, Any]:
        """Trains to the end, picks between the best and the last weights, scores these on fresh starts."""
        if self.at.env_steps < self.learning.total_steps:
            self._train()
        if self.at.best_mean is None or self._last_evaluated != self.at.env_steps:
            self._evaluate_on_the_way()
        return self._finish()

    def _restore_or_init(self, start_from: Teacher | None) -> Any:
        example = jnp.zeros((1, *self.task.observation_shape), self.task.observation_dtype)
        state = self.algorithm.init(self.network, example, self.learning, jax.random.key(self.config.seed))
        restored = self.checkpointer.restore(state, network=self.config.network)
        if restored is None:
            self.metrics.truncate_after(-1)
            return state if start_from is None else self.algorithm.warm_start(state, start_from.variables)
        restored_state, metadata, step = restored
        self.at = Progression(**metadata)
        if not self.keeper.path.exists():
            self.at.best_mean = None
        self.metrics.truncate_after(step)
        self.progress.print(f"resumed at step {step:,}, {self.algorithm.resume_note(self.learning)}")
        return jax.tree.map(jnp.asarray, restored_state)

    def _train(self) -> None:
        learning = self.learning
        seed = fresh_seed(self.config.seed, self.at.env_steps)
        environment = Environment(
            self.task,
            learning.num_lanes,
            seed,
            episodic_life=learning.episodic_life,
            **environment_options(self.config.env),
        )
        play = self.algorithm.start(environment, learning, jax.random.key(seed))
        iterate = self.algorithm.make_iteration(self.network, environment, learning)
        try:
            while self.at.env_steps < learning.total_steps:
                started = time.monotonic()
                self.state, play, values = iterate(self.state, play)
                numbers = {name: float(value) for name, value in values.items()}
                self.pace.count(learning.steps_per_rollout, time.monotonic() - started, updates=int(numbers["updates"]))
                self.at.env_steps += learning.steps_per_rollout
                self._write_metrics(numbers)
                self.steps.advance(learning.steps_per_rollout)
                is_end = self.at.env_steps >= learning.total_steps
                if is_end or _passed(self._last_evaluated, self.at.env_steps, self.config.evaluation.every_steps):
                    self._evaluate_on_the_way()
                if _passed(self.saved_steps, self.at.env_steps, self.config.checkpoint.every_steps):
                    self._save()
                self.interrupts.check()
            self._save()
            self.speed = self.pace.summarise(environment, self.network, self.state.variables)
        except Interrupted:
            # Signals are only heeded between iterations, where the state is whole.
            self._save()
            raise
        finally:
            # EnvPool must not go while a call is stepping it. Lanes that a failed call has consumed are not waited for.
            with contextlib.suppress(RuntimeError):
                jax.block_until_ready(play)
            environment.close()

    @property
    def _last_evaluated(self) -> int:
        return self.at.curve[-1]["env_steps"] if self.at.curve else 0

    def _write_metrics(self, numbers: dict[str, float]) -> None:
        if numbers.pop("updates"):
            check_loss(numbers["loss"], f"step {self.at.env_steps:,}", self.remedy)
            status = f"loss {numbers['loss']:.4f}"
        else:
            # A replay that is filling up: what describes updates describes nothing yet.
            numbers = {name: numbers[name] for name in ("games", "game_return", "epsilon")}
            status = "filling the replay"
        games = numbers.pop("games")
        game_return = numbers.pop("game_return")
        if games > 0:
            numbers |= {"game_return": game_return, "games": games}
            self.progress.status(f"return {game_return:.1f}, {status}")
        numbers["wall_seconds"] = self._wall_seconds()
        self.metrics.write(self.at.env_steps, numbers)

    def _wall_seconds(self) -> float:
        return self.at.wall_seconds + time.monotonic() - self.started

    def _save(self) -> None:
        check_weights(self.state.variables, f"step {self.at.env_steps:,}", self.remedy)
        metadata = dataclasses.asdict(self.at) | {"wall_seconds": self._wall_seconds()}
        is_scored = bool(self.at.curve) and self._last_evaluated == self.at.env_steps
        score = self.at.curve[-1]["mean"] if is_scored else None
        self.checkpointer.save(self.at.env_steps, self.state, metadata, score)
        self.saved_steps = self.at.env_steps

    def _evaluate_on_the_way(self) -> None:
        """Adds a point to the learning curve, and writes the teacher file if it is the best so far."""
        check_weights(self.state.variables, f"step {self.at.env_steps:,}", self.remedy)
        scores = self._score(self.state.variables, self.config.evaluation.progress_episodes)
        self.metrics.write(self.at.env_steps, score_values(self.task.name, scores))
        point = {name: scores[name] for name in ("mean", "standard_error", "episodes")}
        # A run that is resumed at its end evaluates again what it may have evaluated before.
        self.at.curve = [other for other in self.at.curve if other["env_steps"] != self.at.env_steps]
        self.at.curve.append({"env_steps": self.at.env_steps} | point)
        try:
            if self.at.best_mean is None or scores["mean"] >= self.at.best_mean:
                self.at.best_env_steps = self.at.env_steps
                self._write_teacher(self.state.variables, scores)
                self.at.best_mean = scores["mean"]
            self.keeper.plot(self.at.curve)
        # A full disk does not end the training: the next point of the curve tries again.
        except UserError as error:
            print_warning(str(error))
        except OSError as error:
            print_warning(f"{error.filename}: cannot be written: {error.strerror}")

    def _finish(self) -> dict[str, Any]:
        params, best = read_teacher(self.keeper.path)
        self.at.best_env_steps = best.env_steps or self.at.env_steps
        variables = {"params": jax.tree.map(jnp.asarray, params)}
        if self.at.best_env_steps != self.at.env_steps:
            # The best of many short evaluations was lucky too; over more games the last weights are often better.
            episodes = self.config.evaluation.episodes
            best_score = self._score(variables, episodes)["mean"]
            if self._score(self.state.variables, episodes)["mean"] >= best_score:
                self.at.best_env_steps, variables = self.at.env_steps, self.state.variables
        scores = self._score(variables, self.config.evaluation.episodes, FINAL_SEED_OFFSET)
        self._write_teacher(variables, scores, FINAL_SEED_OFFSET)
        return {
            "game": self.task.name,
            "algorithm": self.config.algorithm,
            "teacher": str(self.keeper.path),
            "teacher_score": scores["mean"],
            "teacher_standard_error": scores["standard_error"],
            "teacher_ci95": scores["ci95"],
            "episodes": scores["episodes"],
            "epsilon": self.config.evaluation.epsilon,
            "env_steps": self.at.env_steps,
            "teacher_env_steps": self.at.best_env_steps,
            "updates": self.algorithm.updates_done(self.state, self.learning),
            "wall_seconds": self._wall_seconds(),
            "learning_curve": self.at.curve,
            **self.speed,
        }

    def _score(self, variables: Any, episodes: int, seed_offset: int = 0) -> dict[str, Any]:
        def on_progress(finished: int, wanted: int) -> None:
            self.progress.status(f"evaluating: {finished} of {wanted} games")
            self.interrupts.check()

        return self.keeper.score(variables, episodes, on_progress, seed_offset=seed_offset)

    def _write_teacher(self, variables: Any, scores: dict[str, Any], seed_offset: int = 0) -> None:
        self.keeper.write(
            variables["params"],
            scores,
            env_steps=self.at.best_env_steps,
            curve=self.at.curve,
            seed_offset=seed_offset,
        )


def _has_checkpoints(out: str) -> bool:
    directory = Path(out) / "checkpoints"
    return directory.is_dir() and any(entry.name.isdigit() for entry in directory.iterdir())


def _passed(before: int, after: int, interval: int) -> bool:
    return interval > 0 and after // interval > before // interval


def _check_start(teacher: Teacher, config: TrainTeacherConfig, task: Task) -> None:
    """Raises a UserError unless training can go on from this teacher's weights."""
    metadata = teacher.metadata
    wanted = (task.name, config.network, config.uses_layer_norm)
    if (metadata.game, metadata.network, metadata.layer_norm) != wanted or (
        config.network == "mlp" and tuple(metadata.hidden_sizes) != tuple(config.mlp_hidden)
    ):
        raise UserError(
            f"init_from: {config.init_from} is a {metadata.network} for {metadata.game} "
            f"(layer_norm {metadata.layer_norm}), and the run wants a {config.network} for {task.name} "
            f"(layer_norm {config.uses_layer_norm})"
        )
    if teacher.gives_logits:
        raise UserError(f"init_from: {config.init_from} gives logits; {config.algorithm} learns Q-values")
    if metadata.activation != "relu" or metadata.support:
        what = "a categorical head" if metadata.support else f"{metadata.activation} units"
        raise UserError(f"init_from: {config.init_from} has {what}; {config.algorithm} trains plain networks with relu")
