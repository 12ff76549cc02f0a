"""The play of several games at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence

from pd_jax.actors.play import Play
from pd_jax.system.computing import computing
from pd_jax.types import Trajectory


class SideBySide:
    """The play of several games at once.

    Each game has a thread, which waits for nothing but its own emulators and teacher: XLA and EnvPool work without
    Python's lock. What a game plays depends on its own seed alone, not on how fast the others are.

    Args:
      plays: one source for each game.
    """

    def __init__(self, plays: Sequence[Play]) -> None:
        self.plays = plays
        self._stopped: set[int] = set()

    @property
    def stopped(self) -> frozenset[int]:
        """The games that do not go on, by their places."""
        return frozenset(self._stopped)

    def stop(self, game: int) -> None:
        """Ends a game's play. Rollouts that are on their way may still come."""
        self._stopped.add(game)

    def rollouts(self, counts: Sequence[int]) -> Generator[tuple[int, Trajectory], None, None]:
        """Yields ``(game, trajectory)`` as they come: the next ``counts[game]`` of each game, or as many as are left.

        Close the generator (``contextlib.closing``) if it is not used up: threads finish the rollouts in hand and end.

        Raises:
          Exception: whatever a game's play raises, once.
        """
        counts = [0 if game in self._stopped else count for game, count in enumerate(counts)]
        if len(self.plays) == 1:
            # In the caller's thread, where a signal is heeded at once.
            for trajectory in self.plays[0].rollouts(counts[0]):
                yield 0, trajectory
                if self._stopped:
                    return
            return
        yield from self._threaded(counts)

    def _threaded(self, counts: Sequence[int]) -> Generator[tuple[int, Trajectory], None, None]:
        arrivals: queue.SimpleQueue[tuple[int, Trajectory | BaseException | None]] = queue.SimpleQueue()
        # A game is one rollout ahead of whoever takes them, and no more: a recording is read faster than stored.
        ahead = [threading.Semaphore(1) for _ in self.plays]
        is_over = threading.Event()

        @computing()
        def run(game: int) -> None:
            failure: BaseException | None = None
            try:
                for trajectory in self.plays[game].rollouts(counts[game]):
                    arrivals.put((game, trajectory))
                    ahead[game].acquire()
                    if is_over.is_set() or game in self._stopped:
                        break
            except BaseException as error:
                failure = error
            arrivals.put((game, failure))

        threads = [threading.Thread(target=run, args=(game,), name=f"play-{game}") for game in range(len(self.plays))]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                game, item = arrivals.get()
                if isinstance(item, Trajectory):
                    ahead[game].release()
                    yield game, item
                elif item is None:
                    running -= 1
                else:
                    raise item
        finally:
            is_over.set()
            for semaphore in ahead:
                semaphore.release()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def close(self) -> None:
        """Lets go of what the sources hold."""
        for play in self.plays:
            play.close()
