"""Distillation: play, store, update, checkpoint, evaluate, report. Composes the modules; owns files and time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.actors.rollout import ActingStudent
from pd_jax.config.distill import DistillConfig
from pd_jax.distill.counters import Counters
from pd_jax.distill.experience import ExperienceLike, Lessons, UnsoundTeacherError
from pd_jax.distill.replay_checkpoint import ReplayKeeper
from pd_jax.distill.scorer import Scorer
from pd_jax.distill.setup import DistillSetup, make_divergence, make_loss, make_setup, open_distill_run
from pd_jax.distill.summary import draw_distillation, game_values, summarise_distillation
from pd_jax.errors import UserError
from pd_jax.evaluation.teacher_scores import TeacherScore
from pd_jax.learner.divergence import DivergenceError, check_loss, check_weights
from pd_jax.learner.learner import Learner, LearnerState
from pd_jax.networks.policy import count_params
from pd_jax.report.terminal import print_summary
from pd_jax.resources.ledger import SCORING, Ledger
from pd_jax.resources.profiler import profiling
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.diverged import keep_for_inspection
from pd_jax.runs.metrics import MetricsWriter, NoMetrics
from pd_jax.runs.timer import SaveTimer
from pd_jax.system import hosts
from pd_jax.system.interrupts import Interrupted, Interrupts
from pd_jax.system.progress import Progress, print_warning
from pd_jax.teachers import Teacher

_REMEDY = "begin again in a new --out, with a smaller learner.learning_rate or with learner.max_grad_norm"
FetchMetrics = Callable[[], Mapping[str, jax.Array | np.ndarray]]
"""Gives the metrics of a call, without a device axis; waits for the call to end."""


def distill(
    config: DistillConfig,
    teacher: Teacher | Sequence[Teacher] | None = None,
    teacher_scores: Mapping[str, TeacherScore] | None = None,
    *,
    tells_memory: bool = True,
) -> dict[str, Any]:
    """Runs or resumes a distillation, writes its run directory and returns its summary.

    Args:
      config: the run's.
      teacher: who plays instead of the teacher that the configuration names, whose name is then only a label; several
        in the order of their names.
      teacher_scores: by game, what teachers are known to score under this run's protocol; these are not asked again.
      tells_memory: whether to print what memory the run takes.

    Raises:
      UserError: something the user gave does not fit, and nothing was written; or the training diverged, or a teacher's
        outputs became NaN and the run could not go on without it.
      Interrupted: a signal came; the run was saved.
    """
    setting = make_setup(config, teacher, teacher_scores)
    with open_distill_run(setting) as run:
        if not hosts.is_primary():
            # Checkpoints are opened once process 0 has made the directory and tidied it.
            hosts.for_all(lambda among: among.wait_for_primary("directory"))
            hosts.wait_for_shared(run.config_path)
            hosts.log_to_file(run.path)
        with (
            Interrupts() as interrupts,
            Progress(f"distill {setting.title}") as progress,
            Checkpointer(run.checkpoints, keep=config.checkpoint.keep) as checkpointer,
            MetricsWriter(run.path) if hosts.is_primary() else NoMetrics() as metrics,
            profiling(config, run.path, progress.print) as on_stage,
        ):
            hosts.for_all(lambda among: among.wait_for_primary("directory"))
            session = Session(setting, run, checkpointer, metrics, progress, interrupts, Ledger(on_stage))
            if tells_memory:
                setting.memory.tell()
            summary = session.run()
        hosts.for_all(lambda among: among.wait_for_primary("end"))
        if hosts.is_primary():
            print_summary(summary)
            print(f"{run.path}: summary.json, report.html, progress.png, metrics.jsonl, tb/, checkpoints/")
    return summary


def next_call(training: Generator[int, FetchMetrics, None], fetch_metrics: FetchMetrics) -> int | None:
    """How many updates :meth:`Session.training` asks for after those that gave these metrics; None at its end."""
    try:
        return training.send(fetch_metrics)
    except StopIteration:
        return None


class Session:
    """One process's share of a run, from its newest checkpoint (if any) to its end.

    :meth:`run` is all of it. Whoever trains several students in one program calls :meth:`forget_state`, drives
    :meth:`training` and ends with :meth:`finish`.

    Attributes:
      at: where the run stands.
      first_state: gives the newest state, without a device axis.
      steps: meter of the play.
      ledger: where the time goes.
    """

    def __init__(
        self,
        setting: DistillSetup,
        run: RunDirectory,
        checkpointer: Checkpointer,
        metrics: MetricsWriter | NoMetrics,
        progress: Progress,
        interrupts: Interrupts,
        ledger: Ledger,
    ) -> None:
        self.setting = setting
        self.config = setting.config
        self.run_directory = run
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.progress = progress
        self.interrupts = interrupts
        self.ledger = ledger
        self.started = time.monotonic()
        self.learner = Learner(
            setting.student,
            make_loss(setting),
            self.config.learner,
            setting.devices,
            total_updates=setting.total_updates,
            divergence=make_divergence(setting) if len(setting.tasks) > 1 else None,
        )
        self.roll_backs_here = 0
        """Of this process; ``at.roll_backs`` counts those of all sessions."""
        self._state: Any
        self._state, self.at = self._restore_or_init()
        self.first_state: Callable[[], LearnerState] = lambda: setting.devices.first(self._state)
        checkpoint = self.config.checkpoint
        self.timer = SaveTimer(checkpoint.every_updates, checkpoint.every_seconds, self.at.updates)
        self.replays: ReplayKeeper | None = None
        self.total_env_steps = setting.total_env_steps([game.recorded_steps for game in self.at.games])
        self.steps = progress.add("steps", sum(self.total_env_steps), completed=self.at.env_steps)
        self.updates = progress.add("updates", setting.total_updates, completed=self.at.updates)
        self.scorer = Scorer(setting, progress, interrupts)
        self.unwritten: tuple[FetchMetrics, dict[str, float]] | None = None
        """Metrics of the call that ended at ``at.updates``, on the devices and beside them, until they are fetched."""

    def run(self) -> dict[str, Any]:
        """Trains to the end, evaluates and reports."""
        while not self.is_trained:
            try:
                self._train()
            except DivergenceError as error:
                self._roll_back(error)
        return self.finish()

    def _train(self) -> None:
        lessons = Lessons(self.setting, self.at.games, self.steps, self.interrupts, self.ledger)
        with contextlib.ExitStack() as stack:
            if self.config.checkpoint.replay:
                self.replays = ReplayKeeper(self.run_directory.path, lessons, self.setting.devices, self.at.updates)
                stack.callback(setattr, self, "replays", None)
                stack.callback(self.replays.close)
            training = stack.enter_context(contextlib.closing(self.training(lessons)))
            count = next(training, None)
            while count is not None:
                state, games, update = self._state, lessons.games, self.learner.update_from_replay
                self._state, metrics = self.ledger.update(partial(update, state, lessons.stored, count, games))
                count = next_call(training, partial(self.setting.devices.first, metrics))

    def _roll_back(self, error: DivergenceError) -> None:
        """Goes back to the newest checkpoint, or raises the error if that is not wanted, or not any more."""
        checkpoint, roll_backs = self.config.checkpoint, self.at.roll_backs + 1
        if checkpoint.on_divergence == "stop":
            raise error
        if roll_backs > checkpoint.max_roll_backs:
            raise UserError(f"{error}; it was rolled back {checkpoint.max_roll_backs} times before") from error
        print_warning(f"{error}; rolls back, {roll_backs} of at most {checkpoint.max_roll_backs} times")
        self.unwritten = None
        self.roll_backs_here += 1
        state, self.at = self._restore_or_init()
        self.at.roll_backs = roll_backs
        # Other minibatches than those that led there.
        key = jax.vmap(lambda key: jax.random.fold_in(key, roll_backs))(state.key)
        self._state = dataclasses.replace(state, key=key)
        self.timer.note_saved(self.at.updates)
        self.steps.reset(completed=self.at.env_steps)

    def forget_state(self, first_state: Callable[[], LearnerState]) -> None:
        """Lets go of the state, which whoever drives the training keeps from now on; ``first_state`` gives it."""
        self._state, self.first_state = None, first_state

    @property
    def is_trained(self) -> bool:
        """Whether all updates are done."""
        return self.at.updates >= self.setting.total_updates

    def finish(self) -> dict[str, Any]:
        """Evaluates and reports; process 0 does, and the others have nothing to say."""
        if not hosts.is_primary():
            return {}
        variables = self.first_state().variables
        teacher, student = self.scorer.score_both(variables)
        summary = summarise_distillation(
            self.setting, self.at, teacher, student, count_params(variables), self._wall_seconds()
        )
        if self.at.updates not in self.checkpointer.steps() and hosts.current() is None:
            # A disk that was full at the end of the training may have room by now.
            self._save()
        summary |= self.ledger.summarise()
        self.run_directory.write_summary(summary)
        draw_distillation(self.run_directory, self.setting.title, summary)
        return summary

    def _restore_or_init(self) -> tuple[LearnerState, Counters]:
        setting = self.setting
        fresh = self.learner.init_single(jax.random.key(self.config.seed))
        restored = self.checkpointer.restore(fresh, network=setting.network)
        if restored is None:
            self._check_same_start(0)
            self.metrics.truncate_after(-1)
            return setting.devices.replicate(fresh), Counters.begin(setting)
        state, metadata, step = restored
        self._check_same_start(step)
        at = Counters.from_metadata(metadata)
        at.check_goes_on(setting, self.run_directory.path)
        self.metrics.truncate_after(step)
        self.progress.print(f"resumed at update {step:,}")
        return setting.devices.replicate(jax.tree.map(jnp.asarray, state)), at

    def _check_same_start(self, step: int) -> None:
        problem = f"{self.run_directory.path}: processes begin at different updates; it must be a directory they share"
        hosts.for_all(lambda among: among.check_same(self._once("start"), str(step), problem))

    def _once(self, words: str) -> str:
        """Words that processes tell each other, which must not come up again after a roll-back."""
        return f"{words} of attempt {self.roll_backs_here}"

    def training(self, lessons: ExperienceLike) -> Generator[int, FetchMetrics, None]:
        """Trains to the end, leaving the updates themselves to whoever drives this.

        Args:
          lessons: what is learnt from.

        Yields:
          how many updates are to be done now; it is to be sent what gives the metrics of these.
        """
        schedule = self.config.schedule
        first_round, offset = divmod(self.at.updates, schedule.updates_per_round)
        self._tell_of_short_recordings()
        lessons.open()
        try:
            if isinstance(lessons, Lessons) and lessons.games is None and hosts.current() is None:
                # While XLA compiles the play, which EnvPool has done anew in every process.
                self.learner.compile_ahead(self._state, lessons.stored, self._call_size)
            if self.at.updates > 0:
                self._let_student_act(first_round, lessons)
                if self.replays is not None and self.replays.restore(self.at.updates):
                    self.progress.print("the replay is as it was; the play goes on with fresh episodes")
                else:
                    lessons.refill(first_round, in_mid_round=offset > 0, say=self.progress.print)
            for index in range(first_round, schedule.rounds):
                self.ledger.begin_round(index)
                self.progress.status(f"round {index + 1} of {schedule.rounds}: play")
                if index > first_round or offset == 0:
                    self._let_student_act(index, lessons)
                    lessons.play_round()
                # Here, and not in the next all-reduce, whose patience is shorter than a slow emulator's.
                hosts.wait_for_all(self._once(f"play of round {index}"))
                if hosts.is_primary():
                    # Not before: a run that finds nothing more to learn from keeps its results.
                    self.run_directory.remove_results()
                if index + 1 < schedule.rounds:
                    lessons.play_ahead()
                yield from self._update_until((index + 1) * schedule.updates_per_round, lessons)
                self._end_round(index + 1)
            self._save()
        except DivergenceError as error:
            kept = keep_for_inspection(
                self.run_directory.path, self.at.updates, self.first_state(), dataclasses.asdict(self.at)
            )
            raise DivergenceError(f"{error}; the state is kept in {kept}") from error
        except UnsoundTeacherError as error:
            if hosts.current() is None:
                self._save()
            # Of several processes only this one knows, and a checkpoint takes them all.
            raise UserError(f"{error}; {self.run_directory.path} is saved at update {self.timer.saved:,}") from error
        except Interrupted:
            # Signals are only heeded between calls, where the state is whole. Of several processes one may stop alone
            # while it evaluates, and a checkpoint takes them all.
            if (among := hosts.current()) is None or among.leaving:
                self._save()
            raise
        finally:
            lessons.close()

    def _let_student_act(self, finished_rounds: int, lessons: ExperienceLike) -> None:
        """Hands the student as it is now to the play, if its actions are to be played."""
        behaviour = self.config.behaviour
        if behaviour.student_acts:
            # Students that train together learn from a recording.
            assert isinstance(lessons, Lessons)
            share = behaviour.student_share(finished_rounds, self.config.schedule.rounds)
            lessons.let_act(ActingStudent(self.first_state().variables, share))

    def _tell_of_short_recordings(self) -> None:
        for game, dataset in enumerate(self.setting.datasets):
            config, holds = self.config, self.total_env_steps[game]
            wanted = config.schedule.rounds * config.rollouts_per_round(game) * config.steps_per_rollout(game)
            if dataset is not None and holds < wanted:
                self.progress.print(
                    f"{dataset.path} gives {holds:,} of the {wanted:,} steps of the schedule; "
                    "once it is used up, the updates go on with what the replay holds"
                )

    def _update_until(self, target: int, lessons: ExperienceLike) -> Generator[int, FetchMetrics, None]:
        """Updates in calls of a fixed size from the round's start on: a resumed run makes the very same calls."""
        self.updates.reset(completed=self.at.updates)
        while self.at.updates < target:
            count = min(self._call_size, target - self.at.updates)
            fetch_metrics = yield count
            # Those of the call before are fetched while this one runs.
            self._write_metrics()
            self.at.updates += count
            beside = lessons.take_values() | {
                "learning_rate": self.config.learner.learning_rate_after(self.at.updates, self.setting.total_updates),
                "env_steps": self.at.env_steps,
                "wall_seconds": self._wall_seconds(),
            }
            self.unwritten = fetch_metrics, beside
            if self.at.updates < target and self.timer.is_due_for_all(self.at.updates):
                self._save()
            self.interrupts.check_together()

    @property
    def _call_size(self) -> int:
        """Updates per call; no more than a crash may cost."""
        return min(self.config.learner.updates_per_call, self.config.checkpoint.every_updates)

    def _end_round(self, rounds: int) -> None:
        """Evaluates on the way, if it is time to, and saves, so that a checkpoint has the score of its own weights."""
        evaluation = self.config.evaluation
        every = evaluation.every_rounds
        if not every or rounds % every or rounds == self.config.schedule.rounds:
            if self.timer.is_due(self.at.updates):
                self._save()
            return
        self._write_metrics()
        if not hosts.is_primary():
            # Here, and not in the next all-reduce, whose patience is shorter than an evaluation.
            score = json.loads(hosts.from_primary(self._once(f"score of round {rounds}"), ""))
            self._save(score)
            return
        self._save(self._score(rounds))

    def _score(self, rounds: int) -> float | None:
        """Plays some games on the way."""
        with self.ledger.during(SCORING):
            values, score = self.scorer.score_on_the_way(self.first_state().variables)
        self.metrics.write(self.at.updates, values)
        hosts.from_primary(self._once(f"score of round {rounds}"), json.dumps(score))
        return score

    def _write_metrics(self) -> None:
        if self.unwritten is None:
            return
        fetch_metrics, more = self.unwritten
        self.unwritten = None
        metrics = fetch_metrics()
        values = {name: float(metrics[name]) for name in ("loss", "agreement", "grad_norm")} | game_values(
            self.setting.names, metrics
        )
        # Counted once they are done: a call returns as soon as it is dispatched.
        self.updates.set(self.at.updates)
        check_loss(values["loss"], f"update {self.at.updates:,}", _REMEDY)
        self.metrics.write(self.at.updates, values | more)
        status = f"loss {values['loss']:.4f}", f"agreement {100 * values['agreement']:.1f} %", self.ledger.describe()
        self.progress.status(", ".join(filter(None, status)))

    def _wall_seconds(self) -> float:
        return self.at.wall_seconds + time.monotonic() - self.started

    def _save(self, score: float | None = None) -> None:
        self._write_metrics()
        state = self.first_state()
        check_weights(state.variables, f"update {self.at.updates:,}", _REMEDY)
        metadata = dataclasses.asdict(self.at) | {"wall_seconds": self._wall_seconds()}
        self.checkpointer.save(self.at.updates, state, metadata, score)
        if self.replays is not None:
            self.replays.save(self.at.updates)
        self.timer.note_saved(self.at.updates)
