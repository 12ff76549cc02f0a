"""Columns of the rings, in every shape and on every platform's formulation, against a NumPy array of steps."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.replay import columns
from pd_jax.system.devices import tracing_for

LANES = 3
SHAPES = [(), (1,), (2,), (3,), (6,), (18,), (64,), (128,), (129,), (300,), (5, 7), (84, 84)]


def steps(length: int, shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, size=(length, LANES, *shape)).astype(dtype)


def empty(capacity: int, shape: tuple[int, ...], platform: str = "tpu") -> jax.Array:
    with tracing_for(platform):
        return jnp.zeros((LANES, *columns.stored_shape(capacity, shape)), np.float32)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_written_is_looked_up_on_every_platform(platform: str, shape: tuple[int, ...]) -> None:
    capacity, lengths = 70, (64, 5, 30)
    expected = np.zeros((LANES, capacity, *shape), np.float32)
    column, position = empty(capacity, shape, platform), 0
    lanes, slots = map(jnp.asarray, np.indices((LANES, capacity)))
    write = jax.jit(columns.write, static_argnums=3)
    with tracing_for(platform):
        for seed, length in enumerate(lengths):
            rollout = steps(length, shape, seed)
            column = write(column, rollout, jnp.int32(position), capacity)
            for time in range(length):
                expected[:, (position + time) % capacity] = rollout[time]
            position = (position + length) % capacity
            found = jax.jit(lambda column: columns.take(column, lanes, slots, shape))(column)
            found = columns.to_frames(found, shape) if len(shape) == 2 else found
            np.testing.assert_array_equal(found, expected)
    flat = expected.reshape(LANES, capacity, -1) if shape else expected
    np.testing.assert_array_equal(columns.to_steps(np.asarray(column), capacity, shape), flat)


@given(
    shape=st.sampled_from([(), (1,), (2,), (5,), (40,), (130,), (3, 2)]),
    capacity=st.integers(1, 200),
    platform=st.sampled_from(["cpu", "tpu"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=8)
@pytest.mark.slow
def test_rollouts_of_any_length_go_around_rings_of_any_capacity(
    shape: tuple[int, ...], capacity: int, platform: str, data: st.DataObject
) -> None:
    expected = np.zeros((LANES, capacity, *shape), np.float32)
    column, position = empty(capacity, shape, platform), 0
    for seed in range(3):
        length = data.draw(st.integers(1, capacity))
        rollout = steps(length, shape, seed)
        column = columns.write(column, jnp.asarray(rollout), jnp.int32(position), capacity)
        for time in range(length):
            expected[:, (position + time) % capacity] = rollout[time]
        position = (position + length) % capacity
    flat = expected.reshape(LANES, capacity, -1) if shape else expected
    np.testing.assert_array_equal(columns.to_steps(np.asarray(column), capacity, shape), flat)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("shape", [(1,), (2,), (6,), (18,), (64,), (100,), (128,), (200,)], ids=str)
def test_blocks_are_set_where_they_were_found(shape: tuple[int, ...], platform: str) -> None:
    capacity = 200
    column = columns.write(
        empty(capacity, shape, platform), jnp.asarray(steps(capacity, shape, 0)), jnp.int32(0), capacity
    )
    before = columns.to_steps(np.asarray(column), capacity, shape).copy()
    found = columns.block(column, jnp.int32(64), 64, shape)
    np.testing.assert_array_equal(found, before[:, 64:128])
    column = columns.set_block(column, jnp.int32(64), found + 1000)
    before[:, 64:128] += 1000
    np.testing.assert_array_equal(columns.to_steps(np.asarray(column), capacity, shape), before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("leading", [(), (2,)], ids=str)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_steps_become_the_column_that_they_came_from(
    shape: tuple[int, ...], leading: tuple[int, ...], platform: str
) -> None:
    capacity = 37
    width = (math.prod(shape),) if shape else ()
    filled = np.random.default_rng(0).integers(256, size=(*leading, LANES, capacity, *width), dtype=np.uint8)
    with tracing_for(platform):
        column = columns.from_steps(filled, shape)
        assert column.shape == (*leading, LANES, *columns.stored_shape(capacity, shape))
    np.testing.assert_array_equal(columns.to_steps(column, capacity, shape), filled)


def test_infinite_and_missing_numbers_stay_with_their_own_step() -> None:
    values = np.array([np.nan, 1.0, np.inf, -np.inf, 2.0], np.float32)
    rollout = np.tile(values[:, None, None], (1, LANES, 6))
    column = columns.write(empty(5, (6,)), jnp.asarray(rollout), jnp.int32(0), 5)
    with tracing_for("tpu"):
        found = jax.jit(lambda column: columns.take(column, jnp.zeros(5, int), jnp.arange(5), (6,)))(column)
    np.testing.assert_array_equal(found[:, 0], values)


def test_a_frame_of_atari_takes_whole_tiles_on_a_tpu_and_little_more() -> None:
    with tracing_for("tpu"):
        assert columns.stored_shape(10, (84, 84)) == (10, 56, 128)
        assert columns.stored_shape(10, (6,)) == (8, 128)
        assert columns.stored_shape(1000, (6,)) == (64, 128)
        assert columns.stored_shape(10, (300,)) == (16, 384)
    assert 56 * 128 / (84 * 84) < 1.016
    for platform in ("cpu", "gpu"):
        with tracing_for(platform):
            assert columns.stored_shape(10, (84, 84)) == (10, 7056)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="neither a number nor a vector nor a frame"):
        columns.stored_shape(10, (84, 84, 4))
