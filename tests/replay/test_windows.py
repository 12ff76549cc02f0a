"""Stacks of other lengths than 4, and windows of vectors, against a brute-force model of the rings."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from pd_jax.replay import rings
from pd_jax.system.devices import tracing_for
from pd_jax.types import Trajectory

LANES, CAPACITY, ACTIONS = 3, 24, 2
LENGTHS = itertools.cycle([7, 1, 4, 11, 3])


def play(shape: tuple[int, ...], steps: int) -> Trajectory:
    generator = np.random.default_rng(0)
    is_first = generator.random((steps, LANES)) < 0.2
    is_first[0] = True
    observations = generator.integers(256, size=(steps, LANES, *shape)).astype(np.uint8 if len(shape) == 2 else "f4")
    zeros = np.zeros((steps, LANES), np.float32)
    return Trajectory(
        observations=observations,
        is_first=is_first,
        is_decision=~np.roll(is_first, -1, axis=0),
        actions=zeros.astype(np.int32),
        rewards=zeros,
        teacher_q=generator.random((steps, LANES, ACTIONS)).astype(np.float32),
    )


def window(trajectory: Trajectory, lane: int, step: int, length: int) -> np.ndarray:
    """The newest steps up to one, oldest first; before the episode, its first step."""
    begin = max(time for time in range(step + 1) if trajectory.is_first[time, lane])
    times = [max(time, begin) for time in range(step - length + 1, step + 1)]
    seen = np.asarray(trajectory.observations)[times, lane]
    return seen.transpose(1, 2, 0) if seen.ndim == 3 else seen.ravel()


@pytest.mark.parametrize(
    ("shape", "length", "platform"),
    [((6, 4), 1, "cpu"), pytest.param((6, 4), 2, "tpu", marks=pytest.mark.slow), ((3,), 5, "cpu"), ((3,), 5, "tpu")],
    ids=["one frame", "two frames on a TPU", "five vectors", "five vectors on a TPU"],
)
def test_windows_of_any_length_are_those_of_the_model(shape: tuple[int, ...], length: int, platform: str) -> None:
    steps = 40
    trajectory = play(shape, steps)
    # Memory that is laid out as a TPU wants it gives the same on a CPU.
    with tracing_for(platform):
        dtype = trajectory.observations.dtype
        state = rings.init(LANES, CAPACITY, shape, dtype, ACTIONS, length)
        for begin in range(0, steps, 8):
            state = rings.insert(state, jax.tree.map(lambda leaf, at=begin: leaf[at : at + 8], trajectory))
        batch = rings.sample(state, jax.random.key(1), 400)
    by_q = {trajectory.teacher_q[step, lane].tobytes(): (step, lane) for step in range(steps) for lane in range(LANES)}
    drawn = set()
    for seen, outputs in zip(np.asarray(batch.observations), np.asarray(batch.teacher_q), strict=True):
        step, lane = by_q[outputs.tobytes()]
        np.testing.assert_array_equal(seen, window(trajectory, lane, step, length))
        drawn.add((step, lane))
    begins = [
        max(time for time in range(step + 1) if trajectory.is_first[time, lane])
        for step, lane in itertools.product(range(steps), range(LANES))
    ]
    whole = {
        (step, lane)
        for (step, lane), begin in zip(itertools.product(range(steps), range(LANES)), begins, strict=True)
        if trajectory.is_decision[step, lane] and max(step - length + 1, begin) >= steps - CAPACITY
    }
    assert drawn == whole
