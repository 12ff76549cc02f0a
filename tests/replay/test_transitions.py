"""The transitions of the replay against a brute-force model, and against the dynamics of a real environment."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.algorithms import DQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.networks.registry import make_network
from pd_jax.replay import rings, transitions
from pd_jax.replay.transitions import Steps, TransitionState
from pd_jax.trainers import dqn
from support.streams import FRAME, Stream, streams

insert = jax.jit(transitions.insert, donate_argnums=0)
sample = jax.jit(transitions.sample, static_argnames="batch_size")


def is_terminal(stream: Stream, lane: int, time: int) -> bool:
    """Every other episode ends by itself; the rest are cut off."""
    return not stream.is_decision[lane][time] and (lane + time) % 2 == 0


def play(stream: Stream, length: int) -> Steps:
    trajectory = stream.play(length)
    grid = list(itertools.product(range(stream.time - length, stream.time), range(stream.lanes)))

    def column(function: Any, dtype: Any) -> jax.Array:
        return jnp.asarray([function(lane, time) for time, lane in grid], dtype).reshape(length, stream.lanes)

    return Steps(
        observations=trajectory.observations,
        opens_game=trajectory.is_first,
        is_last=~trajectory.is_decision,
        is_terminal=column(lambda lane, time: is_terminal(stream, lane, time), bool),
        actions=column(lambda lane, time: 100 * lane + time, jnp.int32),
        rewards=column(lambda lane, time: time / 4 - lane, jnp.float32),
    )


def filled(stream: Stream, capacity: int, rollout_lengths: list[int]) -> TransitionState:
    state = transitions.init(stream.lanes, capacity, stream.shape, np.uint8)
    for length in rollout_lengths:
        state = insert(state, play(stream, length))
    return state


@given(streams(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_samples_are_all_the_transitions_of_the_brute_force_model_and_no_others(
    case: tuple[Stream, int, list[int]], seed: int
) -> None:
    stream, capacity, rollout_lengths = case
    state = filled(stream, capacity, rollout_lengths)
    usable = {(lane, time) for lane, time in stream.usable(capacity) if time + 1 < stream.time}
    if not usable:
        return
    batch = jax.tree.map(np.asarray, sample(state, jax.random.key(seed), 512))
    drawn = {(int(stack[0, 0, -1]), int(stack[0, 1, -1])) for stack in batch.observations}
    # At most 26 places: that 512 draws miss one has a chance of 1e-7.
    assert drawn == usable
    for index, stack in enumerate(batch.observations):
        lane, time = (int(value) for value in stack[0, :2, -1])
        np.testing.assert_array_equal(stack, stream.stack(lane, time))
        np.testing.assert_array_equal(batch.next_observations[index], stream.stack(lane, time + 1))
        assert batch.actions[index] == 100 * lane + time
        assert batch.rewards[index] == time / 4 - lane
        assert batch.is_terminal[index] == is_terminal(stream, lane, time + 1)


def test_transitions_of_cartpole_obey_its_equations_of_motion() -> None:
    task = get_task("cartpole")
    config = DQNConfig(num_lanes=8, rollout_length=16, replay_capacity=1600, learning_starts=1600)
    network, environment = make_network("mlp", 2), Environment(task, config.num_lanes, 1)
    play = dqn.start(environment, config, jax.random.key(0))
    state = dqn.init(network, play.lanes.timestep.observations, config, jax.random.key(1))
    iteration = dqn.make_iteration(network, environment, config)
    # The rings hold 200 steps: they have wrapped by then, in the middle of a rollout.
    for _ in range(17):
        state, play, _ = iteration(state, play)
    batch = jax.tree.map(np.asarray, sample(play.stored, jax.random.key(2), 2000))
    jax.block_until_ready(play)
    environment.close()
    # Barto, Sutton and Anderson (1983): cart of 1 kg, pole of 0.1 kg and 1 m, force of 10 N, Euler steps of 20 ms.
    _, velocity, angle, rate = batch.observations.T
    force = np.where(batch.actions == 1, 10.0, -10.0)
    push = (force + 0.05 * rate**2 * np.sin(angle)) / 1.1
    angular = (9.8 * np.sin(angle) - np.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
    linear = push - 0.05 * angular * np.cos(angle) / 1.1
    changes = np.stack([velocity, linear, rate, angular], axis=1)
    following = batch.observations + 0.02 * changes
    np.testing.assert_allclose(batch.next_observations, following, atol=1e-5)
    has_fallen = (abs(following[:, 0]) > 2.4) | (abs(following[:, 2]) > np.deg2rad(12))
    np.testing.assert_array_equal(batch.is_terminal, has_fallen)
    assert 20 < has_fallen.sum() < 400
    assert set(batch.rewards) == {1.0}


@pytest.mark.slow
def test_the_replay_rebuilds_what_the_policy_saw_across_lost_lives_and_games() -> None:
    task, lanes, capacity = get_task("breakout"), 4, 160
    settings = {"num_lanes": lanes, "rollout_length": 1, "replay_capacity": lanes * capacity, "batch_size": 1}
    config = DQNConfig(**settings, learning_starts=lanes * capacity)
    network, environment = make_network("net3", task.num_actions), Environment(task, lanes, 3, episodic_life=True)
    play = dqn.start(environment, config, jax.random.key(0))
    state = dqn.init(network, play.lanes.timestep.observations, config, jax.random.key(1))
    iteration, seen = dqn.make_iteration(network, environment, config), []
    for _ in range(capacity + 40):
        seen.append(jax.tree.map(np.array, play.lanes.timestep))
        state, play, _ = iteration(state, play)
    jax.block_until_ready(play)
    environment.close()
    lost_lives = sum(int((step.terminated & ~step.game_over).sum()) for step in seen)
    games = sum(int(step.game_over.sum()) for step in seen)
    assert lost_lives >= 8 and games >= 2
    # All that is stored, but for the oldest steps, whose stacks are no longer whole.
    times = np.arange(len(seen) - capacity + 3, len(seen))
    time, lane = (axis.ravel() for axis in np.meshgrid(times, range(lanes), indexing="ij"))
    places = play.stored, jnp.asarray(lane), jnp.asarray(time % capacity)
    shown = np.stack([step.observations for step in seen])
    np.testing.assert_array_equal(jax.jit(rings.gather)(*places), shown[time, lane])
    for flag, name in ((transitions.IS_TERMINAL, "terminated"), (rings.IS_DECISION, "is_last")):
        holds = np.stack([getattr(step, name) for step in seen])[time, lane]
        np.testing.assert_array_equal(rings.has_flag(*places, flag), holds ^ (name == "is_last"))


def test_a_step_of_atari_takes_an_eighth_of_two_stacks() -> None:
    state = transitions.init(2, 1000, (84, 84), jnp.uint8)
    # The frame, its flags, an action and a reward; and two counters of the whole store.
    assert rings.bytes_per_step(state) == pytest.approx(7056 + 1 + 4 + 4 + 8 / 2000)


def test_what_does_not_fit_is_refused() -> None:
    stream = Stream(2, lambda: 5)
    state = transitions.init(2, 4, FRAME, np.uint8)
    with pytest.raises(ValueError, match="a rollout of 5 steps does not fit into 4 slots per lane"):
        transitions.insert(state, play(stream, 5))
    with pytest.raises(AssertionError):
        transitions.insert(state, play(Stream(3, lambda: 5), 3))
