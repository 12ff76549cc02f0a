"""Online distillation: a teacher that goes on learning, and a student that learns from it meanwhile.

Round by round, in one direction: the teacher learns, its score says whether it is the best snapshot so far, the target
(that snapshot, or the teacher as it is) plays and labels, the student learns from what is stored (as Rusu et al. 2016
distil online). Composes the modules; owns files and time.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.online import OnlineConfig
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.experience import Experience
from pd_jax.distill.lineage import start_parent
from pd_jax.distill.temperatures import due_temperatures, note_temperatures, temperature_values
from pd_jax.environments.seeds import fresh_seed
from pd_jax.learner.divergence import check_weights
from pd_jax.learner.learner import LearnerState
from pd_jax.online.scorer import COMPARISON_SEED_OFFSET, OnlineScorer
from pd_jax.online.setup import OnlineSetup, make_online_setup, open_online_run
from pd_jax.online.snapshots import SnapshotTeacher
from pd_jax.online.state import OnlineCounters, OnlineState
from pd_jax.online.summary import summarise_online
from pd_jax.online.target import Target
from pd_jax.report.online_figure import online_score_values, plot_online
from pd_jax.report.page import write_run_page
from pd_jax.resources.ledger import TEACHER
from pd_jax.runs.details import Details, TaughtBy
from pd_jax.runs.lineage import file_sha256, leave_lineage, teacher_parent
from pd_jax.runs.requests import Dispatched, Update, drive
from pd_jax.runs.session import StudentSession
from pd_jax.runs.summary import Summary
from pd_jax.runs.tools import Tools, open_tools
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import stoppable
from pd_jax.system.progress import warn_if_unwritable
from pd_jax.teachers.files import params_fingerprint
from pd_jax.trainers.learning_teacher import LearningTeacher, snapshot


@stoppable
@computing()
def online(config: OnlineConfig, *, stop: threading.Event | None = None) -> Summary:
    """Runs or resumes an online distillation and writes its run directory.

    Args:
      config: the run's.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the summary.

    Raises:
      UserError: something the user gave does not fit, and nothing was written; or one of the two diverged.
      Interrupted: a signal came, or ``stop`` was set; the run was saved.
    """
    setup = make_online_setup(config)
    title = f"online {setup.task.name} into {setup.config.student.network}"
    with open_online_run(setup) as run, open_tools(run, config, config.checkpoint.keep, title) as tools:
        session = OnlineSession(setup, tools)
        setup.student_setup.memory.tell()
        return session.run()


class OnlineSession(StudentSession[OnlineCounters]):
    """One process's share of a run, from its newest checkpoint (if any) to its end.

    Attributes:
      student: the student's learner, with a device axis.
      teacher: that learns, or its snapshots.
      target: the snapshot of it that plays for the student.
    """

    remedy = f"the student diverged; {StudentSession.remedy}"

    def __init__(self, setup: OnlineSetup, tools: Tools) -> None:
        self.setup, self.config = setup, setup.config
        config, student_setup = self.config, setup.student_setup
        first = setup.snapshots.env_steps[0] if setup.snapshots is not None else 0
        counters = OnlineCounters(
            network=setup.label,
            init_from=None if student_setup.start is None else student_setup.start.to_json(),
            parts=dict(vars(config.parts)),
            play=GameCounters(name=setup.task.name),
            teacher_env_steps=first,
            target_env_steps=first,
        )
        super().__init__(tools, counters, config)
        self.devices = student_setup.devices
        self.learner = student_setup.make_learner()
        state = self._restore_or_init()
        self.student: LearnerState = self.devices.replicate(state.student)
        self.teacher = self._make_teacher(state)
        counters, rounds = self.counters, config.schedule.rounds
        taught, (play_steps,) = config.teacher_steps_after(rounds), student_setup.total_env_steps([0])
        if setup.snapshots is not None:
            taught = setup.snapshots.env_steps[-1]
        self.taught = self.progress.add("teacher", taught, completed=counters.teacher_env_steps)
        steps = self.progress.add("steps", play_steps, completed=counters.play.env_steps)
        self.begin_updates()
        self.scorer = OnlineScorer(setup, self.progress, self.interrupts, self.ledger)
        self.experience = Experience(student_setup, [counters.play], steps, self.interrupts, self.ledger)
        target = state.target if setup.snapshots is None else setup.snapshots.load(int(state.target))
        self.target = Target(setup, counters, self.teacher, self.experience, self.scorer, tools, target)
        self.stale_share = 0.0

    def run(self) -> Summary:
        """Trains to the end, evaluates and reports."""
        run = self.run_directory
        if self.counters.student_scored < self.config.schedule.rounds:
            self._train()
        summary = self._summarise().with_about(**self.ledger.summarise())
        run.write_summary(summary)
        self._write_details()
        self._draw(summary)
        with warn_if_unwritable(run.report_path):
            write_run_page(run)
        self.checkpointer.wait()
        self._write_lineage()
        return summary

    def _write_details(self) -> None:
        """What the student chooses where the target would choose, and what computed it."""
        setup, run = self.setup, self.run_directory
        variables = self.devices.first(self.student.student_variables)
        comparison = self.scorer.compare(self.target.variables, variables)
        name, sha256 = f"{setup.task.name}-{setup.target.metadata.network}, {self.config.target}", ""
        if setup.writer.path.is_file():
            sha256 = file_sha256(setup.writer.path)
        taught_by = TaughtBy(game=setup.task.name, name=name, source=setup.writer.path.name, sha256=sha256)
        with warn_if_unwritable(run.details_path):
            Details.of([taught_by], {setup.task.name: comparison}).write(run.details_path)

    def _write_lineage(self) -> None:
        config, directory, game = self.config, self.run_directory.path, self.setup.task.name
        sources = [config.only_teacher] if config.only_teacher is not None else []
        parents = [teacher_parent(source, directory, game=game, role="learning teacher") for source in sources]
        if (snapshots := self.setup.snapshots) is not None:
            parents += [
                teacher_parent(source, directory, game=game, sha256=sha256)
                for source, sha256 in zip(snapshots.sources, snapshots.sha256, strict=True)
            ]
        if self.counters.init_from is not None:
            parents.append(start_parent(config.init_from, self.counters.init_from, directory))
        variables = self.devices.first(self.student.student_variables)
        about = {
            "games": [game],
            "network": config.student.network,
            "updates": self.counters.updates,
            "parameters_sha256": params_fingerprint(variables["params"]),
        }
        leave_lineage(directory, "online", parents, about)

    def check_restored(self, step: int | None) -> None:
        """The snapshots that have taught come first again."""
        if self.setup.snapshots is not None:
            self.setup.snapshots.check_follow(self.counters.snapshots, self.config.out)
        super().check_restored(step)

    def _make_teacher(self, state: OnlineState) -> LearningTeacher | SnapshotTeacher:
        setup, snapshots = self.setup, self.setup.snapshots
        if snapshots is None:
            return LearningTeacher(setup.network, setup.task, self.config.pqn, self.config.env, state.teacher)
        return SnapshotTeacher(snapshots, int(state.teacher))

    def _restore_or_init(self) -> OnlineState:
        teacher = self.setup.init_teacher() if self.setup.snapshots is None else None
        # Not the teacher's key: the two networks may be alike.
        student = self.learner.init_single(jax.random.fold_in(jax.random.key(self.config.seed), 1))
        if (start := self.setup.student_setup.start) is not None:
            student = student.starting_from(jax.tree.map(jnp.asarray, start.variables))
        if teacher is None:
            fresh = OnlineState(jnp.int32(0), student, jnp.int32(0))
        else:
            fresh = OnlineState(teacher, student, snapshot(teacher.variables))
        restored: OnlineState | None = self.restore(
            fresh,
            self.setup.label,
            lambda counters: (
                f"step {counters.teacher_env_steps:,} of the teacher's and update {counters.updates:,}; "
                "the teacher plays on with fresh episodes"
            ),
        )
        if restored is None and start is not None:
            self.progress.print(start.describe())
        return fresh if restored is None else restored

    def _train(self) -> None:
        try:
            drive(self.training(), self._update)
        finally:
            self.experience.close()
            self.teacher.close()

    def begin(self, rounds: int, *, in_mid_round: bool) -> Generator[Update, Dispatched, None]:
        """Starts the teacher's play and the target's, and brings the replay back."""
        yield from ()
        counters = self.counters
        # The target's emulators have the run's seed; the teacher's are the second game's, so to speak.
        self.teacher.open(fresh_seed(self.config.seed, counters.teacher_env_steps, game=1))
        self.experience.open()
        if counters.teacher_scored < 0:
            self.target.score_teacher(0)
            self._write_scores()
        if not in_mid_round and rounds > max(0, counters.student_scored) and self.is_scored_after(rounds):
            self.save(self.score_round(rounds))
        if counters.updates > 0:
            self.experience.refill(rounds, in_mid_round=in_mid_round, say=self.progress.print)
            if in_mid_round:
                self.target.note_play()

    def play(self, index: int, *, is_new: bool) -> Generator[Update, Dispatched, None]:
        """The teacher learns, the target is chosen, and plays."""
        yield from ()
        if is_new:
            self._teach(index + 1)
            self.target.choose(index + 1)
            self.progress.status(f"round {index + 1} of {self.config.schedule.rounds}: the target plays")
            self.experience.play_round()
            self.target.note_play()
            self._settle_temperature()
        # Not before: a run that finds nothing more to learn from keeps its results.
        self.run_directory.remove_results()
        self.setup.writer.path.unlink(missing_ok=True)
        self.stale_share = self.target.stale_share()

    def _settle_temperature(self) -> None:
        """Has the temperature found from the play so far, once, and again whenever the target has become another."""
        setup, games = self.setup.student_setup, [self.counters.play]
        teachers = [str(self.counters.target_env_steps)]
        due = due_temperatures(self.config.loss, games, teachers)
        if not due:
            return
        self.student, found = self.learner.settle_temperatures(self.student, self.experience.replay.stored, due)
        for line in note_temperatures(setup, games, teachers, due, found):
            self.progress.print(line)
        self.write_call({}, temperature_values(setup.names, games))

    def _teach(self, rounds: int) -> None:
        """The teacher learns as much as it is to have learnt after so many rounds."""
        if isinstance(self.teacher, SnapshotTeacher):
            self._take_snapshot(self.teacher, rounds)
            return
        until = self.config.teacher_steps_after(rounds)
        self.taught.reset(completed=self.counters.teacher_env_steps)
        while self.counters.teacher_env_steps < until:
            self.ledger.on_stage(TEACHER)
            with self.ledger.during(TEACHER):
                numbers = self.teacher.iterate()
            self.counters.teacher_env_steps = self.teacher.env_steps
            self.taught.set(self.counters.teacher_env_steps)
            self.progress.status(f"round {rounds} of {self.config.schedule.rounds}: the teacher learns")
            # "loss" would be taken for the student's.
            values = {"td_loss" if name == "loss" else name: value for name, value in numbers.items()}
            self.write_call({}, {f"teacher/{name}": value for name, value in values.items()})
            self.interrupts.check()

    def _take_snapshot(self, teacher: SnapshotTeacher, rounds: int) -> None:
        """The snapshot whose turn it is becomes the teacher."""
        snapshots, counters = self.setup.snapshots, self.counters
        assert snapshots is not None
        teacher.move_to(snapshots.in_round(rounds - 1, self.config.schedule.rounds))
        counters.teacher_env_steps = teacher.env_steps
        counters.snapshots = list(snapshots.sha256[: teacher.index + 1])
        self.taught.reset(completed=counters.teacher_env_steps)

    def _update(self, request: Update) -> Dispatched:
        stored = self.experience.replay.stored
        update = functools.partial(self.learner.update_from_replay, self.student, stored, request.count)
        self.student, metrics = self.ledger.update(update)
        return Dispatched(
            functools.partial(self.devices.first, metrics),
            lambda: self.experience.take_values() | self.target.take_values() | {"stale_share": self.stale_share},
        )

    def write_call(self, metrics: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Writes a line of metrics, with where both of them stand."""
        counters = self.counters
        beside = {
            "updates": counters.updates,
            "teacher_env_steps": counters.teacher_env_steps,
            "wall_seconds": self.wall_seconds(),
        }
        self.metrics.write(counters.step, {**values, **beside})

    def is_scored_after(self, rounds: int) -> bool:
        """As the teacher is, and always after the last round."""
        return self.target.is_due(rounds)

    def score_round(self, rounds: int) -> float:
        """Scores the student in games that chose no target."""
        variables = self.devices.first(self.student.student_variables)
        score = self.scorer.on_the_way("student", variables, COMPARISON_SEED_OFFSET)
        self.counters.scores["student"] = score
        self.counters.student_scored = rounds
        self._write_scores()
        self._draw()
        return score.mean

    def _write_scores(self) -> None:
        counters = self.counters
        values = online_score_values(self.setup.task.name, counters.scores)
        changes = {"target_env_steps": counters.target_env_steps, "target_changes": counters.target_changes}
        self.write_call({}, values | changes)

    def snapshot(self) -> OnlineState:
        """Both learners and the target."""
        student = self.devices.first(self.student)
        check_weights(student.variables, f"update {self.counters.updates:,}", self.remedy)
        self.teacher.check()
        if isinstance(self.teacher, SnapshotTeacher):
            assert self.setup.snapshots is not None
            target = self.setup.snapshots.env_steps.index(self.counters.target_env_steps)
            return OnlineState(jnp.int32(self.teacher.index), student, jnp.int32(target))
        return OnlineState(self.teacher.state, student, self.target.variables)

    def _summarise(self) -> Summary:
        """Scores all three in games that chose nothing, and writes the target's file."""
        student = self.devices.first(self.student)
        scores = self.target.final_scores(student.student_variables)
        self.target.write(scores["target"])
        variables = (student.variables, self.target.variables)
        return summarise_online(self.setup, self.counters, *variables, scores, self.wall_seconds())

    def _draw(self, summary: Summary | None = None) -> None:
        with warn_if_unwritable(self.run_directory.plot_path):
            plot_online(self.run_directory.metrics_path, self.setup.task.name, summary, self.run_directory.plot_path)
