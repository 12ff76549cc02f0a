"""``pd-jax train-teacher``: the loop around an algorithm; owns files and time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.sections import environment_options
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.seeds import fresh_seed
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.learner.divergence import check_loss, check_weights
from pd_jax.networks.policy import count_params
from pd_jax.resources.pace import Pace
from pd_jax.resources.profiler import profiling
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import MetricsWriter, score_values
from pd_jax.runs.timer import SaveTimer
from pd_jax.system.interrupts import Interrupted, Interrupts
from pd_jax.system.progress import Progress, print_warning
from pd_jax.teachers.files import read_games
from pd_jax.trainers.normalised_score import NormalisedScore
from pd_jax.trainers.setup import ALGORITHMS, TrainingSetup, load_start
from pd_jax.trainers.summary import iteration_numbers, summarise_game, summarise_games
from pd_jax.trainers.teacher_file import FINAL_SEED_OFFSET, run_settings
from pd_jax.trainers.teacher_files import Keepers, Scores, curve_point

_MAY_CHANGE = frozenset(
    {f"{name}.{key}" for name in ALGORITHMS for key in ("total_steps", "learning_rate", "epsilon_end")}
    | {"evaluation", "init_from"}
)
"""What a resumed run may set anew: how long it goes on, how fast it learns and how it is scored."""


@dataclasses.dataclass
class Counters:
    """Where training stands; saved with every checkpoint.

    Attributes:
      env_steps: control steps so far, in all lanes of all games together.
      wall_seconds: spent in all sessions together.
      curve: evaluations so far, as `pd_jax.trainers.teacher_files.curve_point` gives them.
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
    tasks = tuple(get_task(game) for game in config.game)
    config = dataclasses.replace(config, game=tuple(task.name for task in tasks), layer_norm=config.uses_layer_norm)
    subject = TrainingSetup.make(config, tasks)
    memory = subject.memory(config)
    memory.check()
    start_from = None
    # A run that goes on from a checkpoint of its own has no more use for it.
    if config.init_from is not None and not (config.resume and _has_checkpoints(config.out)):
        start_from = load_start(config, tasks)
    with (
        RunDirectory.create(
            config.out,
            "train-teacher",
            run_settings(config),
            resume=config.resume,
            may_change=_MAY_CHANGE,
            check=functools.partial(_check_goes_on, config),
        ) as run,
        Interrupts() as interrupts,
        Progress(f"train {', '.join(config.game)} with {config.algorithm}") as progress,
        Checkpointer(run.checkpoints, keep=config.checkpoint.keep) as checkpointer,
        MetricsWriter(run.path) as metrics,
        profiling(config, run.path, progress.print) as on_stage,
    ):
        training = _Training(config, subject, run, checkpointer, metrics, progress, interrupts, start_from, on_stage)
        memory.tell()
        summary = training.run()
        run.write_summary(summary)
    return summary


class _Training:
    """One process's share of a training, from its newest checkpoint (if any) to its end."""

    def __init__(
        self,
        config: TrainTeacherConfig,
        subject: TrainingSetup,
        run: RunDirectory,
        checkpointer: Checkpointer,
        metrics: MetricsWriter,
        progress: Progress,
        interrupts: Interrupts,
        start_from: Any,
        on_stage: Callable[[str], None],
    ) -> None:
        self.config = config
        self.subject = subject
        self.tasks = subject.student.tasks
        self.run_directory = run
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.progress = progress
        self.interrupts = interrupts
        self.on_stage = on_stage
        self.started = time.monotonic()
        self.pace = Pace()
        self.speed: dict[str, Any] = {}
        """What `Pace.summarise` says once this session has trained."""
        self.algorithm = subject.algorithm
        self.learning = config.learning
        self.remedy = f"resume with a smaller {config.algorithm}.learning_rate"
        self.merit = NormalisedScore(self.tasks)
        for name in self.merit.unknown:
            print_warning(f"{name}: no score to compare with is known; other games decide which weights are kept")
        self.keeper = Keepers(config, self.tasks, subject.networks, run.path)
        self.at = Counters(network=config.network)
        self.state = self._restore_or_init(start_from)
        checkpoint = config.checkpoint
        self.timer = SaveTimer(checkpoint.every_steps, checkpoint.every_seconds, self.at.env_steps)
        self.steps = progress.add("steps", self.learning.total_steps, completed=self.at.env_steps)

    def run(self) -> dict[str, Any]:
        """Trains to the end, picks between the best and the last weights, scores these on fresh starts."""
        if self.at.env_steps < self.learning.total_steps:
            self._train()
        if self.at.best_mean is None or self._last_evaluated != self.at.env_steps:
            self._evaluate_on_the_way()
        return self._finish()

    def _restore_or_init(self, start_from: Any) -> Any:
        state = self.subject.init(self.learning, self.config.seed)
        restored = self.checkpointer.restore(state, network=self.config.network)
        if restored is None:
            self.metrics.truncate_after(-1)
            return state if start_from is None else self.algorithm.warm_start(state, start_from)
        restored_state, metadata, step = restored
        self.at = Counters(**metadata)
        if not self.keeper.path.exists():
            self.at.best_mean = None
        self.metrics.truncate_after(step)
        self.progress.print(f"resumed at step {step:,}, {self.algorithm.resume_note(self.learning)}")
        return jax.tree.map(jnp.asarray, restored_state)

    def _train(self) -> None:
        learning, steps = self.learning, self.config.steps_per_iteration
        seed = fresh_seed(self.config.seed, self.at.env_steps)
        environments = tuple(
            Environment(
                task,
                learning.num_lanes,
                seed,
                episodic_life=learning.episodic_life,
                **environment_options(self.config.env),
            )
            for task in self.tasks
        )
        play = self.subject.start(environments, learning, seed)
        iterate = self.subject.make_iteration(environments, learning)
        try:
            while self.at.env_steps < learning.total_steps:
                started = time.monotonic()
                self.state, play, values = iterate(self.state, play)
                values = jax.device_get(values)
                self.pace.count(steps, time.monotonic() - started, updates=int(values["updates"]))
                if values["updates"]:
                    self.on_stage("training")
                self.at.env_steps += steps
                self._write_metrics(values)
                self.steps.advance(steps)
                is_end = self.at.env_steps >= learning.total_steps
                if is_end or _passed(self._last_evaluated, self.at.env_steps, self.config.evaluation.every_steps):
                    self._evaluate_on_the_way()
                if self.timer.is_due(self.at.env_steps):
                    self._save()
                self.interrupts.check()
            self._save()
            players = list(zip(environments, self.subject.networks, strict=True))
            self.speed = self.pace.summarise(players, self.state.variables)
        except Interrupted:
            # Signals are only heeded between iterations, where the state is whole.
            self._save()
            raise
        finally:
            # EnvPool must not go while a call is stepping it. Lanes that a failed call has consumed are not waited for.
            with contextlib.suppress(RuntimeError):
                jax.block_until_ready(play)
            for environment in environments:
                environment.close()

    @property
    def _last_evaluated(self) -> int:
        return self.at.curve[-1]["env_steps"] if self.at.curve else 0

    def _write_metrics(self, values: dict[str, Any]) -> None:
        numbers, returns = iteration_numbers(values, self.config.game)
        status = "filling the replay"
        if "loss" in numbers:
            check_loss(numbers["loss"], f"step {self.at.env_steps:,}", self.remedy)
            status = f"loss {numbers['loss']:.4f}"
        if returns:
            self.progress.status(f"return {', '.join(f'{value:.1f}' for value in returns)}, {status}")
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
        self.timer.note_saved(self.at.env_steps)

    def _evaluate_on_the_way(self) -> None:
        """Adds a point to the learning curve, and writes the teacher file if it is the best so far."""
        check_weights(self.state.variables, f"step {self.at.env_steps:,}", self.remedy)
        scores = self._score(self.state.variables, self.config.evaluation.progress_episodes)
        merit = self.merit.of(scores)
        values = {name: value for game, own in scores.items() for name, value in score_values(game, own).items()}
        self.metrics.write(self.at.env_steps, values | ({"normalised_score": merit} if len(scores) > 1 else {}))
        # A run that is resumed at its end evaluates again what it may have evaluated before.
        self.at.curve = [other for other in self.at.curve if other["env_steps"] != self.at.env_steps]
        self.at.curve.append(curve_point(self.at.env_steps, scores, merit))
        try:
            if self.at.best_mean is None or merit is None or merit >= self.at.best_mean:
                self.at.best_env_steps = self.at.env_steps
                self._write_teacher(self.state.variables, scores)
                self.at.best_mean = merit
            self.keeper.plot(self.at.curve)
        # A full disk does not end the training: the next point of the curve tries again.
        except UserError as error:
            print_warning(str(error))
        except OSError as error:
            print_warning(f"{error.filename}: cannot be written: {error.strerror}")

    def _finish(self) -> dict[str, Any]:
        params, (best, *_) = read_games(self.keeper.path)
        self.at.best_env_steps = best.env_steps or self.at.env_steps
        variables = {"params": jax.tree.map(jnp.asarray, params)}
        if self.at.best_env_steps != self.at.env_steps:
            # The best of many short evaluations was lucky too; over more games the last weights are often better.
            episodes = self.config.evaluation.episodes
            best_merit = self.merit.of(self._score(variables, episodes))
            last_merit = self.merit.of(self._score(self.state.variables, episodes))
            if best_merit is None or last_merit is None or last_merit >= best_merit:
                self.at.best_env_steps, variables = self.at.env_steps, self.state.variables
        scores = self._score(variables, self.config.evaluation.episodes, FINAL_SEED_OFFSET)
        self._write_teacher(variables, scores, FINAL_SEED_OFFSET)
        cost = {
            "env_steps": self.at.env_steps,
            "teacher_env_steps": self.at.best_env_steps,
            "updates": self.algorithm.updates_done(self.state, self.learning, len(self.tasks)),
            "wall_seconds": self._wall_seconds(),
            "learning_curve": self.at.curve,
            **self.speed,
        }
        summarise = summarise_games if self.subject.is_joint else summarise_game
        return summarise(self.config, str(self.keeper.path), scores, self.merit, count_params(variables)) | cost

    def _score(self, variables: Any, episodes: int, seed_offset: int = 0) -> Scores:
        def on_progress(finished: int, wanted: int) -> None:
            self.progress.status(f"evaluating: {finished} of {wanted} games")
            self.interrupts.check()

        return self.keeper.score(variables, episodes, on_progress, seed_offset=seed_offset)

    def _write_teacher(self, variables: Any, scores: Scores, seed_offset: int = 0) -> None:
        self.keeper.write(
            variables["params"],
            scores,
            env_steps=self.at.best_env_steps,
            curve=self.at.curve,
            seed_offset=seed_offset,
        )


def _check_goes_on(config: TrainTeacherConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError if a run that is resumed has done more than it is now to do."""
    key, wanted = f"{config.algorithm}.total_steps", config.learning.total_steps
    done = max(_saved_steps(config.out), default=0)
    planned = there.get(config.algorithm, {}).get("total_steps", wanted)
    # The last iteration may go beyond what was planned.
    if wanted < planned and wanted < done:
        raise UserError(f"{key}: {wanted:,} is less than the {done:,} steps that the run in {config.out} has behind it")


def _has_checkpoints(out: str) -> bool:
    return bool(_saved_steps(out))


def _saved_steps(out: str) -> list[int]:
    directory = Path(out) / "checkpoints"
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()] if directory.is_dir() else []


def _passed(before: int, after: int, interval: int) -> bool:
    return interval > 0 and after // interval > before // interval
