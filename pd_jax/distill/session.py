"""Distillation: play, store, update, checkpoint, evaluate, report. Composes the modules; owns files and time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from pd_jax.actors.rollout import ActingStudent
from pd_jax.config.distill import DistillConfig
from pd_jax.distill.adding import describe_adding, merged, play_of_old_games, score_before, with_new_heads
from pd_jax.distill.conflicts import cosine_values, is_due
from pd_jax.distill.contradictions import about_committees, contradictions_of, draw_committees
from pd_jax.distill.counters import DistillCounters, GameCounters
from pd_jax.distill.experience import (
    Experience,
    LetAct,
    MeasureCosines,
    OpenPlay,
    PlayAhead,
    PlayRequest,
    PlayRound,
    Refill,
    SettleTemperatures,
)
from pd_jax.distill.lineage import write_distillation_lineage
from pd_jax.distill.replay_checkpoint import ReplaySaver
from pd_jax.distill.scorer import Scorer
from pd_jax.distill.setup import DistillSetup, make_setup, open_distill_run
from pd_jax.distill.summary import draw_distillation, game_values, summarise_distillation, write_details
from pd_jax.distill.temperatures import due_temperatures, note_temperatures, temperature_values
from pd_jax.distill.unseen import unseen_in
from pd_jax.evaluation.teacher_scores import TeacherScore
from pd_jax.learner.divergence import DivergenceError, check_weights
from pd_jax.learner.learner import LearnerState
from pd_jax.networks.policy import count_params
from pd_jax.resources.ledger import SCORING
from pd_jax.runs.diverged import check_rolls_back, keep_for_inspection
from pd_jax.runs.requests import Dispatched, Update, drive
from pd_jax.runs.session import StudentSession
from pd_jax.runs.summary import Summary
from pd_jax.runs.tools import Tools, open_tools
from pd_jax.system import hosts
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import stoppable
from pd_jax.teachers import Teacher


@stoppable
@computing()
def distill(
    config: DistillConfig,
    teacher: Teacher | Sequence[Teacher] | None = None,
    teacher_scores: Mapping[str, TeacherScore] | None = None,
    *,
    tells_memory: bool = True,
    stop: threading.Event | None = None,
) -> Summary:
    """Runs or resumes a distillation, writes its run directory and returns its summary.

    Args:
      config: the run's.
      teacher: who plays instead of the teacher that the configuration names, whose name is then only a label; several
        in the order of their names.
      teacher_scores: by game, what teachers are known to score under this run's protocol; these are not asked again.
      tells_memory: whether to print what memory the run takes.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the summary; of several processes only process 0 has one with games in it.

    Raises:
      UserError: something the user gave does not fit, and nothing was written; or the training diverged, or a teacher's
        outputs became NaN and the run could not go on without it.
      Interrupted: a signal came, or ``stop`` was set; the run was saved.
    """
    setup = make_setup(config, teacher, teacher_scores)
    with open_distill_run(setup) as run:
        if not hosts.is_primary():
            # Checkpoints are opened once process 0 has made the directory and tidied it.
            hosts.follow_primary("directory", run.config_path)
        with open_tools(run, config, config.checkpoint.keep, f"distill {setup.title}") as tools:
            hosts.for_all(lambda among: among.wait_for_primary("directory"))
            session = DistillSession(setup, tools)
            if tells_memory:
                setup.memory.tell()
            summary = session.run()
        hosts.for_all(lambda among: among.wait_for_primary("end"))
    return summary


class DistillSession(StudentSession[DistillCounters]):
    """One process's share of a distillation, from its newest checkpoint (if any) to its end.

    :meth:`run` is all of it. Whoever trains several students in one program calls :meth:`forget_state`, answers what
    :meth:`training` asks for and ends with :meth:`finish`.

    Attributes:
      first_state: gives the newest state, without a device axis.
      steps: meter of the play.
    """

    def __init__(self, setup: DistillSetup, tools: Tools) -> None:
        self.setup, self.config = setup, setup.config
        super().__init__(tools, DistillCounters.begin(setup), self.config)
        self.learner = setup.make_learner()
        self.playing = setup.of_games(setup.played) if len(setup.played) < len(setup.tasks) else setup
        """The games that are played: all, or those that are added."""
        self._looked_at: tuple[Any, ...] = ()
        """By game, play of the old ones that is not learnt from."""
        self.roll_backs_here = 0
        """Of this process; ``counters.roll_backs`` counts those of all sessions."""
        self._restored_or_new: Any = None
        self._wait_for_new: Callable[[], LearnerState] | None = None
        self._restore_or_init()
        self.first_state: Callable[[], LearnerState] = lambda: setup.devices.first(self._state)
        self.begin_updates()
        self.replays: ReplaySaver | None = None
        self.total_env_steps = self.playing.total_env_steps([game.recorded_steps for game in self.played_games])
        self.steps = self.progress.add("steps", sum(self.total_env_steps), completed=self.played_steps)
        self.scorer = Scorer(setup, self.progress, self.interrupts)

    def run(self) -> Summary:
        """Trains to the end, evaluates and reports."""
        while not self.is_trained:
            try:
                self._train()
            except DivergenceError as error:
                self._roll_back(error)
        return self.finish()

    def _train(self) -> None:
        counters = self.counters
        experience = Experience(self.playing, self.played_games, self.steps, self.interrupts, self.ledger)
        with contextlib.ExitStack() as stack:
            stack.callback(experience.close)
            if self.config.checkpoint.replay:
                self.replays = ReplaySaver(self.run_directory.path, experience.replay, counters.updates)
                stack.callback(setattr, self, "replays", None)
                stack.callback(self.replays.close)
            drive(self.training(), partial(self._perform, experience))

    def _perform(
        self, experience: Experience, request: PlayRequest | SettleTemperatures | MeasureCosines | Update
    ) -> Any:
        """Does what this session asks for, alone."""
        if isinstance(request, MeasureCosines):
            return self.learner.gradient_cosines(self._state, experience.replay.stored, experience.learnable)
        if isinstance(request, SettleTemperatures):
            stored = self._stored(experience)
            self._state, found = self.learner.settle_temperatures(self._state, stored, request.games)
            return found
        if not isinstance(request, Update):
            if isinstance(request, OpenPlay) and hosts.current() is None:
                self._compile_ahead(experience)
            return experience.perform(request, say=self.progress.print)
        stored, learnable = self._stored(experience), experience.learnable
        if learnable is not None and self.playing is not self.setup:
            learnable = tuple(self.setup.played[place] for place in learnable)
        call = partial(self.learner.update_from_replay, self._state, stored, request.count, learnable)
        self._state, metrics = self.ledger.update(call)
        return Dispatched(partial(self.setup.devices.fetch_first, metrics), experience.take_values)

    def _compile_ahead(self, experience: Experience) -> None:
        """Compiles the updates while emulators start and XLA compiles the play."""
        # Of games that play no more there may be nothing to learn.
        if all(game.stopped_at is None for game in self.counters.games):
            shapes = self.setup.devices.replicated_shapes(self.learner.template)
            self.learner.compile_ahead(shapes, self._stored(experience), self.call_size)

    def _stored(self, experience: Experience) -> tuple[Any, ...]:
        """The replays by game, with what is looked at of games that are not played."""
        stored = experience.replay.stored
        return stored if self.playing is self.setup else merged(self.setup, stored, self._looked_at)

    @property
    def played_games(self) -> list[GameCounters]:
        """Where the games stand that are played."""
        return [self.counters.games[place] for place in self.setup.played]

    @property
    def played_steps(self) -> int:
        """Of these games, what is stored so far."""
        return sum(game.env_steps for game in self.played_games)

    def _roll_back(self, error: DivergenceError) -> None:
        """Goes back to the newest checkpoint, or raises the error if that is not wanted, or not any more."""
        roll_backs = self.counters.roll_backs + 1
        check_rolls_back(self.config.checkpoint, roll_backs, error)
        self._unwritten = None
        self.roll_backs_here += 1
        self._restore_or_init()
        self.counters.roll_backs = roll_backs
        # Other minibatches than those that led there.
        key = jax.vmap(lambda key: jax.random.fold_in(key, roll_backs))(self._state.key)
        self._state = dataclasses.replace(self._state, key=key)
        self.timer.note_saved(self.counters.updates)
        self.steps.reset(completed=self.played_steps)

    def forget_state(self, first_state: Callable[[], LearnerState]) -> None:
        """Lets go of the state, which whoever drives the training keeps from now on; ``first_state`` gives it."""
        self._state, self.first_state = None, first_state

    @property
    def is_trained(self) -> bool:
        """Whether all updates are done."""
        return self.counters.updates >= self.total_updates

    def finish(self) -> Summary:
        """Evaluates and reports; process 0 does, and the others have nothing to say."""
        if not hosts.is_primary():
            return Summary({})
        variables = self.first_state().student_variables
        teacher, student = self.scorer.score_both(variables)
        summary = summarise_distillation(
            self.setup, self.counters, teacher, student, count_params(variables), self.wall_seconds()
        )
        if self.counters.updates not in self.checkpointer.steps() and hosts.current() is None:
            # A disk that was full at the end of the training may have room by now.
            self.save()
        contradictions = contradictions_of(self.setup, self.scorer.sampled)
        committees = about_committees(self.setup, contradictions)
        summary = summary.with_about(**self.ledger.summarise(), **committees)
        self.run_directory.write_summary(summary)
        draw_committees(self.run_directory, contradictions, prefixed=len(self.setup.names) > 1)
        write_details(self.setup, self.run_directory, self.scorer.compare(variables))
        draw_distillation(self.run_directory, summary)
        self.checkpointer.wait()
        write_distillation_lineage(self.setup, self.counters, self.run_directory.path, variables)
        return summary

    @property
    def _state(self) -> Any:
        """With a device axis; None once whoever drives the training keeps it. A new one may still be in the making."""
        if self._wait_for_new is not None:
            self._restored_or_new, self._wait_for_new = self._wait_for_new(), None
        return self._restored_or_new

    @_state.setter
    def _state(self, state: Any) -> None:
        self._restored_or_new, self._wait_for_new = state, None

    def _restore_or_init(self) -> None:
        self.counters = DistillCounters.begin(self.setup)
        state = self.restore(self.learner.template, self.setup.network, lambda counters: f"update {counters.updates:,}")
        if state is not None:
            self._state = self.setup.devices.replicate(state)
            return
        wait, start = self.learner.init_ahead(jax.random.key(self.config.seed)), self.setup.start
        if start is None:
            self._wait_for_new = wait
            return
        self.progress.print(start.describe())
        if (adding := self.learner.rule.adding) is not None:
            self.progress.print(describe_adding(self.setup))
            self._wait_for_new = lambda: with_new_heads(self.setup, adding, start, wait())
            return
        self._wait_for_new = lambda: wait().starting_from(self.setup.devices.replicate(start.variables))

    def check_restored(self, step: int | None) -> None:
        """Of several processes all begin where process 0 does; and what the run learns from is what it was."""
        problem = f"{self.run_directory.path}: processes begin at different updates; it must be a directory they share"
        hosts.for_all(lambda among: among.check_same(self._once("start"), str(step or 0), problem))
        if step is not None:
            self.counters.check_goes_on(self.setup, self.run_directory.path)

    def _once(self, words: str) -> str:
        """Words that processes tell each other, which must not come up again after a roll-back."""
        return f"{words} of attempt {self.roll_backs_here}"

    def training(self) -> Generator[PlayRequest | SettleTemperatures | MeasureCosines | Update, Any, None]:
        """As of every student; a state that went wrong is kept."""
        try:
            yield from super().training()
        except DivergenceError as error:
            step, metadata = self.counters.updates, self.counters.to_metadata()
            kept = keep_for_inspection(self.run_directory.path, step, self.first_state(), metadata)
            raise DivergenceError(f"{error}; the state is kept in {kept}") from error

    def begin(self, rounds: int, *, in_mid_round: bool) -> Generator[PlayRequest, Any, None]:
        """Starts the play, and brings the replay back."""
        for line in self.playing.notes_on_recordings(self.total_env_steps):
            self.progress.print(line)
        if self.counters.updates == 0 and self.setup.student.senses and hosts.is_primary():
            for place in self.setup.played:
                if self.setup.teachers[place].carries:
                    # What it would say of a state depends on those before.
                    continue
                self.progress.status("looking at what the student does not see")
                unseen, unit = unseen_in(self.setup, place, self.interrupts.check_alone)
                self.counters.games[place].unseen = unseen.to_json(unit)
                self.progress.print(f"{self.setup.names[place]}: {unseen.describe(unit)}")
        if self.setup.old:
            self._look_at_old_games()
        yield OpenPlay()
        if self.counters.updates == 0:
            return
        yield from self._let_student_act(rounds)
        if self.replays is not None and self.replays.restore(self.counters.updates):
            self.progress.print("the replay is as it was; the play goes on with fresh episodes")
        else:
            yield Refill(rounds, in_mid_round)

    def _look_at_old_games(self) -> None:
        """Takes the scores of the student that games are added to, and what the penalty and the metrics need."""
        setup, counters = self.setup, self.counters
        if counters.updates == 0:
            variables, episodes = self.first_state().student_variables, self.config.evaluation.episodes
            with self.ledger.during(SCORING):
                score_before(
                    setup,
                    counters.games,
                    lambda place: self.scorer.play_student(variables, place, episodes),
                    self.progress.print,
                )
        if not self.config.adding.samples:
            return
        self.progress.status("play of the old games")
        meter = self.progress.add("old steps", len(setup.old) * self.config.adding.old_steps)
        self._looked_at, steps = play_of_old_games(setup, meter, self.interrupts)
        for place, count in zip(setup.old, steps, strict=True):
            counters.games[place].env_steps = count
        # What matters is kept in the checkpoints: the student is another one later.
        if counters.updates == 0 and self.config.adding.penalty == "ewc":
            self.progress.status("what the weights matter to the old games")
            self._state, mean = self.learner.estimate_importance(self._state, self._looked_at)
            self.progress.print(f"Fisher information of the old games: {mean:.3g} a weight in the mean, taken for 1")

    def play(self, index: int, *, is_new: bool) -> Generator[PlayRequest | SettleTemperatures, Any, None]:
        """The teachers play, or the student does and they label; the next round may be played during the updates."""
        self.progress.status(f"round {index + 1} of {self.config.schedule.rounds}: play")
        if is_new:
            yield from self._let_student_act(index)
            self.counters.note_play((yield PlayRound()), self.setup.played)
        # Here, and not in the next all-reduce, whose patience is shorter than a slow emulator's.
        hosts.wait_for_all(self._once(f"play of round {index}"))
        yield from self._settle_temperatures()
        if hosts.is_primary():
            # Not before: a run that finds nothing more to learn from keeps its results.
            self.run_directory.remove_results()
        if index + 1 < self.config.schedule.rounds:
            yield PlayAhead()

    def _let_student_act(self, finished_rounds: int) -> Generator[LetAct, None, None]:
        """Hands the student as it is now to the play, if its actions are to be played."""
        behaviour = self.config.behaviour
        if behaviour.student_acts:
            share = behaviour.student_share(finished_rounds, self.config.schedule.rounds)
            yield LetAct(ActingStudent(self.first_state().student_variables, share))

    def _settle_temperatures(self) -> Generator[SettleTemperatures, Any, None]:
        """Has the temperatures found that none has been found for, or for another teacher."""
        games = self.counters.games
        teachers = [game.teacher_sha256 for game in games]
        due = due_temperatures(self.config.loss, games, teachers)
        if not due:
            return
        found = yield SettleTemperatures(due)
        for line in note_temperatures(self.setup, games, teachers, due, found):
            self.progress.print(line)
        self.metrics.write(self.counters.updates, temperature_values(self.setup.names, games))

    def look_on(self, before: int) -> Generator[MeasureCosines, Any, None]:
        """Measures how the games' gradients lie to one another, whenever that is due."""
        if is_due(self.config, before, self.counters.updates):
            # In order: what is measured is of the student after these updates.
            self.flush()
            found = yield MeasureCosines()
            self.metrics.write(self.counters.updates, cosine_values(self.setup.names, found))

    def write_call(self, metrics: Mapping[str, Any], values: dict[str, float]) -> None:
        """The metrics of a call, and of its games."""
        penalty = {"penalty": float(metrics["penalty"])} if "penalty" in metrics else {}
        self.metrics.write(self.counters.updates, values | penalty | game_values(self.setup.names, metrics))

    def is_scored_after(self, rounds: int) -> bool:
        """The last round is followed by the final games."""
        every = self.config.evaluation.every_rounds
        return every > 0 and rounds % every == 0 and rounds < self.config.schedule.rounds

    def score_round(self, rounds: int) -> float | None:
        """Process 0 plays; the others wait here, and not in the next all-reduce, whose patience is shorter."""
        score: float | None = None
        if hosts.is_primary():
            with self.ledger.during(SCORING):
                values, score = self.scorer.score_on_the_way(self.first_state().student_variables)
            self.metrics.write(self.counters.updates, values)
        score = json.loads(hosts.from_primary(self._once(f"score of round {rounds}"), json.dumps(score)))
        return score

    def snapshot(self) -> LearnerState:
        """The learner's state."""
        state = self.first_state()
        check_weights(state.variables, f"update {self.counters.updates:,}", self.remedy)
        return state

    def save(self, score: float | None = None) -> None:
        """Saves the student, and the replay if that is wanted."""
        super().save(score)
        if self.replays is not None:
            self.replays.save(self.counters.updates)
