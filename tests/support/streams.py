"""Play whose every step can be told from every other, and a brute-force model of the stacks in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from pd_jax.types import Trajectory

FRAME = (2, 3)


class Stream:
    """Play of ``lanes`` lanes whose every step can be told from every other, and the stacks an environment would show.

    The model keeps all of it, indexed by time, and finds a stack by walking back one step at a time.
    """

    def __init__(
        self, lanes: int, episode_lengths: Callable[[], int], starts_first: bool = True, shape: tuple[int, ...] = FRAME
    ) -> None:
        self.lanes, self.shape = lanes, shape
        self.is_first: list[list[bool]] = [[] for _ in range(lanes)]
        self.is_decision: list[list[bool]] = [[] for _ in range(lanes)]
        self._episodes = [self._flags(episode_lengths, starts_first) for _ in range(lanes)]
        self.time = 0

    @staticmethod
    def _flags(episode_lengths: Callable[[], int], starts_first: bool) -> Iterator[tuple[bool, bool]]:
        for episode in itertools.count():
            length = episode_lengths()
            for step in range(length):
                yield step == 0 and (starts_first or episode > 0), step < length - 1

    def frame(self, lane: int, time: int) -> np.ndarray:
        values = (7 * np.arange(np.prod(self.shape)) + 31 * lane + 3 * time) % 251
        values[:2] = lane, time
        return values.reshape(self.shape)

    def q(self, lane: int, time: int) -> np.ndarray:
        return np.array([lane, time, lane * 1000 + time], np.float32) / 8

    def play(self, steps: int, dtype: type = np.uint8) -> Trajectory:
        times = range(self.time, self.time + steps)
        for lane, episodes in enumerate(self._episodes):
            for is_first, is_decision in itertools.islice(episodes, steps):
                self.is_first[lane].append(is_first)
                self.is_decision[lane].append(is_decision)
        self.time += steps
        grid = [[(lane, time) for lane in range(self.lanes)] for time in times]
        return Trajectory(
            observations=jnp.asarray([[self.frame(*step) for step in row] for row in grid], dtype),
            is_first=jnp.asarray([[self.is_first[lane][time] for lane, time in row] for row in grid]),
            is_decision=jnp.asarray([[self.is_decision[lane][time] for lane, time in row] for row in grid]),
            actions=jnp.zeros((steps, self.lanes), jnp.int32),
            rewards=jnp.zeros((steps, self.lanes), jnp.float32),
            teacher_q=jnp.asarray([[self.q(*step) for step in row] for row in grid]),
        )

    def stack_times(self, lane: int, time: int) -> list[int]:
        """Times of the four frames, oldest first; negative where the stream began in the middle of an episode."""
        times = [time]
        while len(times) < 4:
            oldest = times[0]
            times.insert(0, oldest if oldest >= 0 and self.is_first[lane][oldest] else oldest - 1)
        return times

    def stack(self, lane: int, time: int) -> np.ndarray:
        return np.stack([self.frame(lane, t) for t in self.stack_times(lane, time)], axis=-1)

    def intact(self, capacity: int) -> list[tuple[int, int]]:
        """Steps whose whole stack is among the last ``capacity`` steps."""
        oldest = max(self.time - capacity, 0)
        steps = itertools.product(range(self.lanes), range(oldest, self.time))
        return [step for step in steps if self.stack_times(*step)[0] >= oldest]

    def usable(self, capacity: int) -> set[tuple[int, int]]:
        return {(lane, time) for lane, time in self.intact(capacity) if self.is_decision[lane][time]}


@st.composite
def streams(draw: st.DrawFn) -> tuple[Stream, int, list[int]]:
    """A stream, a capacity and rollout lengths: wrapping at every offset, from few shapes because each is compiled."""
    capacity = draw(st.sampled_from([1, 3, 5, 13]))
    lengths = draw(st.lists(st.sampled_from([n for n in (1, 3, 5) if n <= capacity]), min_size=1, max_size=9))
    longest = draw(st.sampled_from([2, 4, 12]))
    episodes = draw(st.randoms(use_true_random=False))
    return Stream(2, lambda: episodes.randint(2, longest), draw(st.booleans())), capacity, lengths
