"""Online distillation: a teacher that goes on learning, and a student that learns from it meanwhile.

Round by round, in one direction: the teacher learns, its score says whether it is the best snapshot so far, the target
(that snapshot, or the teacher as it is) plays and labels, the student learns from what is stored (as Rusu et al. 2016
distil online). Composes the modules; owns files and time.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.online import OnlineConfig
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.experience import Lessons, UnsoundTeacherError
from pd_jax.distill.setup import make_loss
from pd_jax.environments.seeds import fresh_seed
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import EpisodeScores
from pd_jax.evaluation.protocol import play_games
from pd_jax.evaluation.statistics import summarise_scores
from pd_jax.learner.divergence import check_loss, check_weights
from pd_jax.learner.learner import Learner, LearnerState
from pd_jax.networks.policy import count_params
from pd_jax.online.labels import Labels
from pd_jax.online.setup import OnlineSetup, make_online_setup, open_online_run
from pd_jax.online.state import OnlineCounters, OnlineState
from pd_jax.online.summary import keep_target, summarise_online
from pd_jax.report.online_figure import online_score_values, plot_online
from pd_jax.report.page import write_report
from pd_jax.report.terminal import describe_score, print_summary
from pd_jax.resources.ledger import SCORING, TEACHER, Ledger
from pd_jax.resources.profiler import profiling
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import MetricsWriter
from pd_jax.runs.timer import SaveTimer
from pd_jax.system.interrupts import Interrupted, Interrupts
from pd_jax.system.progress import Progress, warn_if_unwritable
from pd_jax.trainers.learning_teacher import LearningTeacher, snapshot
from pd_jax.trainers.teacher_file import FINAL_SEED_OFFSET

COMPARISON_SEED_OFFSET = FINAL_SEED_OFFSET // 2
"""Where the target's and the student's games on the way start. The best snapshot was the luckiest, too, in the games
that chose it; in others it owes nothing to luck, and neither do the final games."""
_REMEDY = "begin again in a new --out, with a smaller learner.learning_rate or with learner.max_grad_norm"


def online(config: OnlineConfig) -> dict[str, Any]:
    """Runs or resumes an online distillation, writes its run directory and returns its summary.

    Raises:
      UserError: something the user gave does not fit, and nothing was written; or one of the two diverged.
      Interrupted: a signal came; the run was saved.
    """
    setting = make_online_setup(config)
    title = f"{setting.task.name} into {setting.config.student.network}"
    with open_online_run(setting) as run:
        with (
            Interrupts() as interrupts,
            Progress(f"online {title}") as progress,
            Checkpointer(run.checkpoints, keep=config.checkpoint.keep) as checkpointer,
            MetricsWriter(run.path) as metrics,
            profiling(config, run.path, progress.print) as on_stage,
        ):
            session = _Session(setting, run, checkpointer, metrics, progress, interrupts, Ledger(on_stage))
            setting.student_setup.memory.tell()
            summary = session.run()
        print_summary(summary)
        game = summary["games"][setting.task.name]
        print(f"  {describe_score('the teacher as it is now', game, 'latest_teacher')}")
        print(f"{run.path}: summary.json, report.html, progress.png, teacher.safetensors, metrics.jsonl, checkpoints/")
    return summary


class _Session:
    """One process's share of a run, from its newest checkpoint (if any) to its end."""

    def __init__(
        self,
        setting: OnlineSetup,
        run: RunDirectory,
        checkpointer: Checkpointer,
        metrics: MetricsWriter,
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
        student_setup = setting.student_setup
        self.devices = student_setup.devices
        self.learner = Learner(
            student_setup.student,
            make_loss(student_setup),
            self.config.learner,
            self.devices,
            total_updates=student_setup.total_updates,
        )
        self.at = OnlineCounters(network=setting.label, play=GameCounters(name=setting.task.name))
        state = self._restore_or_init()
        self.student: LearnerState = self.devices.replicate(state.student)
        setting.target.variables = state.target
        self.teacher = LearningTeacher(setting.network, setting.task, self.config.pqn, self.config.env, state.teacher)
        checkpoint = self.config.checkpoint
        self.timer = SaveTimer(checkpoint.every_updates, checkpoint.every_seconds, self.at.updates)
        (play_steps,) = student_setup.total_env_steps([0])
        taught = self.config.teacher_steps_after(self.config.schedule.rounds)
        self.taught = progress.add("teacher", taught, completed=self.at.teacher_env_steps)
        steps = progress.add("steps", play_steps, completed=self.at.play.env_steps)
        self.updates = progress.add("updates", student_setup.total_updates, completed=self.at.updates)
        self.games = progress.add("games", self.config.evaluation.episodes)
        self.lessons = Lessons(student_setup, [self.at.play], steps, interrupts, ledger)
        self.labels = Labels(self.config, setting.network.apply, self.devices, self.at.relabelling)
        self.unwritten: tuple[dict[str, jax.Array], dict[str, float]] | None = None
        """Metrics of the call that ended at ``at.updates``, on the devices and beside them, until they are fetched."""

    def run(self) -> dict[str, Any]:
        """Trains to the end, evaluates and reports."""
        run = self.run_directory
        if self.at.student_scored < self.config.schedule.rounds:
            self._train()
        summary = self._summarise() | self.ledger.summarise()
        run.write_summary(summary)
        self._draw(summary)
        with warn_if_unwritable(run.report_path):
            title = f"{self.setting.task.name} into {self.config.student.network}, online"
            write_report(run.report_path, title, summary, picture=run.plot_path, config=run.config_path)
        return summary

    def _restore_or_init(self) -> OnlineState:
        setting = self.setting
        teacher = setting.init_teacher()
        # Not the teacher's key: the two networks may be alike.
        student = self.learner.init_single(jax.random.fold_in(jax.random.key(self.config.seed), 1))
        fresh = OnlineState(teacher, student, snapshot(teacher.variables))
        restored = self.checkpointer.restore(fresh, network=setting.label)
        if restored is None:
            self.metrics.truncate_after(-1)
            return fresh
        state, metadata, step = restored
        self.at = OnlineCounters.from_metadata(metadata)
        self.metrics.truncate_after(step)
        self.progress.print(
            f"resumed at step {self.at.teacher_env_steps:,} of the teacher's and update {self.at.updates:,}; "
            "the teacher plays on with fresh episodes"
        )
        arrays: OnlineState = jax.tree.map(jnp.asarray, state)
        return arrays

    def _train(self) -> None:
        schedule = self.config.schedule
        first_round, offset = divmod(self.at.updates, schedule.updates_per_round)
        try:
            # The target's emulators have the run's seed; the teacher's are the second game's, so to speak.
            self.teacher.open(fresh_seed(self.config.seed, self.at.teacher_env_steps, game=1))
            self.lessons.open()
            if self.at.teacher_scored < 0:
                self._score_teacher(0)
                self._write_scores()
            if offset == 0 and first_round > max(0, self.at.student_scored):
                self._end_round(first_round)
            if self.at.updates > 0:
                self._refill(first_round, in_mid_round=offset > 0)
            for index in range(first_round, schedule.rounds):
                self.ledger.begin_round(index)
                if index > first_round or offset == 0:
                    self._teach(index + 1)
                    self._choose_target(index + 1)
                    self._play(index + 1)
                # Not before: a run that finds nothing more to learn from keeps its results.
                self.run_directory.remove_results()
                self.setting.keeper.path.unlink(missing_ok=True)
                self._update_until((index + 1) * schedule.updates_per_round)
                self._end_round(index + 1)
            self._save()
        except UnsoundTeacherError as error:
            self._save()
            raise UserError(f"{error}; {self.run_directory.path} is saved at update {self.at.updates:,}") from error
        except Interrupted:
            # Signals are only heeded between calls, where the state is whole.
            self._save()
            raise
        finally:
            self.lessons.close()
            self.teacher.close()

    def _teach(self, rounds: int) -> None:
        """The teacher learns as much as it is to have learnt after so many rounds."""
        until = self.config.teacher_steps_after(rounds)
        self.taught.reset(completed=self.at.teacher_env_steps)
        while self.at.teacher_env_steps < until:
            self.ledger.on_stage(TEACHER)
            with self.ledger.during(TEACHER):
                numbers = self.teacher.iterate()
            self.at.teacher_env_steps = self.teacher.env_steps
            self.taught.set(self.at.teacher_env_steps)
            self.progress.status(f"round {rounds} of {self.config.schedule.rounds}: the teacher learns")
            # "loss" would be taken for the student's.
            values = {"td_loss" if name == "loss" else name: value for name, value in numbers.items()}
            self._write({f"teacher/{name}": value for name, value in values.items()})
            self.interrupts.check()

    def _choose_target(self, rounds: int) -> None:
        if self._is_due(rounds) and self.at.teacher_scored < rounds:
            self._score_teacher(rounds)
        elif self.config.target == "latest":
            self._set_target()

    def _score_teacher(self, rounds: int) -> None:
        """Adds a point to the teacher's curve, and makes it the target if it is to be."""
        self.teacher.check()
        at, scores = self.at, self._score("teacher", self.config.evaluation.progress_episodes)
        point = {name: scores[name] for name in ("mean", "standard_error", "episodes")}
        # A run that was stopped before it could note that it had scored the teacher scores it again.
        at.curve = [other for other in at.curve if other["env_steps"] != at.teacher_env_steps]
        at.curve.append({"env_steps": at.teacher_env_steps} | point)
        at.scores["teacher"] = scores
        is_best = at.best_mean is None or scores["mean"] > at.best_mean
        if is_best:
            at.best_mean = scores["mean"]
        if self.config.target == "latest":
            self._set_target()
            at.scores["target"] = scores
        elif is_best:
            self._set_target()
        if "target" not in at.scores:
            episodes = self.config.evaluation.progress_episodes
            at.scores["target"] = self._score("target", episodes, COMPARISON_SEED_OFFSET)
        at.teacher_scored = rounds

    def _set_target(self) -> None:
        """The teacher as it is now plays for the student from now on."""
        at, lessons = self.at, self.lessons
        self.teacher.check()
        if at.target_env_steps == at.teacher_env_steps:
            return
        self.setting.target.variables = snapshot(self.teacher.variables)
        at.target_env_steps = at.teacher_env_steps
        at.target_changes += 1
        # They were the one's before.
        at.scores.pop("target", None)
        (stored,) = lessons.stored
        self.progress.status("labelling what is stored anew")
        lessons.stored = (self.labels.renew(stored, self.setting.target.variables, self.interrupts.check),)

    def _play(self, rounds: int) -> None:
        self.progress.status(f"round {rounds} of {self.config.schedule.rounds}: the target plays")
        self.lessons.play_round()
        self._note_play()

    def _refill(self, rounds: int, *, in_mid_round: bool) -> None:
        self.lessons.refill(rounds, in_mid_round=in_mid_round, say=self.progress.print)
        if in_mid_round:
            self._note_play()

    def _note_play(self) -> None:
        (stored,) = self.lessons.stored
        length = self.config.distillation.rollouts_per_round() * self.config.schedule.rollout_length
        self.lessons.stored = (self.labels.played(stored, length),)

    def _update_until(self, target: int) -> None:
        """Updates in calls of a fixed size from the round's start on: a resumed run makes the very same calls."""
        self.updates.reset(completed=self.at.updates)
        total, learner = self.setting.student_setup.total_updates, self.config.learner
        (stored,) = self.lessons.stored
        stale_share = self.labels.stale_share(stored)
        while self.at.updates < target:
            count = min(learner.updates_per_call, self.config.checkpoint.every_updates, target - self.at.updates)
            update = functools.partial(self.learner.update_from_replay, self.student, self.lessons.stored, count)
            self.student, metrics = self.ledger.update(update)
            # Those of the call before are fetched while this one runs.
            self._write_metrics()
            self.at.updates += count
            beside = self.lessons.take_values() | self.labels.take_values()
            beside |= {"learning_rate": learner.learning_rate_after(self.at.updates, total), "stale_share": stale_share}
            self.unwritten = metrics, beside | {"env_steps": self.at.play.env_steps}
            if self.at.updates < target:
                self._save_if_due()
            self.interrupts.check()

    def _write_metrics(self) -> None:
        if self.unwritten is None:
            return
        metrics, beside = self.unwritten
        self.unwritten = None
        metrics = self.devices.first(metrics)
        values = {name: float(metrics[name]) for name in ("loss", "agreement", "grad_norm")}
        # Counted once they are done: a call returns as soon as it is dispatched.
        self.updates.set(self.at.updates)
        check_loss(values["loss"], f"update {self.at.updates:,}", f"the student diverged; {_REMEDY}")
        self._write(values | beside)
        status = f"loss {values['loss']:.4f}", f"agreement {100 * values['agreement']:.1f} %", self.ledger.describe()
        self.progress.status(", ".join(filter(None, status)))

    def _write(self, values: Mapping[str, Any]) -> None:
        """Writes a line of metrics, with where both of them stand."""
        at = self.at
        beside = {
            "updates": at.updates,
            "teacher_env_steps": at.teacher_env_steps,
            "wall_seconds": self._wall_seconds(),
        }
        self.metrics.write(at.step, {**values, **beside})

    def _wall_seconds(self) -> float:
        return self.at.wall_seconds + time.monotonic() - self.started

    def _is_due(self, rounds: int) -> bool:
        """Whether scores on the way are taken after so many rounds; always after the last."""
        return rounds % self.config.evaluation.every_rounds == 0 or rounds == self.config.schedule.rounds

    def _end_round(self, rounds: int) -> None:
        """Scores the student, if it is time to, and saves, so that a checkpoint has the score of its own weights."""
        if not self._is_due(rounds):
            self._save_if_due()
            return
        self._write_metrics()
        scores = self._score("student", self.config.evaluation.progress_episodes, COMPARISON_SEED_OFFSET)
        self.at.scores["student"] = scores
        self.at.student_scored = rounds
        self._write_scores()
        self._save(scores["mean"])
        self._draw()

    def _write_scores(self) -> None:
        values = online_score_values(self.setting.task.name, self.at.scores)
        self._write(values | {"target_env_steps": self.at.target_env_steps, "target_changes": self.at.target_changes})

    def _save_if_due(self) -> None:
        if self.timer.is_due(self.at.updates):
            self._save()

    def _save(self, score: float | None = None) -> None:
        self._write_metrics()
        student = self.devices.first(self.student)
        check_weights(student.variables, f"update {self.at.updates:,}", f"the student diverged; {_REMEDY}")
        self.teacher.check()
        state = OnlineState(self.teacher.state, student, self.setting.target.variables)
        metadata = dataclasses.asdict(self.at) | {"wall_seconds": self._wall_seconds()}
        self.checkpointer.save(self.at.step, state, metadata, score)
        self.timer.note_saved(self.at.updates)

    def _score(self, who: str, episodes: int, seed_offset: int = 0) -> dict[str, Any]:
        with self.ledger.during(SCORING):
            return summarise_scores(self._play_games(who, episodes, seed_offset).returns)

    def _play_games(self, who: str, episodes: int, seed_offset: int) -> EpisodeScores:
        """Whole games of ``teacher``, ``target`` or ``student``."""
        setting = self.setting
        self.progress.status(f"evaluating the {who}")
        self.games.reset(episodes)
        policies: dict[str, tuple[Any, Any]] = {
            "teacher": (setting.network.apply, self.teacher.variables),
            "target": (setting.network.apply, setting.target.variables),
            "student": (setting.student_setup.student.policy(0), self.devices.first(self.student.variables)),
        }
        apply, variables = policies[who]
        return play_games(
            apply,
            variables,
            setting.task,
            self.config.evaluation,
            self.config.env,
            episodes=episodes,
            seed=self.config.seed + seed_offset,
            meter=self.games,
            interrupts=self.interrupts,
        )

    def _summarise(self) -> dict[str, Any]:
        """Scores all three in games that chose nothing, and writes the target's file."""
        at, episodes = self.at, self.config.evaluation.episodes
        returns = {who: self._play_games(who, episodes, FINAL_SEED_OFFSET).returns for who in ("student", "target")}
        returns["teacher"] = returns["target"]
        if at.target_env_steps != at.teacher_env_steps:
            returns["teacher"] = self._play_games("teacher", episodes, FINAL_SEED_OFFSET).returns
        keep_target(self.setting, at, returns["target"])
        return summarise_online(
            self.setting, at, returns, count_params(self.student.variables) // self.devices.size, self._wall_seconds()
        )

    def _draw(self, summary: Mapping[str, Any] | None = None) -> None:
        with warn_if_unwritable(self.run_directory.plot_path):
            plot_online(self.run_directory.metrics_path, self.setting.task.name, summary, self.run_directory.plot_path)
