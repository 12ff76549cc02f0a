"""Play of the round to come while the updates of this one run: a thread and a bounded queue for each game."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator

from pd_jax.actors.play import Play
from pd_jax.system.computing import computing
from pd_jax.types import Trajectory


class PrefetchedPlay:
    """A source of play that is played by a thread of its own, as far ahead as it is let.

    A teacher's play does not depend on its student, so what comes out is bit for bit what the source alone would give.
    What the thread raises comes out where the rollout would have: a run ends at the same update however far ahead it
    played.

    Args:
      play: the source. From now on it is this one's to play and to close.
      max_ahead: rollouts that may be played and not yet taken, at least 1; the thread then waits for one to be taken.

    Attributes:
      num_lanes: the source's.
      finished_returns: as of `pd_jax.actors.live.LivePlay`, of the rollouts that were taken.
    """

    def __init__(self, play: Play, max_ahead: int) -> None:
        if max_ahead < 1:
            raise ValueError(f"max_ahead must be at least 1, got {max_ahead}")
        self.num_lanes = play.num_lanes
        self.finished_returns: list[float] = []
        self._play = play
        self._max_ahead = max_ahead
        self._changed = threading.Condition()
        self._waiting: collections.deque[tuple[Trajectory, list[float]]] = collections.deque()
        self._expected = self._taken = 0
        self._has_ended = self._is_closed = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def expect(self, count: int) -> None:
        """Lets the thread play the next ``count`` rollouts before anyone asks for them; returns at once."""
        with self._changed:
            self._expected = max(self._expected, self._taken + count)
            # Not before there is something to play: a run that fails while it is being opened leaves no thread behind.
            if self._thread is None and count and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="play-ahead")
                self._thread.start()
            self._changed.notify_all()

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts, or as many as are left; raises what the source raised."""
        self.expect(count)
        for _ in range(count):
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._has_ended)
                if not self._waiting:
                    if self._failure is not None:
                        raise self._failure
                    return
                trajectory, returns = self._waiting.popleft()
                self._taken += 1
                self._changed.notify_all()
            self.finished_returns.extend(returns)
            yield trajectory

    def close(self) -> None:
        """Waits for the rollout in hand, ends the thread, and only then closes the source."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._waiting.clear()
        self._play.close()

    @computing()
    def _run(self) -> None:
        try:
            while self._may_play():
                trajectory = next(iter(self._play.rollouts(1)), None)
                if trajectory is None:
                    return
                returns, self._play.finished_returns = self._play.finished_returns, []
                with self._changed:
                    self._waiting.append((trajectory, returns))
                    self._changed.notify_all()
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _may_play(self) -> bool:
        """Waits until a rollout is wanted and there is room for it; False once this is closed."""

        def is_wanted() -> bool:
            return self._taken + len(self._waiting) < self._expected and len(self._waiting) < self._max_ahead

        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or is_wanted())
            return not self._is_closed
