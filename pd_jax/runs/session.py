"""The skeleton of a run: what distillation, online distillation and the training of a teacher have in common.

A loop derives its session from :class:`Session`, or from :class:`StudentSession` if a student is updated in it, and
adds what is its own: what is learnt, from what, and what is scored.
"""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from pd_jax.config.distill import DistillConfig
from pd_jax.config.online import OnlineConfig
from pd_jax.errors import UnsoundObservationsError, UnsoundTeacherError, UserError
from pd_jax.learner.divergence import check_loss
from pd_jax.runs.counters import Counters, StudentCounters
from pd_jax.runs.parts import check_kept
from pd_jax.runs.requests import Dispatched, FetchMetrics, Update
from pd_jax.runs.timer import SaveTimer
from pd_jax.runs.tools import Tools
from pd_jax.system import host_memory, hosts
from pd_jax.system.interrupts import Interrupted

C = TypeVar("C", bound=Counters)
S = TypeVar("S", bound=StudentCounters)


class Session(abc.ABC, Generic[C]):
    """One process's share of a run, from its newest checkpoint (if any) to its end.

    Args:
      tools: the run's; all of them are attributes of the session too.
      counters: of a run that has done nothing yet; from then on where the run stands.
    """

    timer: SaveTimer
    """Says when the next checkpoint is due; the loop sets it once it knows where the run stands."""

    def __init__(self, tools: Tools, counters: C) -> None:
        self.run_directory, self.checkpointer = tools.run, tools.checkpointer
        self.metrics, self.progress = tools.metrics, tools.progress
        self.interrupts, self.ledger = tools.interrupts, tools.ledger
        self.counters = counters
        self.started = time.monotonic()

    @abc.abstractmethod
    def snapshot(self) -> Any:
        """What a checkpoint holds, without a device axis.

        Raises a DivergenceError if a weight is NaN or infinite: no such state takes the place of a good one.
        """

    def flush(self) -> None:
        """Writes metrics that are still on the devices."""

    def check_restored(self, step: int | None) -> None:
        """Raises unless the run can go on from this checkpoint, or None from none. Nothing has been changed yet."""

    def restore(self, template: Any, network: str, resumed: Callable[[C], str]) -> Any | None:
        """Takes up the newest intact checkpoint, its counters, and the metrics up to there.

        Args:
          template: a state like the one that was saved.
          network: that it is of.
          resumed: gives what is told of where the run goes on.

        Returns:
          the state, arrays on the default device; None if there is no checkpoint.
        """
        restored = self.checkpointer.restore(template, network=network)
        if restored is None:
            self.check_restored(None)
            self.metrics.truncate_after(-1)
            return None
        state, metadata, step = restored
        begun = type(self.counters).from_metadata(metadata)
        check_kept(begun.parts, self.counters.parts, self.run_directory.path)
        self.counters = begun
        self.check_restored(step)
        self.metrics.truncate_after(step)
        self.progress.print(f"resumed at {resumed(self.counters)}")
        return jax.tree.map(jnp.asarray, state)

    def save(self, score: float | None = None) -> None:
        """Saves all that the run goes on from, with the score of these very weights if they were scored."""
        self.flush()
        state, metadata = self.snapshot(), self.counters.to_metadata() | {"wall_seconds": self.wall_seconds()}
        self.checkpointer.save(self.counters.step, state, metadata, score)
        self.timer.note_saved(self.counters.done)
        host_memory.release_freed()

    @contextlib.contextmanager
    def saved_when_interrupted(self) -> Iterator[None]:
        """Saves what is learnt inside when a signal comes: they are heeded between calls, where the state is whole."""
        try:
            yield
        except Interrupted:
            # Of several processes one may stop alone while it evaluates, and a checkpoint takes them all.
            if (among := hosts.current()) is None or among.leaving:
                self.save()
            raise

    def wall_seconds(self) -> float:
        """Spent in all sessions together."""
        return self.counters.wall_seconds + time.monotonic() - self.started


class StudentSession(Session[S]):
    """A session in which play and updates of a student take turns.

    Args:
      tools: the run's.
      counters: of a run that has done nothing yet.
      settings: the run's.
    """

    remedy = "begin again in a new --out, with a smaller learner.learning_rate or with learner.max_grad_norm"

    def __init__(self, tools: Tools, counters: S, settings: DistillConfig | OnlineConfig) -> None:
        super().__init__(tools, counters)
        self._settings = settings
        self.total_updates = settings.schedule.rounds * settings.schedule.updates_per_round
        self._unwritten: tuple[FetchMetrics, dict[str, float]] | None = None
        """Metrics of the call that ended at ``counters.updates``, on the devices and beside them."""

    @abc.abstractmethod
    def begin(self, rounds: int, *, in_mid_round: bool) -> Generator[Any, Any, None]:
        """Starts the play, and brings back what a run learns from that has finished so many rounds."""

    @abc.abstractmethod
    def play(self, index: int, *, is_new: bool) -> Generator[Any, Any, None]:
        """Plays round ``index`` if it is new, not one that is gone on with, and makes ready for its updates."""

    @abc.abstractmethod
    def score_round(self, rounds: int) -> float | None:
        """The student's score after so many rounds, for the checkpoint that is saved then."""

    @abc.abstractmethod
    def is_scored_after(self, rounds: int) -> bool:
        """Whether the student is scored once so many rounds are over."""

    @abc.abstractmethod
    def write_call(self, metrics: Mapping[str, Any], values: dict[str, float]) -> None:
        """Writes the metrics of a call; ``values`` are those that every student has, and those beside them."""

    def training(self) -> Generator[Any, Any, None]:
        """Trains to the end.

        Play and updates are left to whoever drives this and sends the answers; see `pd_jax.runs.requests.drive`.
        """
        schedule, counters = self._settings.schedule, self.counters
        first_round, offset = divmod(counters.updates, schedule.updates_per_round)
        try:
            with self.saved_when_interrupted():
                yield from self.begin(first_round, in_mid_round=offset > 0)
                for index in range(first_round, schedule.rounds):
                    self.ledger.begin_round(index)
                    yield from self.play(index, is_new=index > first_round or offset == 0)
                    yield from self.updates_until((index + 1) * schedule.updates_per_round)
                    if self.is_scored_after(index + 1):
                        self.flush()
                        self.save(self.score_round(index + 1))
                    elif self.timer.is_due(counters.done):
                        self.save()
                self.save()
        except (UnsoundTeacherError, UnsoundObservationsError) as error:
            # Of several processes only this one knows, and a checkpoint takes them all.
            if hosts.current() is None:
                self.save()
            raise UserError(f"{error}; {self.run_directory.path} is saved at update {self.timer.saved:,}") from error

    @property
    def call_size(self) -> int:
        """Updates per call; no more than a crash may cost."""
        return min(self._settings.learner.updates_per_call, self._settings.checkpoint.every_updates)

    def begin_updates(self) -> None:
        """Starts the meter and the clock of the checkpoints, once it is known where the run stands."""
        checkpoint = self._settings.checkpoint
        self.updates = self.progress.add("updates", self.total_updates, completed=self.counters.updates)
        self.timer = SaveTimer(checkpoint.every_updates, checkpoint.every_seconds, self.counters.done)

    def look_on(self, before: int) -> Generator[Any, Any, None]:
        """Looks at the student after a call of updates, ``before`` which there were so many; nothing by default."""
        yield from ()

    def updates_until(self, target: int) -> Generator[Update, Dispatched, None]:
        """Updates in calls of a fixed size from the round's start on: a resumed run makes the very same calls."""
        self.updates.reset(completed=self.counters.updates)
        while self.counters.updates < target:
            count = min(self.call_size, target - self.counters.updates)
            dispatched = yield Update(count)
            # Those of the call before are fetched while this one runs.
            self.flush()
            self.counters.updates += count
            rate = self._settings.learner.learning_rate_after(self.counters.updates, self.total_updates)
            beside = {"learning_rate": rate, "env_steps": self.counters.env_steps, "wall_seconds": self.wall_seconds()}
            self._unwritten = dispatched.fetch_metrics, dispatched.take_values() | beside
            yield from self.look_on(self.counters.updates - count)
            if self.counters.updates < target and self.timer.is_due_for_all(self.counters.updates):
                self.save()
            self.interrupts.check_together()

    def flush(self) -> None:
        """Fetches the metrics of the last call, and writes them."""
        if self._unwritten is None:
            return
        fetch_metrics, beside = self._unwritten
        self._unwritten = None
        metrics = fetch_metrics()
        host_memory.release_compiled()
        values = {name: float(metrics[name]) for name in ("loss", "agreement", "grad_norm")}
        # Counted once they are done: a call returns as soon as it is dispatched.
        self.updates.set(self.counters.updates)
        check_loss(values["loss"], f"update {self.counters.updates:,}", self.remedy)
        self.write_call(metrics, values | beside)
        status = f"loss {values['loss']:.4f}", f"agreement {100 * values['agreement']:.1f} %", self.ledger.describe()
        self.progress.status(", ".join(filter(None, status)))
