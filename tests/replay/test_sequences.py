"""Sequences that are drawn from rings, against the brute-force model of the play in them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from pd_jax.replay import rings, sequences
from pd_jax.replay.sequences import Windows
from support.streams import FRAME, Stream

LANES = 2
place = jax.jit(sequences.place, static_argnames=("windows", "count", "num_groups"))
observe = jax.jit(sequences.observe)


def filled(stream: Stream, capacity: int, rollouts: int, length: int) -> rings.ReplayState:
    state = rings.init(stream.lanes, capacity, stream.shape, np.uint8, 3)
    for _ in range(rollouts):
        state = rings.insert(state, stream.play(length))
    return state


def episodes() -> Stream:
    return Stream(LANES, functools.partial(next, itertools.cycle([3, 9, 2, 14, 6])))


def steps_of(state: rings.ReplayState, stream: Stream, lanes: np.ndarray, slots: np.ndarray) -> list[list[int]]:
    """The times of steps, from where they lie."""
    oldest = stream.time - int(state.size)
    times = oldest + (slots - (int(state.position) - int(state.size))) % state.capacity
    assert (lanes < stream.lanes).all()
    return times.tolist()


@pytest.mark.parametrize("rollouts", [5, 12], ids=["filling", "wrapped"])
@pytest.mark.parametrize("windows", [Windows(6, 3), Windows(4, 0), Windows(1, 7)], ids=str)
def test_a_window_is_consecutive_steps_of_one_lane_with_whole_stacks(rollouts: int, windows: Windows) -> None:
    stream = episodes()
    state = filled(stream, capacity=40, rollouts=rollouts, length=5)
    drawn = place(state, windows, jax.random.key(0), 2048)
    lanes, starts = np.unique(np.stack(drawn), axis=1)
    slots = sequences.slots_of(state, starts, -windows.burn_in, windows.steps)
    observations, is_first = map(np.asarray, observe(state, lanes, slots))
    learnt = np.asarray(sequences.is_learnt(state, lanes, starts, windows.length))
    begins = set()
    for place_, lane in enumerate(np.asarray(lanes).tolist()):
        times = observations[place_, :, 0, 1, -1].tolist()
        assert times == list(range(times[0], times[0] + windows.steps))
        begins.add((lane, times[0]))
        for step, time in enumerate(times):
            np.testing.assert_array_equal(observations[place_, step], stream.stack(lane, time))
            assert is_first[place_, step] == stream.is_first[lane][time]
        decided = [stream.is_decision[lane][time] for time in times[windows.burn_in :]]
        np.testing.assert_array_equal(learnt[place_], decided)
    oldest = max(stream.time - 40, 0) + 3
    assert begins == set(itertools.product(range(LANES), range(oldest, stream.time - windows.steps + 1)))


def test_windows_are_drawn_evenly() -> None:
    state = filled(episodes(), capacity=40, rollouts=12, length=5)
    lanes, starts = place(state, Windows(6, 3), jax.random.key(1), 100_000)
    counts = collections.Counter(zip(np.asarray(lanes).tolist(), np.asarray(starts).tolist(), strict=True))
    assert len(counts) == LANES * (40 - 3 - 9 + 1)
    # Five standard deviations of a binomial.
    expected = 100_000 / len(counts)
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


@pytest.mark.parametrize("length", [3, 6])
def test_of_stretches_each_step_but_those_before_is_in_one_sequence(length: int) -> None:
    """As shuffled play lies in the rings: three steps for stacks and two to remember by, then six to learn from."""
    stream, windows = episodes(), Windows(length, 2, segment=11, before=5)
    state = filled(stream, capacity=33, rollouts=4, length=11)
    lanes, starts = place(state, windows, jax.random.key(0), 4096)
    slots = sequences.slots_of(state, starts, 0, length)
    times = steps_of(state, stream, np.asarray(lanes), np.asarray(slots))
    found = set(zip(np.asarray(lanes).tolist(), map(tuple, times), strict=True))
    expected = {
        (lane, tuple(range(begin, begin + length)))
        for lane, stretch in itertools.product(range(LANES), (11, 22, 33))
        for begin in range(stretch + 5, stretch + 11, length)
    }
    assert found == expected


def test_what_is_past_the_end_of_a_store_counts_nothing() -> None:
    stream = episodes()
    state = filled(stream, capacity=40, rollouts=1, length=5)
    lanes, starts = place(state, Windows(6, 3), jax.random.key(0), 64)
    learnt = np.asarray(sequences.is_learnt(state, lanes, starts, 6))
    for lane, steps in zip(np.asarray(lanes).tolist(), learnt.tolist(), strict=True):
        assert steps == [time < 5 and stream.is_decision[lane][time] for time in range(3, 9)]


def test_groups_of_lanes_give_the_same_windows_whoever_holds_the_others() -> None:
    stream = Stream(4, lambda: 7, shape=FRAME)
    state = filled(stream, capacity=20, rollouts=4, length=5)
    windows, key = Windows(3, 2), jax.random.key(5)
    together = place(state, windows, key, 16, num_groups=2)
    halves = []
    for group in range(2):
        own = dataclasses.replace(
            state, **{name: getattr(state, name)[2 * group : 2 * group + 2] for name in state.step_shapes}
        )
        lanes, starts = place(own, windows, key, 8, num_groups=1, first_group=group)
        halves.append((lanes + 2 * group, starts))
    for whole, parts in zip(together, zip(*halves, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))
    with pytest.raises(ValueError, match="3 groups do not divide"):
        sequences.place(state, windows, key, 16, num_groups=3)
