"""One owner of the rings: what it writes is what the pure functions write, and copies on the host come back whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.replay import rings
from pd_jax.replay.relabel import Relabeller
from pd_jax.replay.replay import Replay, RingSize
from pd_jax.system.devices import DeviceGroup
from support.streams import Stream

ONE = DeviceGroup.local(1)
SIZE = RingSize(num_lanes=2, capacity_per_lane=5, observation_shape=(2,), observation_dtype=np.float32, num_actions=3)


def played(lengths: list[int]) -> tuple[Replay, rings.ReplayState]:
    """A replay of two games, of which the second plays, and what `rings.insert` makes of the same rollouts."""
    replay, expected = Replay([SIZE, SIZE], ONE), rings.init(*SIZE)
    stream = Stream(2, lambda: 4, shape=(2,))
    for length in lengths:
        rollout = stream.play(length, np.float32)
        replay.insert(1, rollout)
        expected = rings.insert(expected, rollout)
    return replay, expected


def assert_holds(replay: Replay, game: int, expected: rings.ReplayState) -> None:
    held = jax.tree.map(lambda leaf: np.asarray(leaf)[0], replay.stored[game])
    jax.tree.map(np.testing.assert_array_equal, held, jax.tree.map(np.asarray, expected))


def test_a_rollout_goes_into_its_own_games_rings() -> None:
    replay, expected = played([3, 3])
    assert_holds(replay, 1, expected)
    assert_holds(replay, 0, rings.init(*SIZE))
    assert (replay.steps_held(0), replay.steps_held(1)) == (0, 5)


def test_only_the_newest_are_kept() -> None:
    replay, expected = played([4])
    replay.keep_newest(1, 2)
    assert replay.steps_held(1) == 2
    assert_holds(replay, 1, rings.keep_newest(expected, 2))


def test_another_teachers_outputs_take_the_place_of_those_there() -> None:
    def apply(shift: Any, observations: jax.Array) -> jax.Array:
        return jnp.tile(observations[:, :1], (1, 3)) + shift

    replay, _ = played([4])
    relabelled = replay.relabel(1, Relabeller(apply, ONE), jnp.float32(10), lambda: None)
    assert relabelled.steps == 8
    teacher_q, observations = (rings.steps_of(replay.stored[1], name)[0] for name in ("teacher_q", "observations"))
    np.testing.assert_array_equal(teacher_q[:, :4, 1], observations[:, :4, 0] + 10)


def test_a_copy_on_the_host_is_taken_up_as_it_was() -> None:
    replay, expected = played([3, 3])
    copies = replay.to_host()
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(copies)]
    assert shapes == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(replay.template())]
    other = Replay([SIZE, SIZE], ONE)
    other.from_host(copies)
    assert_holds(other, 1, expected)
    assert_holds(other, 0, rings.init(*SIZE))
