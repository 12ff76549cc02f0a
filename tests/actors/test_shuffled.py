"""Shuffled play is a recording's own play, all of it, each decision once every time that it is gone through."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from pd_jax.actors.prefetch import PrefetchedPlay
from pd_jax.actors.shuffled import ShuffledPlay, shuffled_order
from pd_jax.errors import UserError
from pd_jax.replay import rings
from pd_jax.replay.header import DatasetHeader
from pd_jax.replay.recordings import Dataset, DatasetWriter
from pd_jax.types import Trajectory

LANES, BEFORE = 2, rings.STACK - 1
HEADER = DatasetHeader(
    task="pong", env_id="Pong-v5", num_actions=2, observation_shape=(2, 1), observation_dtype="uint8", num_lanes=LANES,
    teacher="pong", teacher_fingerprint="ab" * 32, teacher_output="q", epsilon=0.05, seed=7, chunk_length=4,
    environment={}, recording_id="cd" * 16, planned_steps=64,
)  # fmt: skip
insert = jax.jit(rings.insert)


def made_up(steps: int, seed: int, *, begins_with_an_episode: bool = True) -> Trajectory:
    """Play in which a frame says which step of which lane it is."""
    rng = np.random.default_rng(seed)
    is_first = rng.random((steps, LANES)) < 0.15
    is_first[0] |= begins_with_an_episode
    frames = np.stack(np.broadcast_arrays(np.arange(steps)[:, None], np.arange(LANES)), axis=-1)
    return Trajectory(
        observations=frames[..., None].astype(np.uint8),
        is_first=is_first,
        is_decision=rng.random((steps, LANES)) < 0.9,
        actions=np.zeros((steps, LANES), np.int32),
        rewards=np.zeros((steps, LANES), np.float32),
        teacher_q=rng.normal(size=(steps, LANES, 2)).astype(np.float32),
    )


@pytest.fixture
def record(tmp_path: Path) -> Callable[[Trajectory], Dataset]:
    counter = itertools.count()

    def make(play: Trajectory) -> Dataset:
        path, steps = tmp_path / str(next(counter)), len(play.rewards)
        whole = jax.tree.map(lambda array: np.pad(array, [(0, -steps % 4), *[(0, 0)] * (array.ndim - 1)]), play)
        with DatasetWriter(path, HEADER) as writer:
            writer.append(whole)
        opened = Dataset.open(path)
        return dataclasses.replace(opened, header=dataclasses.replace(opened.header, steps=steps))

    return make


def stack_of(play: Trajectory, step: int, lane: int) -> list[tuple[int, int]] | None:
    """The steps of a stack, oldest first, by walking back to the start of the episode; None if the play has none."""
    found = [step]
    while len(found) < rings.STACK and not play.is_first[found[0], lane]:
        if found[0] == 0:
            return None
        found.insert(0, found[0] - 1)
    return [(step, lane) for step in [found[0]] * (rings.STACK - len(found)) + found]


def wanted(play: Trajectory) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """The stack of each decision that can be learnt from."""
    places = zip(*np.nonzero(play.is_decision), strict=True)
    stacks = {(int(step), int(lane)): stack_of(play, int(step), int(lane)) for step, lane in places}
    return {place: stack for place, stack in stacks.items() if stack is not None}


@jax.jit
def look_up(state: rings.ReplayState, lanes: Array, ages: Array) -> tuple[Array, Array]:
    """Whether the steps of some ages may be drawn, and their stacks."""
    slots = (state.position - state.size + ages) % state.capacity
    is_whole = rings._history(state, lanes, slots) <= ages
    return rings.has_flag(state, lanes, slots, rings.IS_DECISION) & is_whole, rings.gather(state, lanes, slots)


def drawable(state: rings.ReplayState) -> list[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """Every decision that can be drawn from rings, with its stack, by looking at all places."""
    lanes, ages = (axis.ravel() for axis in np.meshgrid(np.arange(LANES), np.arange(int(state.size)), indexing="ij"))
    usable, stacks = map(np.asarray, look_up(state, lanes, ages))
    # [B, H, W, 4], H being the step and the lane.
    frames = [[(int(step), int(lane)) for step, lane in stack[:, 0].T] for stack in stacks[usable]]
    return [(stack[-1], stack) for stack in frames]


def empty_rings(length: int, held: int) -> rings.ReplayState:
    return rings.init(LANES, held * (BEFORE + length), (2, 1), np.uint8, 2)


@pytest.mark.parametrize(("steps", "length", "begins"), [(23, 4, True), (20, 5, True), (7, 7, True), (17, 3, False)])
def test_each_decision_is_there_equally_long_and_with_its_own_stack(
    record: Callable[[Trajectory], Dataset], steps: int, length: int, begins: bool
) -> None:
    play = made_up(steps, seed=steps, begins_with_an_episode=begins)
    expected, held, epochs = wanted(play), 2, 3
    number = -(-steps // length)
    shuffled = ShuffledPlay(record(play), rollout_length=length, steps_before=BEFORE)
    state, extra = empty_rings(length, held), empty_rings(length, held)
    there = Counter[tuple[int, int]]()
    for index, rollout in enumerate(shuffled.rollouts(epochs * number + held - 1)):
        assert rollout.rewards.shape == (BEFORE + length, LANES)
        state = insert(state, jax.tree.map(jnp.asarray, rollout))
        found = drawable(state)
        assert all(stack == expected[place] for place, stack in found)
        there.update(place for place, _ in found)
        if index >= epochs * number:
            # Until the last of these epochs have been written over. What comes meanwhile does not count.
            extra = insert(extra, jax.tree.map(jnp.asarray, rollout))
            there.subtract(place for place, _ in drawable(extra))
    shuffled.close()
    assert there == dict.fromkeys(expected, epochs * held)


def test_in_the_long_run_every_decision_is_drawn_equally_often(record: Callable[[Trajectory], Dataset]) -> None:
    play, length, held = made_up(40, seed=3), 4, 3
    expected = wanted(play)
    shuffled = ShuffledPlay(record(play), rollout_length=length, steps_before=BEFORE)
    state, drawn = empty_rings(length, held), Counter[tuple[int, int]]()
    draw = jax.jit(lambda state, key: rings.sample(state, key, 32).observations[:, :, 0, -1])
    epochs = 40
    for index, rollout in enumerate(shuffled.rollouts(epochs * 10)):
        state = insert(state, jax.tree.map(jnp.asarray, rollout))
        drawn.update((int(step), int(lane)) for step, lane in np.asarray(draw(state, jax.random.key(index))))
    shuffled.close()
    counts = np.array([drawn[place] for place in expected])
    assert sum(counts) == sum(drawn.values()) == epochs * 10 * 32, "of nothing else"
    # Draws of steps that are held together are not quite independent: the rings of one call share its 32 draws among
    # fewer or more decisions. That adds little to the spread of a multinomial, of which six times the error is allowed.
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    freedom = len(counts) - 1
    assert chi_square < freedom + 6 * np.sqrt(2 * freedom)


@settings(max_examples=20)
@given(st.text(max_size=20), st.integers(0, 10**6), st.integers(1, 200))
def test_an_order_has_all_numbers_and_depends_on_recording_and_epoch(identity: str, epoch: int, count: int) -> None:
    order = shuffled_order(identity, epoch, count)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, shuffled_order(identity, epoch, count))
    if count > 50:
        assert (order != shuffled_order(identity, epoch + 1, count)).any()
        assert (order != shuffled_order(f"{identity}+", epoch, count)).any()


def test_orders_are_uniform() -> None:
    counts = Counter(tuple(shuffled_order("pong", epoch, 3)) for epoch in range(6000))
    assert len(counts) == 6
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("left_out", [1, 5, 6, 13])
def test_a_stream_goes_on_where_it_stood(record: Callable[[Trajectory], Dataset], left_out: int) -> None:
    dataset = record(made_up(22, seed=1))
    whole = ShuffledPlay(dataset, rollout_length=4, steps_before=BEFORE)
    rest = PrefetchedPlay(later := ShuffledPlay(dataset, rollout_length=4, steps_before=BEFORE), max_ahead=2)
    later.skip(left_out)
    expected = [*whole.rollouts(20)][left_out:]
    for ours, theirs in zip(rest.rollouts(20 - left_out), expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    whole.close()
    rest.close()


def test_what_was_recorded_since_and_other_lanes_are_not_read(record: Callable[[Trajectory], Dataset]) -> None:
    play = made_up(24, seed=2)
    some = ShuffledPlay(record(play), rollout_length=4, steps_before=0, num_steps=10, lanes=slice(1, 2))
    assert some.num_lanes == 1
    rollouts = [*some.rollouts(3)]
    some.close()
    found = [(int(step), int(lane)) for part in rollouts for step, lane in part.observations[part.is_decision][..., 0]]
    assert sorted(found) == [(step, 1) for step in range(10) if play.is_decision[step, 1]]


def test_rings_that_were_left_out_of_are_as_if_all_had_been_written(record: Callable[[Trajectory], Dataset]) -> None:
    dataset = record(made_up(22, seed=1))
    rollouts = [*ShuffledPlay(dataset, rollout_length=4, steps_before=BEFORE).rollouts(9)]
    whole, shorter = empty_rings(4, 3), rings.skip(empty_rings(4, 3), 6 * 7)
    for index, rollout in enumerate(rollouts):
        whole = insert(whole, rollout)
        shorter = insert(shorter, rollout) if index >= 6 else shorter
    jax.tree.map(np.testing.assert_array_equal, whole, shorter)


def test_a_damaged_chunk_is_named_when_its_turn_comes(record: Callable[[Trajectory], Dataset]) -> None:
    dataset = record(made_up(24, seed=5))
    # Of the steps 8 to 11.
    chunk = Path(dataset.path) / "teacher_q" / "c" / "2" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    play = PrefetchedPlay(ShuffledPlay(Dataset.open(dataset.path), rollout_length=4, steps_before=0), max_ahead=1)
    before = list(shuffled_order(dataset.header.identity, 0, 6)).index(2)
    rollouts = play.rollouts(6)
    assert len([next(rollouts) for _ in range(before)]) == before
    with pytest.raises(UserError, match=r"damaged: .*teacher_q"):
        next(rollouts)
    play.close()
