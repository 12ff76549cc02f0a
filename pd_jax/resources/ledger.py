"""Where the time of a training goes, and so what it is bound by: stepping, inference, updates or input."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from pd_jax.actors.inference_time import RolloutTime

UPDATES = "updates"
PLAY = "play"
INPUT = "input"
TEACHER = "teacher"
SCORING = "scoring"
_OTHER = "other"
_KINDS = (UPDATES, PLAY, INPUT, TEACHER, SCORING, _OTHER)
T = TypeVar("T")


class Ledger:
    """Adds up the wall time of a training by what it was held up by at each moment.

    As long as a call of updates is under way it is the ``updates``, whatever goes on beside them: play that keeps ahead
    of the updates costs nothing. Otherwise it is what the training waits for: ``play``, which is ``stepping`` and
    ``inference`` in the proportion that the playing threads have; ``input``, a recording that is read, and what was
    played or read on its way into the replay; or a ``teacher`` that learns. What is left belongs to none of them, such
    as checkpoints; scores on the way are left out altogether.

    The training itself never waits for the ledger. Calls return once they are dispatched, so a thread waits for them to
    end and notes when they did.

    Args:
      on_stage: is told the name of what begins, each time anew.

    Attributes:
      on_stage: the same.
      plays: of the games that are played live.
    """

    def __init__(self, on_stage: Callable[[str], None] = lambda stage: None) -> None:
        self.on_stage = on_stage
        self.plays: Sequence[RolloutTime] = ()
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(_KINDS, 0.0)
        self._doing: list[str] = []
        self._calls = 0
        self._is_training = False
        self._since = time.monotonic()
        """When the seconds were last brought up to date."""
        self._number = -1
        self._rounds = 0
        self._begin: dict[str, float] | None = None
        """The seconds at the beginning of the second round, or of the first as long as there is no other."""
        self._recent: collections.deque[dict[str, float]] = collections.deque(maxlen=2)
        """Those at the beginning of this round and the one before, but for the first, in which all is compiled."""
        self._taken = dict(self._seconds)
        self._play_taken = 0.0
        self._watcher: concurrent.futures.ThreadPoolExecutor | None = None

    def begin_round(self, number: int) -> None:
        """A round of play and updates begins, unless that has been said: of runs in lockstep each says so."""
        if self._is_training and number == self._number:
            return
        with self._lock:
            self._bring_up_to_date()
            self._is_training = True
            self._number = number
            self._rounds += 1
            if self._rounds <= 2:
                self._begin = dict(self._seconds)
                self._recent.clear()
            self._recent.append(dict(self._seconds))

    def update(self, call: Callable[[], tuple[T, Any]]) -> tuple[T, Any]:
        """Makes a call that dispatches updates, and has its end noted.

        Args:
          call: gives the next state, which the call after may take over, and metrics, which are ready at the end.
        """
        self.on_stage(UPDATES)
        self._count_calls(1)
        try:
            with jax.profiler.TraceAnnotation("dispatch of updates"):
                state, metrics = call()
        except BaseException:
            self._count_calls(-1)
            raise
        if self._watcher is None:
            self._watcher = concurrent.futures.ThreadPoolExecutor(1, "ledger")
        self._watcher.submit(self._note_end, metrics)
        return state, metrics

    @contextlib.contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """What goes on inside is of that kind, but for what is of another kind inside it."""
        with jax.profiler.TraceAnnotation(kind):
            with self._lock:
                self._bring_up_to_date()
                self._doing.append(kind)
            try:
                yield
            finally:
                with self._lock:
                    self._bring_up_to_date()
                    self._doing.pop()

    def waits(self, items: Iterable[T], kind: str) -> Iterator[T]:
        """The same items; the time until each comes is of that kind."""
        iterator = iter(items)
        while True:
            with self.during(kind):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def close(self) -> None:
        """Waits for the last call; time does not count until another round begins."""
        if self._watcher is not None:
            self._watcher.shutdown()
            self._watcher = None
        with self._lock:
            self._bring_up_to_date()
            self._is_training = False

    def take_values(self) -> dict[str, float]:
        """Metrics: seconds of each kind since they were last taken, and of play in the playing threads."""
        with self._lock:
            self._bring_up_to_date()
            seconds = _difference(self._seconds, self._taken)
            self._taken = dict(self._seconds)
        played = sum(play.seconds for play in self.plays)
        values = self._split(seconds)
        if self.plays:
            # After a roll-back the games are played by others, which begin to count anew.
            values["played"] = max(0.0, played - self._play_taken)
            self._play_taken = played
        return {f"seconds/{name}": round(value, 4) for name, value in values.items()}

    def shares(self, *, of_all: bool = False) -> dict[str, float]:
        """Shares in the time of training, scores left out, of all that has a name. Empty if there was no time.

        Args:
          of_all: since the second round, for in the first all is compiled, or since the first if there was only one;
            by default since the round before this one began.
        """
        with self._lock:
            self._bring_up_to_date()
            begin = self._begin if of_all or not self._recent else self._recent[0]
            seconds = {} if begin is None else _difference(self._seconds, begin)
        total = sum(seconds.values()) - seconds.get(SCORING, 0.0)
        return {name: value / total for name, value in self._split(seconds).items()} if total > 0 else {}

    def describe(self) -> str:
        """Such as ``bound by updates (97 %)``, lately; nothing before there is anything to say."""
        shares = self.shares()
        return f"bound by {_largest(shares)} ({100 * max(shares.values()):.0f} %)" if shares else ""

    def summarise(self) -> dict[str, Any]:
        """``time_shares`` and ``bound_by`` for a summary; empty if nothing was trained."""
        shares = self.shares(of_all=True)
        return {"time_shares": shares, "bound_by": _largest(shares)} if shares else {}

    def _split(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """The seconds of all that has a name; play as stepping and inference, if their proportion is known."""
        named = {kind: value for kind, value in seconds.items() if kind not in (_OTHER, SCORING)}
        if not named.get(TEACHER):
            named.pop(TEACHER, None)
        play = named.pop(PLAY, 0.0)
        share = self._inference_share()
        if share is not None:
            return {"stepping": (1.0 - share) * play, "inference": share * play} | named
        return ({PLAY: play} if self.plays else {}) | named

    def _inference_share(self) -> float | None:
        played = sum(play.seconds for play in self.plays)
        shares = [play.inference_share for play in self.plays]
        if not played or None in shares:
            return None
        return sum(play.seconds * (play.inference_share or 0.0) for play in self.plays) / played

    def _count_calls(self, difference: int) -> None:
        with self._lock:
            self._bring_up_to_date()
            self._calls += difference

    def _note_end(self, metrics: Any) -> None:
        # What has failed is told where the metrics are fetched.
        with contextlib.suppress(Exception):
            jax.block_until_ready(metrics)
        self._count_calls(-1)

    def _bring_up_to_date(self) -> None:
        now = time.monotonic()
        if self._is_training:
            kind = UPDATES if self._calls else self._doing[-1] if self._doing else _OTHER
            self._seconds[kind] += now - self._since
        self._since = now


def _difference(seconds: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {kind: seconds[kind] - before[kind] for kind in seconds}


def _largest(shares: Mapping[str, float]) -> str:
    return max(shares, key=lambda name: shares[name])
