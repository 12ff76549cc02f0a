"""Several distillations in lockstep: one play, one replay and one program for all, a run directory for each.

Each run is what `pd_jax.distill.session.distill` alone would make of its settings, but for rounding: what was begun together
can be resumed alone, and the other way round.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from pd_jax.config.distill import DistillConfig
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.experience import Lessons
from pd_jax.distill.session import FetchMetrics, Session, next_call
from pd_jax.distill.setup import DistillSetup, make_loss, make_setup, open_distill_run
from pd_jax.errors import UserError
from pd_jax.evaluation.teacher_scores import TeacherScore
from pd_jax.learner.ensemble import EnsembleLearner, fetch_members
from pd_jax.learner.learner import LossFunction
from pd_jax.resources.ledger import Ledger
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.metrics import MetricsWriter
from pd_jax.system.interrupts import Interrupted, Interrupts
from pd_jax.system.progress import Meter, Progress
from pd_jax.teachers import Teacher

T = TypeVar("T")


def distill_together(
    configs: Sequence[DistillConfig],
    teacher: Teacher,
    teacher_scores: Mapping[str, TeacherScore] | None = None,
) -> list[dict[str, Any] | UserError]:
    """Runs or resumes several distillations of one game from one recording.

    Args:
      configs: the runs', which differ in ``out``, ``seed``, ``loss.temperature``, ``learner.learning_rate`` and where
        their evaluation starts, and in nothing else.
      teacher: who played.
      teacher_scores: as for `pd_jax.distill.session.distill`.

    Returns:
      the summary of each run, or why it failed while the others went on.

    Raises:
      UserError: something the user gave does not fit.
      Interrupted: a signal came; all runs were saved.
    """
    settings = [make_setup(config, teacher, teacher_scores) for config in configs]
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        progress = stack.enter_context(_SharedMeters(f"distill {settings[0].title}, {len(configs)} together"))
        sessions, ledger = [], Ledger()
        for setting in settings:
            run = stack.enter_context(open_distill_run(setting))
            checkpointer = stack.enter_context(Checkpointer(run.checkpoints, keep=setting.config.checkpoint.keep))
            metrics = stack.enter_context(MetricsWriter(run.path))
            sessions.append(Session(setting, run, checkpointer, metrics, progress, interrupts, ledger))
        failures: dict[int, UserError] = {}
        untrained = [index for index, session in enumerate(sessions) if not session.is_trained]
        # Runs that were stopped at different times cannot share what is played between them.
        for _, group in itertools.groupby(
            sorted(untrained, key=lambda index: sessions[index].at.updates), lambda index: sessions[index].at.updates
        ):
            members = {index: sessions[index] for index in group}
            failures |= _Group(members, interrupts).train()
        return [failures.get(index) or session.finish() for index, session in enumerate(sessions)]


class _Group:
    """Sessions that stand at the same update."""

    def __init__(self, sessions: Mapping[int, Session], interrupts: Interrupts) -> None:
        self._sessions = sessions
        first = next(iter(sessions.values()))
        settings = [session.setting for session in sessions.values()]
        self._ensemble = EnsembleLearner(
            first.setting.student,
            functools.partial(_loss_at, first.setting),
            first.config.learner,
            first.setting.devices,
            total_updates=first.setting.total_updates,
            temperatures=[_temperature(setting) for setting in settings],
            learning_rates=[setting.config.learner.learning_rate for setting in settings],
        )
        self._devices = first.setting.devices
        self._states = self._ensemble.stack([session.first_state() for session in sessions.values()])
        for place, session in enumerate(sessions.values()):
            session.forget_state(functools.partial(self._state_of, place))
        lessons = Lessons(first.setting, first.at.games, first.steps, interrupts, first.ledger)
        self._shared = _Shared(lessons, first.at.games)

    def train(self) -> dict[int, UserError]:
        """Trains all to the end; returns why some failed."""
        failures: dict[int, UserError] = {}
        trainings = {
            index: session.training(_SharedLessons(self._shared, session.at.games))
            for index, session in self._sessions.items()
        }
        places = {index: place for place, index in enumerate(self._sessions)}
        fetches: list[FetchMetrics] | None = None
        try:
            while True:
                counts = set()
                self._shared.begin_step()
                for index, count in self._step(trainings, places, fetches, failures):
                    if count is None:
                        del trainings[index]
                    else:
                        counts.add(count)
                if not trainings:
                    return failures
                (count,) = counts
                assert count is not None
                update = functools.partial(
                    self._ensemble.update_from_replay, self._states, self._shared.lessons.stored, count
                )
                self._states, metrics = self._shared.lessons.ledger.update(update)
                fetches = [*fetch_members(self._devices, metrics, len(places))]
        finally:
            for training in trainings.values():
                training.close()
            self._shared.lessons.close()

    def _step(
        self,
        trainings: Mapping[int, Generator[int, FetchMetrics, None]],
        places: Mapping[int, int],
        fetches: Sequence[FetchMetrics] | None,
        failures: dict[int, UserError],
    ) -> list[tuple[int, int | None]]:
        """Tells every session of the updates that were done, and returns what each asks for next."""
        wanted: list[tuple[int, int | None]] = []
        interrupt: Interrupted | None = None
        for index, training in trainings.items():
            try:
                # A session that has not begun takes nothing.
                count = next(training, None) if fetches is None else next_call(training, fetches[places[index]])
            except UserError as error:
                failures[index], count = error, None
            except Interrupted as error:
                interrupt, count = error, None
            wanted.append((index, count))
        if interrupt is None:
            return wanted
        # A signal between two of them: those that had gone on save themselves as well.
        for index, count in wanted:
            if count is not None:
                with contextlib.suppress(Interrupted):
                    trainings[index].throw(interrupt)
        raise interrupt

    def _state_of(self, place: int) -> Any:
        return self._ensemble.unstack(self._states, place)


class _Shared:
    """Lessons that several sessions take, step by step; whoever comes first has them given."""

    def __init__(self, lessons: Lessons, at: Sequence[GameCounters]) -> None:
        self.lessons = lessons
        self.at = at
        self.done: list[Any] = []
        """Results of what was done in this step, in order."""
        self.step = 0

    def begin_step(self) -> None:
        """All sessions have taken their part in what was done."""
        self.done.clear()
        self.step += 1


class _SharedLessons:
    """One session's part in the lessons; see :class:`pd_jax.distill.experience.Lessons`."""

    def __init__(self, shared: _Shared, at: Sequence[GameCounters]) -> None:
        self._shared = shared
        self._at = at
        self._step = self._taken = 0

    def open(self) -> None:
        """Starts the play."""
        self._take(self._shared.lessons.open)

    def close(self) -> None:
        """Others may still be learning: whoever shares the lessons out ends them."""

    def refill(self, rounds: int, *, in_mid_round: bool, say: Callable[[str], None]) -> None:
        """Brings the replays back."""
        self._take(lambda: self._shared.lessons.refill(rounds, in_mid_round=in_mid_round, say=say))

    def play_round(self) -> None:
        """Stores the play of one more round."""
        self._take(self._shared.lessons.play_round)
        for own, first in zip(self._at, self._shared.at, strict=True):
            own.env_steps, own.stopped_at = first.env_steps, first.stopped_at

    def play_ahead(self) -> None:
        """Lets the next round begin."""
        self._take(self._shared.lessons.play_ahead)

    def take_values(self) -> dict[str, float]:
        """Metrics of the play since they were last taken."""
        return dict(self._take(self._shared.lessons.take_values))

    def _take(self, action: Callable[[], T]) -> T:
        shared = self._shared
        if self._step != shared.step:
            self._step, self._taken = shared.step, 0
        if self._taken == len(shared.done):
            shared.done.append(action())
        self._taken += 1
        result: T = shared.done[self._taken - 1]
        return result


class _SharedMeters(Progress):
    """Progress of sessions in lockstep: a meter that is there already is the one that is meant."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._said: set[str] = set()

    def add(self, name: str, total: float, *, completed: float = 0) -> Meter:
        """The meter of that name."""
        there = (meter for meter in self._meters if meter.name == name)
        return next(there, None) or super().add(name, total, completed=completed)

    def print(self, text: str) -> None:
        """Prints what has not been said by another session."""
        if text not in self._said:
            self._said.add(text)
            super().print(text)


def _loss_at(setting: DistillSetup, temperature: Any) -> LossFunction:
    """The loss of a run, with another temperature than its own."""
    loss: Any = make_loss(setting)
    return functools.partial(loss, temperature=temperature) if setting.config.loss.kind == "kl" else loss


def _temperature(setting: DistillSetup) -> float:
    return setting.config.loss.temperature_for(teacher_gives_logits=setting.teachers[0].gives_logits)
