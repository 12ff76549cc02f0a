"""Play that was recorded before, in an order of its own every time that it is gone through."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from pd_jax.replay.recordings import Dataset
from pd_jax.types import Trajectory


class ShuffledPlay:
    """A data set in rollouts that do not follow one another, without an end.

    A recording of ``N`` time steps is ``ceil(N / T)`` rollouts, which begin at multiples of ``T``; the last one may be
    shorter. They are gone through again and again, each time in another order, which follows from the recording's
    identity alone: whatever the seed of who learns, and wherever a run is resumed, the stream is the same.

    Every step of the recording is a decision to learn from in one rollout, and in no other. The stack of a rollout's
    first steps reaches back to steps before it, so these come with it, as none that may be drawn. Where there are none
    before, or none after to fill up the last one, repeated steps stand there instead: all have the same length.

    With rings that hold a whole number ``M`` of rollouts, each stays there while the next ``M - 1`` come. So in the
    long run every decision is there to be drawn equally often, as if the whole recording were in memory.

    Args:
      dataset: an open recording.
      rollout_length: T.
      steps_before: that come with each rollout.
      needs_before: whether a step is none to learn from without all that came before it in its episode, up to
        ``steps_before``; of stacks of frames it always is.
      num_steps: N, however far the recording has grown since; all by default.
      lanes: those to read; all by default.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        rollout_length: int,
        steps_before: int,
        needs_before: bool = False,
        num_steps: int | None = None,
        lanes: slice = slice(None),
    ) -> None:
        self.num_lanes = len(range(dataset.header.num_lanes)[lanes])
        self.finished_returns: list[float] = []
        self._dataset, self._lanes = dataset, lanes
        self._num_steps = dataset.num_steps if num_steps is None else min(num_steps, dataset.num_steps)
        self._length, self._before = rollout_length, steps_before
        self._needs_before = needs_before
        self._num_rollouts = math.ceil(self._num_steps / rollout_length)
        self._stream: Iterator[Trajectory] | None = None
        self._first = 0

    def skip(self, count: int) -> None:
        """Leaves out the first rollouts of the stream, without reading them; to be called before any is taken."""
        assert self._stream is None
        self._first += count

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts, ``[steps_before + T, L, ...]`` each."""
        if self._stream is None:
            self._stream = self._read()
        yield from itertools.islice(self._stream, count)

    def close(self) -> None:
        """Stops reading ahead."""
        self._stream = iter(())

    def _read(self) -> Iterator[Trajectory]:
        wanted, followed = itertools.tee(self._places())
        bounds = ((max(0, begin - self._before), self._end(begin)) for begin in wanted)
        for begin, read in zip(followed, self._dataset.stretches(bounds, self._lanes), strict=True):
            yield self._completed(read, begin)

    def _places(self) -> Iterator[int]:
        """The time steps at which the rollouts of the stream begin."""
        for epoch in itertools.count(self._first // self._num_rollouts):
            order = shuffled_order(self._dataset.header.identity, epoch, self._num_rollouts)
            for place in order[max(0, self._first - epoch * self._num_rollouts) :]:
                yield int(place) * self._length

    def _end(self, begin: int) -> int:
        return min(begin + self._length, self._num_steps)

    def _completed(self, read: Trajectory, begin: int) -> Trajectory:
        """What was read for the rollout that begins there, with as many steps as all have."""
        missing_before = max(0, self._before - begin)
        missing_after = self._length - (self._end(begin) - begin)

        def fill_up(array: Any, mode: Literal["edge", "constant"] = "edge") -> Any:
            return np.pad(array, [(missing_before, missing_after), *[(0, 0)] * (array.ndim - 1)], mode)

        # The steps that fill up are repeated, but begin no episode once more.
        is_first, is_decision = fill_up(read.is_first, "constant"), fill_up(read.is_decision, "constant")
        is_decision[: self._before] = False
        if missing_before and (self._dataset.stack > 1 or self._needs_before):
            # Of a recording that began within an episode, the first stacks, and the last actions, are not whole.
            reach = slice(self._before, self._before + missing_before)
            is_decision[reach] &= np.logical_or.accumulate(is_first[reach], axis=0)
        return Trajectory(
            observations=fill_up(read.observations),
            is_first=is_first,
            is_decision=is_decision,
            actions=fill_up(read.actions),
            rewards=fill_up(read.rewards),
            teacher_q=fill_up(read.teacher_q),
        )


def shuffled_order(identity: str, epoch: int, count: int) -> np.ndarray:
    """The numbers below ``count`` in an order that looks random, another one for each ``epoch``.

    It must never change: resumed runs go on in it. NumPy promises that for the bits of its generators, and for none of
    what it makes of them.
    """
    seed = int.from_bytes(hashlib.sha256(f"{identity}, {epoch}".encode()).digest()[:16], "little")
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
