"""Distillation: play, store, update, checkpoint, evaluate, report. Composes the modules; owns files and time."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax import losses, replay
from pd_jax.checkpoint import Checkpointer
from pd_jax.config import DistillConfig, LossConfig, check_devices, check_network
from pd_jax.config_loading import to_mapping
from pd_jax.dataset import Dataset
from pd_jax.distributed import DeviceGroup
from pd_jax.errors import UserError
from pd_jax.evaluation import EpisodeScores, evaluate
from pd_jax.interrupts import Interrupts
from pd_jax.learner import Learner, LearnerState, LossFunction
from pd_jax.networks import count_params, make_network
from pd_jax.play import LivePlay, Play, RecordedPlay, environment_options
from pd_jax.replay import ReplayState
from pd_jax.reporting.metrics import MetricsWriter, score_values
from pd_jax.reporting.plots import plot_run
from pd_jax.reporting.progress import Progress
from pd_jax.reporting.summary import build_summary, summarise_scores
from pd_jax.reporting.tables import print_summary
from pd_jax.run_directory import RunDirectory
from pd_jax.tasks import Task, get_task
from pd_jax.teachers import Teacher, load

_MAY_CHANGE = frozenset({"schedule.rounds", "evaluation", "learner.num_devices"})
"""What a resumed run may set anew: how long it goes on, how it is scored and on how many devices."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a run needs, checked before anything is written or allocated."""

    config: DistillConfig
    teacher: Teacher
    task: Task
    dataset: Dataset | None
    devices: DeviceGroup
    student: Any
    num_lanes: int

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.schedule.rounds * self.config.schedule.updates_per_round

    @property
    def total_env_steps(self) -> int:
        """Control steps that the whole run stores, in all lanes together."""
        schedule = self.config.schedule
        rollouts = schedule.rounds * self.config.rollouts_per_round
        if self.dataset is not None:
            rollouts = min(rollouts, self.dataset.num_steps // schedule.rollout_length)
        return rollouts * self.config.steps_per_rollout


@dataclasses.dataclass
class Progression:
    """Where a run stands; saved with every checkpoint.

    Attributes:
      updates: done so far.
      env_steps: control steps stored so far, in all lanes together.
      wall_seconds: spent in all sessions together.
      teacher_sha256: of the teacher's file.
      network: the student's.
    """

    updates: int = 0
    env_steps: int = 0
    wall_seconds: float = 0.0
    teacher_sha256: str = ""
    network: str = ""


def make_loss(config: LossConfig, *, teacher_gives_logits: bool) -> LossFunction:
    """The configured loss as a function of student outputs and teacher outputs alone."""
    if config.kind == "nll":
        return losses.nll_loss
    if config.kind == "mse":
        return losses.mse_loss
    temperature = config.temperature_for(teacher_gives_logits=teacher_gives_logits)
    return functools.partial(losses.kl_loss, temperature=temperature)


def prepare(config: DistillConfig) -> Setting:
    """Loads and checks everything a run refers to.

    Raises:
      UserError: the teacher, the game, the data set, the network or the devices do not fit together.
    """
    teacher = load(config.teacher)
    task = get_task(config.game) if config.game is not None else teacher.task
    check_teacher_plays(teacher, task)
    check_network(config.student.network, task, "student.network")
    dataset = None
    num_lanes = config.env.num_lanes
    if config.data is not None:
        dataset = Dataset.open(config.data)
        check_recording(dataset, teacher, task, config)
        num_lanes = dataset.header.num_lanes
        config = dataclasses.replace(config, env=dataclasses.replace(config.env, num_lanes=num_lanes))
    devices = DeviceGroup.local(config.learner.num_devices)
    check_devices(config, devices.size)
    student = make_network(
        config.student.network,
        task.num_actions,
        hidden_sizes=config.student.mlp_hidden,
        compute_dtype=config.student.compute_dtype,
    )
    return Setting(config, teacher, task, dataset, devices, student, num_lanes)


def check_teacher_plays(teacher: Teacher, task: Task) -> None:
    """Raises a UserError unless the teacher was made for this task."""
    if teacher.task.name == task.name:
        return
    if teacher.task.num_actions != task.num_actions:
        raise UserError(
            f"teacher {teacher.source}: plays {teacher.task.name} with {teacher.task.num_actions} actions; "
            f"{task.name} has {task.num_actions}"
        )
    raise UserError(f"teacher {teacher.source}: plays {teacher.task.name}, not {task.name}")


def check_recording(dataset: Dataset, teacher: Teacher, task: Task, config: DistillConfig) -> None:
    """Raises a UserError unless the data set is this teacher's play of this task and holds enough of it."""
    dataset.check_matches(task.name, task.num_actions)
    header, length = dataset.header, config.schedule.rollout_length
    if header.teacher_fingerprint != teacher.sha256:
        raise UserError(
            f"{config.data}: was recorded with the teacher {header.teacher!r} of another fingerprint "
            f"({header.teacher_fingerprint[:12]}) than {teacher.source} ({teacher.sha256[:12]})"
        )
    if dataset.num_steps < length:
        raise UserError(f"{config.data}: holds {dataset.num_steps} steps a lane, less than one rollout ({length})")
    recorded = dataset.num_steps * header.num_lanes
    if config.learner.batch_size > recorded:
        raise UserError(f"{config.data}: holds {recorded} steps, less than learner.batch_size")
    if config.replay.capacity < header.num_lanes * length:
        raise UserError(
            f"replay.capacity: {config.replay.capacity} holds less than one rollout of {config.data}, "
            f"{header.num_lanes * length} steps"
        )


def distill(config: DistillConfig) -> dict[str, Any]:
    """Runs or resumes a distillation, writes its run directory and returns its summary.

    Raises:
      UserError: something the user gave does not fit; nothing was written.
      Interrupted: a signal came; the run was saved.
    """
    setting = prepare(config)
    with RunDirectory.create(
        config.out, "distill", to_mapping(config), resume=config.resume, may_change=_MAY_CHANGE
    ) as run:
        with (
            Interrupts() as interrupts,
            Progress(f"distill {setting.task.name} into {config.student.network}") as progress,
            Checkpointer(run.checkpoints, keep=config.checkpoint.keep, warn=progress.print) as checkpointer,
            MetricsWriter(run.path, warn=progress.print) as metrics,
        ):
            summary = _Session(setting, run, checkpointer, metrics, progress, interrupts).run()
        print_summary(summary)
        print(f"{run.path}: summary.json, progress.png, metrics.jsonl, tb/, checkpoints/")
    return summary


class _Session:
    """One process's share of a run, from its newest checkpoint (if any) to its end."""

    def __init__(
        self,
        setting: Setting,
        run: RunDirectory,
        checkpointer: Checkpointer,
        metrics: MetricsWriter,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        self.setting = setting
        self.config = setting.config
        self.run_directory = run
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.progress = progress
        self.interrupts = interrupts
        self.started = time.monotonic()
        loss = make_loss(self.config.loss, teacher_gives_logits=setting.teacher.gives_logits)
        self.learner = Learner(setting.student, loss, self.config.learner, setting.devices)
        self.state, self.at = self._restore_or_init()
        self.meters = {
            "steps": progress.add("steps", setting.total_env_steps, completed=self.at.env_steps),
            "updates": progress.add("updates", setting.total_updates, completed=self.at.updates),
            "games": progress.add("games", 2 * self.config.evaluation.episodes),
        }
        self.stored = self._empty_replay()
        self.insert = setting.devices.map(replay.insert, donate=(0,))
        self.score: float | None = None

    def run(self) -> dict[str, Any]:
        """Trains to the end, evaluates and reports."""
        if self.at.updates < self.setting.total_updates:
            self._train()
        summary = self._evaluate_both()
        self.run_directory.write_summary(summary)
        plot_run(self.run_directory.metrics_path, summary, self.run_directory.path / "progress.png")
        return summary

    def _restore_or_init(self) -> tuple[LearnerState, Progression]:
        setting = self.setting
        example = np.zeros((1, *setting.task.observation_shape), setting.task.observation_dtype)
        fresh = self.learner.init_single(jax.random.key(self.config.seed), jnp.asarray(example))
        at = Progression(teacher_sha256=setting.teacher.sha256, network=self.config.student.network)
        restored = self.checkpointer.restore(fresh, network=self.config.student.network)
        if restored is None:
            self.metrics.truncate_after(-1)
            return setting.devices.replicate(fresh), at
        state, metadata, step = restored
        at = Progression(**metadata)
        if at.teacher_sha256 != setting.teacher.sha256:
            raise UserError(
                f"{self.run_directory.path}: was begun with another teacher file "
                f"({at.teacher_sha256[:12]}, now {setting.teacher.sha256[:12]})"
            )
        self.metrics.truncate_after(step)
        self.progress.print(f"resumed at update {step:,}")
        return setting.devices.replicate(jax.tree.map(jnp.asarray, state)), at

    def _empty_replay(self) -> ReplayState:
        setting = self.setting
        init = functools.partial(
            replay.init,
            setting.num_lanes // setting.devices.size,
            self.config.capacity_per_lane,
            setting.task.frame_shape,
            setting.task.observation_dtype,
            setting.task.num_actions,
        )
        stored: ReplayState = setting.devices.map(lambda _: init())(np.zeros(setting.devices.size))
        return stored

    def _open_play(self) -> Play:
        setting, config = self.setting, self.config
        if setting.dataset is not None:
            return RecordedPlay(setting.dataset, rollout_length=config.schedule.rollout_length)
        return LivePlay(
            setting.teacher,
            setting.task,
            config.env,
            rollout_length=config.schedule.rollout_length,
            epsilon=config.epsilon,
            # Emulators cannot be saved: a resumed run plays new games rather than the first ones again.
            seed=config.seed + self.at.updates,
        )

    def _train(self) -> None:
        per_round = self.config.schedule.updates_per_round
        first_round, offset = divmod(self.at.updates, per_round)
        play = self._open_play()
        try:
            self._refill(play, first_round, offset)
            for index in range(first_round, self.config.schedule.rounds):
                self.progress.status(f"round {index + 1} of {self.config.schedule.rounds}: play")
                if index > first_round or offset == 0:
                    self.at.env_steps += self._collect(play, 1)
                self._update_until((index + 1) * per_round)
                every = self.config.evaluation.every_rounds
                if every and (index + 1) % every == 0 and index + 1 < self.config.schedule.rounds:
                    self._evaluate_student_on_the_way()
            self._save()
        finally:
            play.close()

    def _refill(self, play: Play, first_round: int, offset: int) -> None:
        """Brings the replay back: from a recording exactly as it was, from live play with fresh episodes."""
        if self.at.updates == 0:
            return
        if self.setting.dataset is not None:
            self._collect(play, first_round + (offset > 0), count=False)
        elif offset > 0 or first_round < self.config.schedule.rounds:
            self.progress.print("the replay starts again with fresh episodes: a live emulator cannot be saved")
            if offset > 0:
                self._collect(play, 1, count=False)

    def _collect(self, play: Play, rounds: int, count: bool = True) -> int:
        """Stores some rounds of play and returns the steps stored; ``count`` says whether they are new to the run."""
        steps = 0
        for trajectory in play.rollouts(rounds * self.config.rollouts_per_round):
            self.stored = self.insert(self.stored, self.setting.devices.split(trajectory, axis=1))
            steps += self.config.steps_per_rollout
            if count:
                self.meters["steps"].advance(self.config.steps_per_rollout)
            self._stop_if_asked()
        if isinstance(play, LivePlay) and play.finished_returns:
            returns, play.finished_returns = play.finished_returns, []
            self.metrics.write(
                self.at.updates, {"teacher_return": float(np.mean(returns)), "teacher_episodes": len(returns)}
            )
        return steps

    def _update_until(self, target: int) -> None:
        calls = list(_calls(self.at.updates, target, self.config.learner.updates_per_call))
        waiting: Callable[[], None] | None = None
        for count in calls:
            self.state, call_metrics = self.learner.update_from_replay(self.state, self.stored, count)
            self.at.updates += count
            # The metrics of the call before are fetched while this one runs.
            if waiting is not None:
                waiting()
            waiting = functools.partial(self._write_metrics, self.at.updates, call_metrics)
            self.meters["updates"].advance(count)
            interval = self.config.checkpoint.every_updates
            if self.at.updates // interval > (self.at.updates - count) // interval:
                waiting()
                waiting = None
                self._save()
            self._stop_if_asked(save=True)
        if waiting is not None:
            waiting()

    def _write_metrics(self, step: int, call_metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in self.setting.devices.first(call_metrics).items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"the loss became {values['loss']} before update {step:,}; the last checkpoint is intact: "
                "resume with a smaller learner.learning_rate or with learner.max_grad_norm in a new --out"
            )
        self.metrics.write(step, values | {"env_steps": self.at.env_steps, "wall_seconds": self._wall_seconds()})
        self.progress.status(f"loss {values['loss']:.4f}, agreement {100 * values['agreement']:.1f} %")

    def _stop_if_asked(self, save: bool = False) -> None:
        if self.interrupts.requested:
            if save:
                self._save()
            self.checkpointer.wait()
        self.interrupts.check()

    def _wall_seconds(self) -> float:
        return self.at.wall_seconds + time.monotonic() - self.started

    def _save(self) -> None:
        metadata = dataclasses.asdict(self.at) | {"wall_seconds": self._wall_seconds()}
        self.checkpointer.save(self.at.updates, self.setting.devices.first(self.state), metadata, self.score)

    def _evaluate_student_on_the_way(self) -> None:
        scores = self._play_games("student", self.config.evaluation.progress_episodes, count=False)
        summary = summarise_scores(scores.returns)
        self.score = summary["mean"]
        self.metrics.write(self.at.updates, score_values(self.setting.task.name, summary))

    def _play_games(self, who: str, episodes: int, count: bool = True) -> EpisodeScores:
        """Scores student or teacher; both meet the same seeds."""
        setting, evaluation = self.setting, self.config.evaluation
        self.progress.status(f"evaluating the {who}")
        options = environment_options(self.config.env)
        if evaluation.max_episode_steps is not None:
            options["max_episode_steps"] = evaluation.max_episode_steps
        before = self.meters["games"].completed

        def on_progress(finished: int, _: int) -> None:
            if count:
                self.meters["games"].set(before + finished)
            self.interrupts.check()

        if who == "student":
            apply, variables = setting.student.apply, setting.devices.first(self.state.variables)
        else:
            apply, variables = setting.teacher.network.apply, setting.teacher.variables
        return evaluate(
            apply,
            variables,
            setting.task,
            episodes=episodes,
            num_lanes=evaluation.num_lanes,
            epsilon=evaluation.epsilon,
            seed=self.config.seed + evaluation.seed_offset,
            environment_options=options,
            on_progress=on_progress,
        )

    def _evaluate_both(self) -> dict[str, Any]:
        setting, episodes = self.setting, self.config.evaluation.episodes
        student = self._play_games("student", episodes)
        teacher = self._play_games("teacher", episodes)
        game, random_score = setting.task.name, setting.task.random_score
        return build_summary(
            {game: teacher.returns},
            {game: student.returns},
            random_scores={} if random_score is None else {game: random_score},
            student_parameters=count_params(self.state.variables) // setting.devices.size,
            teacher_parameters=setting.teacher.num_params,
            wall_seconds=self._wall_seconds(),
            env_steps=self.at.env_steps,
            updates=self.at.updates,
            student_network=self.config.student.network,
            teacher_network=setting.teacher.metadata.network,
            teacher=setting.teacher.metadata.name,
            loss=self.config.loss.kind,
            evaluation_epsilon=self.config.evaluation.epsilon,
            max_noops=self.config.env.max_noops,
            devices=setting.devices.size,
            platform=setting.devices.devices[0].platform,
        )


def _calls(start: int, stop: int, size: int) -> Iterator[int]:
    """Splits updates into calls of ``size`` at fixed places, so that a resumed run makes the very same calls."""
    while start < stop:
        count = min(size, stop - start)
        yield count
        start += count
