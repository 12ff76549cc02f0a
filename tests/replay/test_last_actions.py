"""The last actions of stored steps, against a brute-force model of the rings."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.replay import rings
from pd_jax.system.devices import tracing_for
from pd_jax.types import Trajectory

LANES, CAPACITY, STEPS, COUNT = 3, 24, 40, 4


def play(action_shape: tuple[int, ...]) -> Trajectory:
    generator = np.random.default_rng(0)
    is_first = generator.random((STEPS, LANES)) < 0.2
    is_first[0] = True
    actions = generator.integers(1, 6, size=(STEPS, LANES, *action_shape))
    return Trajectory(
        observations=generator.random((STEPS, LANES, 3)).astype(np.float32),
        is_first=is_first,
        is_decision=~np.roll(is_first, -1, axis=0),
        actions=actions.astype(np.float32 if action_shape else np.int32),
        rewards=np.zeros((STEPS, LANES), np.float32),
        teacher_q=generator.random((STEPS, LANES, 2)).astype(np.float32),
    )


def before(trajectory: Trajectory, lane: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """What was played before a step, the newest first, and which of it belongs to the same episode."""
    begin = max(time for time in range(step + 1) if trajectory.is_first[time, lane])
    times = np.array([step - back for back in range(1, COUNT + 1)])
    return np.asarray(trajectory.actions)[np.maximum(times, 0), lane], times >= begin


@pytest.mark.parametrize(
    ("action_shape", "platform"), [((), "cpu"), ((2,), "tpu")], ids=["chosen", "continuous on a TPU"]
)
def test_last_actions_are_those_of_the_model(action_shape: tuple[int, ...], platform: str) -> None:
    trajectory = play(action_shape)

    @jax.jit
    def look(trajectory: Trajectory) -> Any:
        state = rings.init(LANES, CAPACITY, (3,), np.float32, 2, None, COUNT, action_shape)
        for begin in range(0, STEPS, 20):
            state = rings.insert(state, jax.tree.map(lambda leaf, at=begin: leaf[at : at + 20], trajectory))
        places = rings.place(state, jax.random.key(1), 400)
        return (*rings.last_actions(state, *places), rings.fetch(state, *places).teacher_q)

    with tracing_for(platform):
        actions, is_there, outputs = map(np.asarray, look(trajectory))
    by_q = {trajectory.teacher_q[step, lane].tobytes(): (step, lane) for step in range(STEPS) for lane in range(LANES)}
    drawn = set()
    for own, there, output in zip(actions, is_there, outputs, strict=True):
        step, lane = by_q[output.tobytes()]
        wanted, is_wanted = before(trajectory, lane, step)
        np.testing.assert_array_equal(there, is_wanted)
        np.testing.assert_array_equal(own[there], wanted[is_wanted])
        drawn.add((step, lane))
    # What reaches past what is stored is not drawn, unless its episode opens before that.
    oldest = STEPS - CAPACITY
    whole = {
        (step, lane)
        for step in range(oldest, STEPS)
        for lane in range(LANES)
        if trajectory.is_decision[step, lane] and step - min(COUNT, before(trajectory, lane, step)[1].sum()) >= oldest
    }
    assert drawn == whole


def test_rings_without_last_actions_store_none() -> None:
    state = rings.init(LANES, CAPACITY, (3,), np.float32, 2)
    assert state.actions is None and "actions" not in state.step_shapes
