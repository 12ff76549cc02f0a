"""The replay against a brute-force model of its rings, and against EnvPool's own frame stacks."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import envpool
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.replay import rings
from pd_jax.system.devices import tracing_for
from pd_jax.types import Trajectory
from support.platforms import operations
from support.streams import FRAME, Stream, streams

insert = jax.jit(rings.insert, donate_argnums=0)
sample = jax.jit(rings.sample, static_argnames="batch_size")
gather = jax.jit(rings.gather)
sample_16 = functools.partial(sample, batch_size=16)
ACTIONS = 3


def filled(stream: Stream, capacity: int, rollout_lengths: list[int], dtype: type = np.uint8) -> rings.ReplayState:
    state = rings.init(stream.lanes, capacity, stream.shape, dtype, ACTIONS)
    for length in rollout_lengths:
        state = insert(state, stream.play(length, dtype))
    return state


@given(streams())
@settings(deadline=None, max_examples=40)
def test_stacks_are_those_of_the_brute_force_model_after_every_rollout(case: tuple[Stream, int, list[int]]) -> None:
    stream, capacity, rollout_lengths = case
    state = rings.init(stream.lanes, capacity, FRAME, np.uint8, ACTIONS)
    lanes, slots = np.indices((stream.lanes, capacity)).reshape(2, -1)
    for length in rollout_lengths:
        state = insert(state, stream.play(length))
        stacks = np.asarray(gather(state, lanes, slots)).reshape(stream.lanes, capacity, *FRAME, 4)
        teacher_q = rings.steps_of(state, "teacher_q")
        for lane, time in stream.intact(capacity):
            np.testing.assert_array_equal(stacks[lane, time % capacity], stream.stack(lane, time))
            np.testing.assert_array_equal(teacher_q[lane, time % capacity], stream.q(lane, time))
    assert state.size == min(stream.time, capacity)
    assert state.position == stream.time % capacity


@given(streams(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_samples_are_decisions_with_intact_stacks_and_their_own_q_values(
    case: tuple[Stream, int, list[int]], seed: int
) -> None:
    stream, capacity, rollout_lengths = case
    state = filled(stream, capacity, rollout_lengths)
    usable = stream.usable(capacity)
    if not usable:
        return
    batch = sample(state, jax.random.key(seed), 256)
    observations, teacher_q = np.asarray(batch.observations), np.asarray(batch.teacher_q)
    for stack, q in zip(observations, teacher_q, strict=True):
        lane, time = (int(value) for value in stack[0, :2, -1])
        assert (lane, time) in usable
        np.testing.assert_array_equal(stack, stream.stack(lane, time))
        np.testing.assert_array_equal(q, stream.q(lane, time))


@pytest.mark.parametrize(
    ("shape", "rollouts"), [(FRAME, 4), (FRAME, 12), ((3,), 12)], ids=["filling", "wrapped", "vectors"]
)
def test_sampling_is_uniform_over_all_usable_steps(shape: tuple[int, ...], rollouts: int) -> None:
    capacity, draws = 40, 200_000
    episode_lengths = itertools.cycle([3, 9, 2, 14, 6])
    # Lanes and slots with a common divisor: were both drawn from the same bits, some steps would never come up.
    stream = Stream(4, lambda: next(episode_lengths), shape=shape)
    state = filled(stream, capacity, [7] * rollouts)
    if shape == FRAME:
        usable = stream.usable(capacity)
    else:
        stored = itertools.product(range(stream.lanes), range(max(stream.time - capacity, 0), stream.time))
        usable = {(lane, time) for lane, time in stored if stream.is_decision[lane][time]}
    drawn = np.asarray(sample(state, jax.random.key(0), draws).teacher_q * 8)[:, :2].astype(int)
    counts = np.bincount(drawn[:, 0] * 1000 + drawn[:, 1])
    assert {(step // 1000, step % 1000) for step in np.flatnonzero(counts)} == usable
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-3


def test_samples_of_different_keys_differ_and_of_equal_keys_agree() -> None:
    state = filled(Stream(3, lambda: 10), 40, [20])
    first, again, other = (sample(state, jax.random.key(seed), 64).teacher_q for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.slow
def test_groups_of_lanes_give_equal_shares_wherever_they_are() -> None:
    lanes, steps = 12, 8
    number = np.broadcast_to(np.arange(lanes, dtype=np.float32)[:, None], (steps, lanes, 1))
    trajectory = Trajectory(
        observations=number,
        teacher_q=number,
        rewards=number[..., 0],
        actions=number[..., 0].astype(np.int32),
        is_first=np.zeros((steps, lanes), bool),
        is_decision=np.arange(steps)[:, None] % 2 * np.ones((1, lanes)) > 0,
    )
    key = jax.random.key(1)

    def drawn(first: int, last: int) -> list[float]:
        """By a store of the groups ``first`` to ``last`` of 4, each of 3 lanes."""
        part = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, 3 * first : 3 * last], trajectory)
        state = rings.insert(rings.init(3 * (last - first), steps, (1,), jnp.float32, 1), part)
        count = last - first
        return rings.sample(state, key, 5 * count, num_groups=count, first_group=first).teacher_q[:, 0].tolist()

    whole = drawn(0, 4)
    assert [int(lane) // 3 for lane in whole] == [group for group in range(4) for _ in range(5)]
    assert len(set(whole)) > 6, "a group draws from all its lanes"
    assert drawn(0, 1) + drawn(1, 3) + drawn(3, 4) == whole
    with pytest.raises(ValueError, match="5 groups do not divide 12 lanes and a batch of 20"):
        rings.sample(rings.init(12, steps, (1,), jnp.float32, 1), key, 20, num_groups=5)


def test_vectors_are_returned_unstacked_and_unrounded() -> None:
    stream = Stream(2, lambda: 5, shape=(3,))
    state = filled(stream, 8, [6, 6], np.float32)
    third = np.float32(1 / 3)
    state = dataclasses.replace(state, observations=state.observations * third)
    batch = sample(state, jax.random.key(0), 32)
    assert batch.observations.shape == (32, 3) and batch.observations.dtype == jnp.float32
    steps = [(int(lane), int(time)) for lane, time in np.asarray(batch.teacher_q)[:, :2] * 8]
    expected = np.array([stream.frame(*step) for step in steps]).astype(np.float32) * third
    np.testing.assert_array_equal(batch.observations, expected)


def test_insert_and_sample_move_nothing_between_host_and_device() -> None:
    stream = Stream(2, lambda: 5)
    state, trajectory, key = filled(stream, 13, [8]), stream.play(8), jax.random.key(0)
    with jax.transfer_guard("disallow"):
        state = insert(state, trajectory)
        batch = jax.block_until_ready(sample(state, key, 16))
    assert batch.observations.shape == (16, *FRAME, 4)


def atari_shapes(capacity: int, steps: int, lanes: int, actions: int) -> tuple[rings.ReplayState, Trajectory]:
    """Shapes alone, so that a store of any size costs the test no memory."""

    def build() -> tuple[rings.ReplayState, Trajectory]:
        return rings.init(lanes, capacity, (84, 84), jnp.uint8, actions), Trajectory(
            observations=jnp.zeros((steps, lanes, 84, 84), jnp.uint8),
            is_first=jnp.zeros((steps, lanes), jnp.bool_),
            is_decision=jnp.zeros((steps, lanes), jnp.bool_),
            actions=jnp.zeros((steps, lanes), jnp.int32),
            rewards=jnp.zeros((steps, lanes), jnp.float32),
            teacher_q=jnp.zeros((steps, lanes, actions), jnp.float32),
        )

    return jax.eval_shape(build)


def test_a_donated_insert_writes_in_place_with_memory_for_the_rollout_only() -> None:
    state, trajectory = atari_shapes(capacity=12_500, steps=32, lanes=8, actions=6)
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    rollout_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trajectory))
    memory = insert.lower(state, trajectory).compile().memory_analysis()
    assert state_bytes > 300 * rollout_bytes
    assert memory is not None
    assert memory.alias_size_in_bytes == state_bytes
    assert memory.temp_size_in_bytes < 4 * rollout_bytes


def test_a_donated_insert_keeps_the_buffers() -> None:
    stream = Stream(2, lambda: 5)
    state = filled(stream, 13, [8])
    buffers = [leaf.unsafe_buffer_pointer() for leaf in (state.observations, state.flags, state.teacher_q)]
    state = insert(state, stream.play(8))
    assert [leaf.unsafe_buffer_pointer() for leaf in (state.observations, state.flags, state.teacher_q)] == buffers


@pytest.mark.parametrize("actions", [3, 6, 18])
def test_a_step_takes_at_most_five_percent_more_than_its_frame_and_q_values(actions: int) -> None:
    state = rings.init(2, 1000, (84, 84), jnp.uint8, actions)
    size = rings.bytes_per_step(state)
    print(f"{size:.2f} bytes a step with {actions} actions, {size / (7056 + 4 * actions):.5f} of frame and Q-values")
    assert size == pytest.approx(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2000)
    assert 7056 + 4 * actions <= size <= 1.05 * (7056 + 4 * actions)


@pytest.mark.parametrize("mapping", ["vmap", "pmap"])
def test_a_leading_device_axis_holds_independent_stores(mapping: str) -> None:
    count = 3 if mapping == "vmap" else jax.local_device_count()
    map_insert = jax.jit(jax.vmap(rings.insert)) if mapping == "vmap" else jax.pmap(rings.insert)
    map_sample = jax.jit(jax.vmap(sample_16)) if mapping == "vmap" else jax.pmap(sample_16)
    makers = [Stream(2, functools.partial(int, 3 + n)) for n in range(count)]
    states = [rings.init(2, 13, FRAME, np.uint8, ACTIONS) for _ in range(count)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    keys = jax.random.split(jax.random.key(0), count)
    for _ in range(3):
        rollouts = [stream.play(8) for stream in makers]
        states = [insert(state, rollout) for state, rollout in zip(states, rollouts, strict=True)]
        stacked = map_insert(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rollouts))
    batches = map_sample(stacked, keys)
    alone = [sample_16(state, key) for state, key in zip(states, keys, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, batches, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))
    assert rings.bytes_per_step(stacked) == rings.bytes_per_step(states[0])


def test_what_does_not_fit_is_refused() -> None:
    stream = Stream(2, lambda: 5)
    state = rings.init(2, 4, FRAME, np.uint8, ACTIONS)
    with pytest.raises(ValueError, match="a rollout of 5 steps does not fit into 4 slots per lane"):
        rings.insert(state, stream.play(5))
    with pytest.raises(AssertionError):
        rings.insert(state, stream.play(3, np.float32))
    with pytest.raises(AssertionError):
        rings.insert(state, Stream(3, lambda: 5).play(3))
    with pytest.raises(AssertionError):
        rings.insert(state, Stream(2, lambda: 5, shape=(3, 2)).play(3))
    with pytest.raises(ValueError, match="must be at least 1"):
        rings.init(0, 4, FRAME, np.uint8, ACTIONS)
    with pytest.raises(ValueError, match="must be a frame"):
        rings.init(2, 4, (84, 84, 4), np.uint8, ACTIONS)


def record_envpool(
    game: str, max_episode_steps: int, steps: int, lanes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random play: the stacks shown, uint8 ``[steps, lanes, 84, 84, 4]``, and which are first and which terminal."""
    env = envpool.make_gymnasium(
        game, num_envs=lanes, seed=7, stack_num=4, max_episode_steps=max_episode_steps, num_threads=2
    )
    rng = np.random.default_rng(0)
    shown = np.empty((steps, lanes, 84, 84, 4), np.uint8)
    is_first, is_terminal = np.ones((steps, lanes), bool), np.zeros((steps, lanes), bool)
    shown[0] = env.reset()[0].transpose(0, 2, 3, 1)
    for time in range(1, steps):
        actions = rng.integers(env.action_space.n, size=lanes, dtype=np.int32)
        observations, _, terminated, truncated, _ = env.step(actions)
        shown[time], is_terminal[time] = observations.transpose(0, 2, 3, 1), terminated | truncated
        # Acting on a terminal observation does nothing but show the first one of the next episode.
        is_first[time] = is_terminal[time - 1]
    return shown, is_first, is_terminal


@pytest.mark.parametrize(
    ("game", "max_episode_steps", "lanes", "fewest_ends"), [("Breakout-v5", 27_000, 8, 4), ("Pong-v5", 60, 4, 16)]
)
def test_stacks_equal_those_of_envpool_bit_for_bit(
    game: str, max_episode_steps: int, lanes: int, fewest_ends: int
) -> None:
    steps, rollout_length, capacity = 315, 21, 130
    shown, is_first, is_terminal = record_envpool(game, max_episode_steps, steps, lanes)
    assert is_terminal.sum() >= fewest_ends
    state = rings.init(lanes, capacity, (84, 84), jnp.uint8, ACTIONS)

    def assert_rebuilt(times: range) -> int:
        time, lane = (axis.ravel() for axis in np.meshgrid(times, range(lanes), indexing="ij"))
        rebuilt = gather(state, jnp.asarray(lane), jnp.asarray(time % capacity))
        np.testing.assert_array_equal(rebuilt, shown[time, lane])
        return len(time)

    checked = 0
    for start in range(0, steps, rollout_length):
        span = slice(start, start + rollout_length)
        rollout = Trajectory(
            observations=jnp.asarray(shown[span, ..., 3]),
            is_first=jnp.asarray(is_first[span]),
            is_decision=jnp.asarray(~is_terminal[span]),
            actions=jnp.zeros((rollout_length, lanes), jnp.int32),
            rewards=jnp.zeros((rollout_length, lanes), jnp.float32),
            teacher_q=jnp.zeros((rollout_length, lanes, ACTIONS), jnp.float32),
        )
        state = insert(state, rollout)
        checked += assert_rebuilt(range(start, start + rollout_length))
    assert checked == steps * lanes
    # Once more, now that the ring has wrapped twice: all that is left, but for the oldest three.
    assert_rebuilt(range(steps - capacity + 3, steps))


@pytest.mark.parametrize(("platform", "barriers"), [("cpu", 1), ("gpu", 0), ("tpu", 0)])
def test_frames_are_copied_apart_from_the_turning_of_their_stacks_on_a_cpu_alone(platform: str, barriers: int) -> None:
    state = rings.init(2, 8, FRAME, np.uint8, ACTIONS)
    with tracing_for(platform):
        assert operations(rings.gather, state, np.zeros(3, int), np.zeros(3, int))["optimization_barrier"] == barriers
