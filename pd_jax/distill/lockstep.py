"""Several distillations in lockstep: one play, one replay and one program for all, a run directory for each.

Each run is what `pd_jax.distill.session.distill` alone would make of its settings, but for rounding: what was begun
together can be resumed alone, and the other way round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.distill import DistillConfig
from pd_jax.distill.experience import Experience, PlayRequest, SettleTemperatures
from pd_jax.distill.session import DistillSession
from pd_jax.distill.setup import make_setup, open_distill_run
from pd_jax.errors import UserError
from pd_jax.evaluation.teacher_scores import TeacherScore
from pd_jax.learner.ensemble import EnsembleLearner, fetch_members
from pd_jax.learner.learner import FoundTemperature
from pd_jax.learner.objective import loss_at, make_auto, temperatures, weigh_at
from pd_jax.resources.ledger import Ledger
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.requests import Dispatched, Update
from pd_jax.runs.summary import Summary
from pd_jax.runs.tools import Tools, open_metrics
from pd_jax.system.interrupts import Interrupted, Interrupts
from pd_jax.system.progress import Meter, Progress
from pd_jax.teachers import Teacher

Request = PlayRequest | SettleTemperatures | Update


def distill_together(
    configs: Sequence[DistillConfig],
    teacher: Teacher,
    teacher_scores: Mapping[str, TeacherScore] | None = None,
) -> list[Summary | UserError]:
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
    setups = [make_setup(config, teacher, teacher_scores) for config in configs]
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        progress = stack.enter_context(_SharedMeters(f"distill {setups[0].title}, {len(configs)} together"))
        sessions, ledger = [], Ledger()
        for setup in setups:
            run = stack.enter_context(open_distill_run(setup))
            checkpointer = stack.enter_context(Checkpointer(run.checkpoints, keep=setup.config.checkpoint.keep))
            metrics = stack.enter_context(open_metrics(run, setup.config, progress.print))
            sessions.append(DistillSession(setup, Tools(run, checkpointer, metrics, progress, interrupts, ledger)))
        failures: dict[int, UserError] = {}
        untrained = [index for index, session in enumerate(sessions) if not session.is_trained]
        # Runs that were stopped at different times cannot share what is played between them.
        for _, group in itertools.groupby(
            sorted(untrained, key=lambda index: sessions[index].counters.updates),
            lambda index: sessions[index].counters.updates,
        ):
            members = {index: sessions[index] for index in group}
            failures |= _Group(members, interrupts).train()
        return [failures.get(index) or session.finish() for index, session in enumerate(sessions)]


class _Group:
    """Sessions that stand at the same update: all ask for the same, which is done once, and each is handed the answer.

    Args:
      sessions: by their places among all.
      interrupts: heeded by the play.
    """

    def __init__(self, sessions: Mapping[int, DistillSession], interrupts: Interrupts) -> None:
        self._sessions = sessions
        first = next(iter(sessions.values()))
        self._ensemble = EnsembleLearner(
            first.setup.student,
            functools.partial(loss_at, first.config.loss, first.setup.student),
            first.config.learner,
            first.setup.devices,
            total_updates=first.setup.total_updates,
            temperatures=[
                temperatures(session.config.loss, session.setup.gives_logits)[0] for session in sessions.values()
            ],
            learning_rates=[session.config.learner.learning_rate for session in sessions.values()],
            weigh_at=functools.partial(weigh_at, first.config.loss, first.setup.student),
            auto=make_auto(first.config.loss, first.setup.student, first.setup.gives_logits),
            stretch=first.setup.stretch,
        )
        self._learner = first.learner
        self._devices = first.setup.devices
        self._say = first.progress.print
        self._states = self._ensemble.stack([session.first_state() for session in sessions.values()])
        for place, session in enumerate(sessions.values()):
            session.forget_state(functools.partial(self._state_of, place))
        games = [dataclasses.replace(game) for game in first.counters.games]
        self._experience = Experience(first.setup, games, first.steps, interrupts, first.ledger)

    def train(self) -> dict[int, UserError]:
        """Trains all to the end; returns why some failed."""
        failures: dict[int, UserError] = {}
        trainings = {index: session.training() for index, session in self._sessions.items()}
        answers: dict[int, Any] = dict.fromkeys(trainings)
        failure: BaseException | None = None
        try:
            while True:
                requests = self._ask(trainings, answers, failure, failures)
                for index in [*trainings]:
                    if index not in requests:
                        del trainings[index]
                if not trainings:
                    return failures
                (request,) = set(requests.values())
                answers, failure = {}, None
                try:
                    answers = self._perform(request)
                except BaseException as error:
                    failure = error
        finally:
            for training in trainings.values():
                training.close()
            self._experience.close()

    def _ask(
        self,
        trainings: Mapping[int, Generator[Any, Any, None]],
        answers: Mapping[int, Any],
        failure: BaseException | None,
        failures: dict[int, UserError],
    ) -> dict[int, Request]:
        """Hands every session its answer, or raises the failure in each, and returns what each asks for next."""
        requests: dict[int, Request] = {}
        interrupt: Interrupted | None = None
        for index, training in trainings.items():
            try:
                requests[index] = training.send(answers[index]) if failure is None else training.throw(failure)
            except StopIteration:
                continue
            except UserError as error:
                failures[index] = error
            except Interrupted as error:
                interrupt = error
        if interrupt is None:
            return requests
        # A signal between two of them: those that had gone on save themselves as well.
        for index in requests:
            with contextlib.suppress(Interrupted):
                trainings[index].throw(interrupt)
        raise interrupt

    def _perform(self, request: Request) -> dict[int, Any]:
        """The answer for each session to what all have asked for."""
        if isinstance(request, SettleTemperatures):
            return dict.fromkeys(self._sessions, self._settle_temperatures(request.games))
        if not isinstance(request, Update):
            return dict.fromkeys(self._sessions, self._experience.perform(request, say=self._say))
        stored = self._experience.replay.stored
        update = functools.partial(self._ensemble.update_from_replay, self._states, stored, request.count)
        self._states, metrics = self._experience.ledger.update(update)
        fetches = fetch_members(self._devices, metrics, len(self._sessions))
        take_values = functools.cache(self._experience.take_values)
        # A copy for each, who adds to it.
        calls = [Dispatched(fetch, lambda: dict(take_values())) for fetch in fetches]
        return dict(zip(self._sessions, calls, strict=True))

    def _settle_temperatures(self, games: tuple[int, ...]) -> list[FoundTemperature]:
        """All sessions have the same: they learn from one replay."""
        one = jax.tree.map(lambda leaf: leaf[:, 0], self._states)
        one, found = self._learner.settle_temperatures(one, self._experience.replay.stored, games)
        assert one.temperature is not None
        each = jnp.repeat(one.temperature[:, None], len(self._sessions), axis=1)
        self._states = dataclasses.replace(self._states, temperature=jax.device_put(each, self._devices.sharding))
        return found

    def _state_of(self, place: int) -> Any:
        return self._ensemble.unstack(self._states, place)


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
