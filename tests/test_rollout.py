"""Rollouts: exploration, the two ways of stepping, and what a trajectory says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pd_jax import rollout
from pd_jax.envs import Environment
from pd_jax.tasks import get_task


def run(
    stepping: str, network: Any, variables: Any, environment: Environment, seed: int, calls: int, length: int
) -> Any:
    """``calls`` rollouts of ``length`` steps: the last state, and all trajectories and finished games on end."""
    play = rollout.make_rollout(environment, network.apply, length, stepping=stepping)
    state, parts = rollout.start(environment, jax.random.key(seed)), []
    for _ in range(calls):
        state, trajectory, finished = play(variables, state, 0.3)
        parts.append(jax.device_get((trajectory, finished)))
    trajectory, finished = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return state, trajectory, finished


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("breakout", {"episodic_life": True, "max_episode_steps": 130}),
        ("pong", {"max_episode_steps": 90, "sticky_action_probability": 0.1}),
    ],
)
def test_in_jit_and_host_stepping_play_the_same_games_for_a_thousand_steps(random_policy, name, options):
    network, variables = random_policy(name, "net3")

    def play(stepping: str) -> Any:
        environment = Environment(get_task(name), 2, 11, **options)
        return run(stepping, network, variables, environment, seed=4, calls=20, length=50)

    state, trajectory, finished = play("jit")
    host_state, host_trajectory, host_finished = play("host")
    for field in ("observations", "is_first", "is_decision", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(trajectory, field), getattr(host_trajectory, field), err_msg=field)
    np.testing.assert_allclose(trajectory.teacher_q, host_trajectory.teacher_q, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, finished, host_finished)
    np.testing.assert_array_equal(state.timestep.observations, host_state.timestep.observations)
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(host_state.key))
    episodes, games = (~trajectory.is_decision).sum(), finished.mask.sum()
    assert games >= 10
    if name == "breakout":
        assert episodes > games + 10, "lives were lost"
        assert finished.returns[finished.mask].sum() > 0


def test_the_teachers_outputs_belong_to_the_stack_of_the_frames_stored(random_policy):
    network, variables = random_policy("pong", "net3")
    environment = Environment(get_task("pong"), 2, 0, max_episode_steps=20)
    _, trajectory, _ = run("jit", network, variables, environment, seed=0, calls=1, length=64)
    stacks = np.zeros((64, 2, 84, 84, 4), np.uint8)
    for step in range(64):
        for lane in range(2):
            start = max(time for time in range(step + 1) if trajectory.is_first[time, lane])
            for index in range(4):
                stacks[step, lane, ..., index] = trajectory.observations[max(step - 3 + index, start), lane]
    expected = jax.jit(network.apply)(variables, stacks.reshape(-1, 84, 84, 4)).reshape(64, 2, -1)
    np.testing.assert_allclose(trajectory.teacher_q, expected, atol=1e-4)


def test_flags_mark_the_first_and_the_last_observation_of_every_episode(random_policy):
    network, variables = random_policy("cartpole", "mlp")
    environment = Environment(get_task("cartpole"), 3, 0, max_episode_steps=12)
    _, trajectory, finished = run("jit", network, variables, environment, seed=0, calls=4, length=25)
    assert trajectory.is_first[0].all()
    np.testing.assert_array_equal(trajectory.is_first[1:], ~trajectory.is_decision[:-1])
    # A game ends when its last observation is reached, one step before that is recorded.
    np.testing.assert_array_equal(finished.mask[:-1], ~trajectory.is_decision[1:])
    # CartPole pays 1 for every step of the game, and nothing for the step in which a lane is reset.
    np.testing.assert_array_equal(trajectory.rewards, trajectory.is_decision)
    np.testing.assert_array_equal(finished.returns[finished.mask], finished.lengths[finished.mask])
    assert finished.lengths[finished.mask].max() == 12 > finished.lengths[finished.mask].min()


@pytest.mark.parametrize("stepping", ["jit", "host"])
def test_one_long_rollout_equals_several_short_ones(random_policy, stepping):
    network, variables = random_policy("cartpole", "mlp")

    def play(calls: int, length: int) -> Any:
        return run(stepping, network, variables, Environment(get_task("cartpole"), 4, 2), 0, calls, length)[1:]

    jax.tree.map(np.testing.assert_array_equal, play(1, 90), play(3, 30))


def test_seeds_decide_the_play(random_policy):
    network, variables = random_policy("cartpole", "mlp")

    def actions(emulator_seed: int, key_seed: int) -> np.ndarray:
        environment = Environment(get_task("cartpole"), 4, emulator_seed)
        return run("host", network, variables, environment, key_seed, calls=1, length=50)[1].actions

    first = actions(1, 1)
    np.testing.assert_array_equal(actions(1, 1), first)
    assert (actions(1, 2) != first).any()
    assert (actions(100, 1) != first).any()


def test_a_rollout_moves_nothing_between_host_and_device(random_policy):
    network, variables = random_policy("cartpole", "mlp")
    environment = Environment(get_task("cartpole"), 4, 0)
    play = rollout.make_rollout(environment, network.apply, 8)
    state, _, _ = play(variables, rollout.start(environment, jax.random.key(0)), jnp.float32(0.1))
    epsilon = jnp.float32(0.1)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(play(variables, state, epsilon))


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0])
def test_exploration_is_uniform_and_as_frequent_as_epsilon_says(epsilon):
    lanes, actions, best = 20_000, 6, 4
    q_values = jnp.zeros((lanes, actions)).at[:, best].set(1.0)
    chosen = np.asarray(rollout.epsilon_greedy(jax.random.key(0), q_values, epsilon))
    expected = np.full(actions, lanes * epsilon / actions)
    expected[best] += lanes * (1 - epsilon)
    assert chosen.dtype == np.int32
    assert scipy.stats.chisquare(np.bincount(chosen, minlength=actions), expected).pvalue > 0.001


def test_lanes_explore_independently_of_one_another():
    q_values = jnp.zeros((2, 2)).at[:, 0].set(1.0)
    keys = jax.random.split(jax.random.key(1), 4000)
    explored = np.asarray(jax.jit(jax.vmap(lambda key: rollout.epsilon_greedy(key, q_values, 0.8)))(keys))
    # Action 1 is taken with probability 0.4, whatever the other lane does.
    pairs = np.bincount(2 * explored[:, 0] + explored[:, 1], minlength=4)
    assert scipy.stats.chisquare(pairs, 4000 * np.array([0.36, 0.24, 0.24, 0.16])).pvalue > 0.001


def test_no_exploration_is_greedy_play():
    q_values = jnp.asarray(np.random.default_rng(0).standard_normal((500, 5)))
    np.testing.assert_array_equal(
        rollout.epsilon_greedy(jax.random.key(0), q_values, 0.0), np.argmax(np.asarray(q_values), axis=1)
    )


def test_an_unknown_way_of_stepping_is_refused(random_policy):
    network, _ = random_policy("cartpole", "mlp")
    with pytest.raises(ValueError, match="'gpu'"):
        rollout.make_rollout(Environment(get_task("cartpole"), 1, 0), network.apply, 1, stepping="gpu")
