"""Distillation: play, store, update, checkpoint, evaluate, report. Composes the modules; owns files and time."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax import replay
from pd_jax.checkpoint import Checkpointer
from pd_jax.config import DistillConfig
from pd_jax.config_loading import to_mapping
from pd_jax.divergence import check_loss, check_weights
from pd_jax.errors import UserError
from pd_jax.evaluation import EpisodeScores, evaluate
from pd_jax.interrupts import Interrupted, Interrupts
from pd_jax.learner import Learner, LearnerState
from pd_jax.networks import count_params
from pd_jax.play import LivePlay, Play, RecordedPlay, action_gap, environment_options, fresh_seed
from pd_jax.preparation import Setting, make_loss, prepare
from pd_jax.progression import Progression
from pd_jax.replay import ReplayState
from pd_jax.reporting.html import write_report
from pd_jax.reporting.metrics import MetricsWriter, score_values
from pd_jax.reporting.plots import plot_run
from pd_jax.reporting.progress import Progress, print_warning
from pd_jax.reporting.summary import build_summary, summarise_scores
from pd_jax.reporting.tables import print_summary
from pd_jax.run_directory import RunDirectory
from pd_jax.teacher_scores import TeacherScore
from pd_jax.teachers import Teacher

_MAY_CHANGE = frozenset({"schedule.rounds", "evaluation", "learner.num_devices", "teacher", "data"})
"""What a resumed run may set anew: how long it goes on, how it is scored, on how many devices, and where its teacher
and recording lie. That they are the same ones is checked by their fingerprints."""
_PROTOCOL = ("epsilon", "seed_offset", "max_episode_steps")
_REMEDY = "begin again in a new --out, with a smaller learner.learning_rate or with learner.max_grad_norm"


def distill(
    config: DistillConfig, teacher: Teacher | None = None, teacher_scores: Mapping[str, TeacherScore] | None = None
) -> dict[str, Any]:
    """Runs or resumes a distillation, writes its run directory and returns its summary.

    Args:
      config: the run's.
      teacher: who plays instead of the teacher that the configuration names, whose name is then only a label.
      teacher_scores: by game, what the teacher is known to score under this run's protocol, and is not asked again.

    Raises:
      UserError: something the user gave does not fit, and nothing was written; or the training diverged.
      Interrupted: a signal came; the run was saved.
    """
    setting = prepare(config, teacher, teacher_scores)
    with RunDirectory.create(
        config.out,
        "distill",
        to_mapping(setting.config),
        resume=config.resume,
        may_change=_MAY_CHANGE,
        check=functools.partial(_check_resumed, config),
    ) as run:
        with (
            Interrupts() as interrupts,
            Progress(f"distill {setting.task.name} into {config.student.network}") as progress,
            Checkpointer(run.checkpoints, keep=config.checkpoint.keep) as checkpointer,
            MetricsWriter(run.path) as metrics,
        ):
            summary = _Session(setting, run, checkpointer, metrics, progress, interrupts).run()
        print_summary(summary)
        print(f"{run.path}: summary.json, report.html, progress.png, metrics.jsonl, tb/, checkpoints/")
    return summary


def _check_resumed(config: DistillConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError for changes to a resumed run that would spoil what it has done so far."""
    evaluation = there["evaluation"]
    for name in _PROTOCOL if evaluation["every_rounds"] and config.evaluation.every_rounds else ():
        if getattr(config.evaluation, name) != evaluation[name]:
            raise UserError(
                f"evaluation.{name}: is {evaluation[name]} in {config.out}, whose scores on the way are to be "
                "compared; keep it, or choose another --out"
            )
    before, now = there["schedule"]["rounds"], config.schedule.rounds
    if now < before:
        raise UserError(f"schedule.rounds: {now} is less than {config.out} has ({before})")
    if now > before and config.learner.learning_rate_decay:
        raise UserError(
            f"schedule.rounds: {now} is more than {config.out} has ({before}), and its learning rate falls to 0 over "
            "these; choose another --out"
        )


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
        self.plot_path = run.path / "progress.png"
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.progress = progress
        self.interrupts = interrupts
        self.started = time.monotonic()
        loss = make_loss(self.config.loss, teacher_gives_logits=setting.teacher.gives_logits)
        self.learner = Learner(
            setting.student, loss, self.config.learner, setting.devices, total_updates=setting.total_updates
        )
        self.state, self.at = self._restore_or_init()
        self.saved_updates = self.at.updates
        self.total_env_steps = setting.total_env_steps(self.at.recorded_steps)
        self.steps = progress.add("steps", self.total_env_steps, completed=self.at.env_steps)
        self.updates = progress.add("updates", setting.total_updates, completed=self.at.updates)
        self.games = progress.add("games", self.config.evaluation.episodes)
        self.stored = self._empty_replay()
        self.insert = setting.devices.map(replay.insert, donate=(0,))
        self.play_values: dict[str, float] = {}
        """About the teacher's play since the last line of metrics."""
        self.unwritten: tuple[dict[str, jax.Array], dict[str, float]] | None = None
        """Metrics of the call that ended at ``at.updates``, on the devices and beside them, until they are fetched."""

    def run(self) -> dict[str, Any]:
        """Trains to the end, evaluates and reports."""
        if self.at.updates < self.setting.total_updates:
            # The scores of a run that is taken further are no longer its scores.
            for path in (self.run_directory.summary_path, self.run_directory.report_path, self.plot_path):
                path.unlink(missing_ok=True)
            self._train()
        summary = self._evaluate_both()
        self.run_directory.write_summary(summary)
        self._draw(summary)
        return summary

    def _draw(self, summary: dict[str, Any]) -> None:
        run = self.run_directory
        title = f"{self.setting.task.name} into {self.config.student.network}"
        plot = functools.partial(plot_run, run.metrics_path, summary, self.plot_path)
        page = functools.partial(
            write_report, run.report_path, title, summary, picture=self.plot_path, config=run.config_path
        )
        for path, draw in ((self.plot_path, plot), (run.report_path, page)):
            try:
                draw()
            except OSError as error:
                # The scores are known and written; they are not given up for a picture of them.
                print_warning(f"{path}: cannot be written: {error.strerror}")

    def _restore_or_init(self) -> tuple[LearnerState, Progression]:
        setting, network = self.setting, self.config.student.network
        example = np.zeros((1, *setting.task.observation_shape), setting.task.observation_dtype)
        fresh = self.learner.init_single(jax.random.key(self.config.seed), jnp.asarray(example))
        restored = self.checkpointer.restore(fresh, network=network)
        if restored is None:
            self.metrics.truncate_after(-1)
            at = Progression(teacher_sha256=setting.teacher.sha256, network=network)
            if setting.dataset is not None:
                at.recording, at.recorded_steps = setting.dataset.header.identity, setting.dataset.num_steps
            return setting.devices.replicate(fresh), at
        state, metadata, step = restored
        at = Progression(**metadata)
        if at.teacher_sha256 != setting.teacher.sha256:
            raise UserError(
                f"{self.run_directory.path}: was begun with another teacher file "
                f"({at.teacher_sha256[:12]}, now {setting.teacher.sha256[:12]})"
            )
        self._check_recording(at)
        self.metrics.truncate_after(step)
        self.progress.print(f"resumed at update {step:,}")
        return setting.devices.replicate(jax.tree.map(jnp.asarray, state)), at

    def _check_recording(self, at: Progression) -> None:
        dataset, path = self.setting.dataset, self.run_directory.path
        if at.recording != (dataset.header.identity if dataset is not None else ""):
            begun = "live play" if not at.recording else "another recording"
            raise UserError(f"{path}: was begun with {begun}, not with {self.config.data or 'live play'}")
        if dataset is not None and dataset.num_steps < at.recorded_steps:
            raise UserError(
                f"{self.config.data}: holds {dataset.num_steps} steps a lane; {path} was begun with {at.recorded_steps}"
            )

    def _empty_replay(self) -> ReplayState:
        setting = self.setting
        init = functools.partial(
            replay.init,
            self.config.env.num_lanes // setting.devices.size,
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
            return RecordedPlay(
                setting.dataset, rollout_length=config.schedule.rollout_length, num_steps=self.at.recorded_steps
            )
        return LivePlay(
            setting.teacher,
            setting.task,
            config.env,
            rollout_length=config.schedule.rollout_length,
            epsilon=config.epsilon,
            seed=fresh_seed(config.seed, self.at.env_steps),
        )

    def _train(self) -> None:
        schedule = self.config.schedule
        first_round, offset = divmod(self.at.updates, schedule.updates_per_round)
        wanted = schedule.rounds * self.config.rollouts_per_round * self.config.steps_per_rollout
        if self.total_env_steps < wanted:
            self.progress.print(
                f"{self.config.data} holds {self.total_env_steps:,} of the {wanted:,} steps of the schedule; "
                "once it is used up, the updates go on with what the replay holds"
            )
        play = self._open_play()
        try:
            if self.at.updates > 0:
                self._refill(play, first_round, in_mid_round=offset > 0)
            for index in range(first_round, schedule.rounds):
                self.progress.status(f"round {index + 1} of {schedule.rounds}: play")
                if index > first_round or offset == 0:
                    self.at.env_steps += self._collect(play, rounds=1, is_new=True)
                self._update_until((index + 1) * schedule.updates_per_round)
                self._end_round(index + 1)
            self._save()
        except Interrupted:
            # Signals are only heeded between calls, where the state is whole.
            self._save()
            raise
        finally:
            play.close()

    def _refill(self, play: Play, first_round: int, *, in_mid_round: bool) -> None:
        """Brings the replay back: from a recording exactly as it was, from live play with fresh episodes."""
        if isinstance(play, RecordedPlay):
            self._collect(play, rounds=first_round + in_mid_round, is_new=False)
            return
        self.progress.print("the replay starts again with fresh episodes: a live emulator cannot be saved")
        if in_mid_round:
            self._collect(play, rounds=1, is_new=False)

    def _collect(self, play: Play, *, rounds: int, is_new: bool) -> int:
        """Stores some rounds of play and returns the steps stored; ``is_new`` if the run has not counted them yet."""
        steps, trajectory = 0, None
        self.steps.reset(completed=self.steps.completed)
        for trajectory in play.rollouts(rounds * self.config.rollouts_per_round):
            self.stored = self.insert(self.stored, self.setting.devices.split(trajectory, axis=1))
            steps += self.config.steps_per_rollout
            if is_new:
                self.steps.advance(self.config.steps_per_rollout)
            self.interrupts.check()
        if isinstance(play, LivePlay) and play.finished_returns:
            returns, play.finished_returns = play.finished_returns, []
            self.play_values = {"teacher_return": float(np.mean(returns)), "teacher_episodes": len(returns)}
        if is_new and trajectory is not None and (gap := action_gap(trajectory)) is not None:
            self.play_values["teacher_action_gap"] = gap
        return steps

    def _update_until(self, target: int) -> None:
        """Updates in calls of a fixed size from the round's start on: a resumed run makes the very same calls."""
        self.updates.reset(completed=self.at.updates)
        while self.at.updates < target:
            count = min(self._call_size, target - self.at.updates)
            self.state, metrics = self.learner.update_from_replay(self.state, self.stored, count)
            # Those of the call before are fetched while this one runs.
            self._write_metrics()
            self.at.updates += count
            beside = {
                "learning_rate": self.config.learner.learning_rate_after(self.at.updates, self.setting.total_updates),
                "env_steps": self.at.env_steps,
                "wall_seconds": self._wall_seconds(),
            }
            self.unwritten = metrics, self.play_values | beside
            self.play_values = {}
            if self.at.updates < target:
                self._save_if_due()
            self.interrupts.check()

    @property
    def _call_size(self) -> int:
        """Updates per call; no more than a crash may cost."""
        return min(self.config.learner.updates_per_call, self.config.checkpoint.every_updates)

    def _end_round(self, rounds: int) -> None:
        """Evaluates on the way, if it is time to, and saves, so that a checkpoint has the score of its own weights."""
        every = self.config.evaluation.every_rounds
        if not every or rounds % every or rounds == self.config.schedule.rounds:
            self._save_if_due()
            return
        self._write_metrics()
        scores = summarise_scores(self._play_games("student", self.config.evaluation.progress_episodes).returns)
        self.metrics.write(self.at.updates, score_values(self.setting.task.name, scores))
        self._save(scores["mean"])

    def _write_metrics(self) -> None:
        if self.unwritten is None:
            return
        metrics, more = self.unwritten
        self.unwritten = None
        values = {name: float(value) for name, value in self.setting.devices.first(metrics).items()}
        # Counted once they are done: a call returns as soon as it is dispatched.
        self.updates.set(self.at.updates)
        check_loss(values["loss"], f"update {self.at.updates:,}", _REMEDY)
        self.metrics.write(self.at.updates, values | more)
        self.progress.status(f"loss {values['loss']:.4f}, agreement {100 * values['agreement']:.1f} %")

    def _wall_seconds(self) -> float:
        return self.at.wall_seconds + time.monotonic() - self.started

    def _save_if_due(self) -> None:
        interval = self.config.checkpoint.every_updates
        if self.at.updates // interval > self.saved_updates // interval:
            self._save()

    def _save(self, score: float | None = None) -> None:
        self._write_metrics()
        state = self.setting.devices.first(self.state)
        check_weights(state.variables, f"update {self.at.updates:,}", _REMEDY)
        metadata = dataclasses.asdict(self.at) | {"wall_seconds": self._wall_seconds()}
        self.checkpointer.save(self.at.updates, state, metadata, score)
        self.saved_updates = self.at.updates

    def _play_games(self, who: str, episodes: int) -> EpisodeScores:
        """Scores student or teacher; both meet the same seeds."""
        setting, evaluation = self.setting, self.config.evaluation
        self.progress.status(f"evaluating the {who}")
        self.games.reset(episodes)
        options = environment_options(self.config.env)
        if evaluation.max_episode_steps is not None:
            options["max_episode_steps"] = evaluation.max_episode_steps

        def on_progress(finished: int, wanted: int) -> None:
            self.games.total = wanted
            self.games.set(finished)
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
        known = setting.teacher_score
        teacher = self._play_games("teacher", episodes).returns if known is None else known.scores
        game, random_score = setting.task.name, setting.task.random_score
        return build_summary(
            {game: teacher},
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
