"""PQN: its targets against a sum over n-step returns, its handling of resets, and CartPole."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.actors import rollout
from pd_jax.config.algorithms import PQNConfig
from pd_jax.networks.registry import make_network
from pd_jax.trainers import pqn
from pd_jax.trainers.algorithm import epsilon_at
from support.environments import CountingEnvironment

STEPS, LANES = 7, 2
lambda_returns = jax.jit(pqn.lambda_returns)


def brute_force_return(
    t: int, rewards: Any, next_value: Any, terminated: Any, is_last: Any, gamma: float, td_lambda: float
) -> float:
    """The lambda-weighted mean of the n-step returns from ``t``, up to the end of the episode or of the rollout."""
    end = next((step for step in range(t, STEPS) if is_last[step]), STEPS - 1)

    def n_step(n: int) -> float:
        last = t + n - 1
        paid = sum(gamma**k * rewards[t + k] for k in range(n))
        return paid + (0.0 if terminated[last] else gamma**n * next_value[last])

    longest = end - t + 1
    shorter = sum((1 - td_lambda) * td_lambda ** (n - 1) * n_step(n) for n in range(1, longest))
    return shorter + td_lambda ** (longest - 1) * n_step(longest)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.floats(-10, 10, width=32), min_size=2 * STEPS * LANES, max_size=2 * STEPS * LANES),
    ends=st.lists(st.sampled_from(["", "", "terminated", "truncated"]), min_size=STEPS * LANES, max_size=STEPS * LANES),
    gamma=st.floats(0, 1),
    td_lambda=st.floats(0, 1),
)
def test_lambda_returns_equal_the_weighted_sum_of_n_step_returns(numbers, ends, gamma, td_lambda):
    rewards, next_value = np.array(numbers, np.float32).reshape(2, STEPS, LANES)
    end = np.array(ends).reshape(STEPS, LANES)
    terminated, is_last = end == "terminated", end != ""
    found = lambda_returns(rewards, next_value, terminated, is_last, gamma=gamma, td_lambda=td_lambda)
    for lane in range(LANES):
        columns = [array[:, lane].tolist() for array in (rewards, next_value, terminated, is_last)]
        expected = [brute_force_return(t, *columns, gamma, td_lambda) for t in range(STEPS)]
        np.testing.assert_allclose(found[:, lane], expected, atol=1e-3)


def test_nothing_leaks_over_the_end_of_an_episode_or_out_of_a_reset_step():
    # Step 2 ends the episode and step 3 is the reset, whose reward and value belong to no transition.
    rewards, next_value = np.ones((STEPS, 1), np.float32), np.ones((STEPS, 1), np.float32)
    is_last = np.arange(STEPS)[:, None] == 2
    later = np.arange(STEPS)[:, None] >= 3
    settings = {"gamma": 0.9, "td_lambda": 0.8}
    for terminated in (is_last, np.zeros_like(is_last)):
        clean = lambda_returns(rewards, next_value, terminated, is_last, **settings)
        soiled = lambda_returns(rewards + 1e6 * later, next_value + 1e6 * later, terminated, is_last, **settings)
        np.testing.assert_array_equal(clean[:3], soiled[:3])
        assert clean[2, 0] == pytest.approx(1.0 if terminated.any() else 1.9)


def small_config(**changes: Any) -> PQNConfig:
    defaults = {"num_lanes": 4, "rollout_length": 16, "epochs": 2, "minibatches": 4, "total_steps": 1000}
    return PQNConfig(**(defaults | {"learning_rate": 1e-2, "clip_rewards": False, "td_lambda": 0.9} | changes))


def train(
    environment: Any, config: PQNConfig, network: Any = None, *, iterations: int = 3, seeds: tuple[int, ...] = (0,)
) -> list[tuple[pqn.PQNState, dict[str, jax.Array]]]:
    """The state and the last metrics after some iterations from each seed, all through one compiled iteration."""
    network = network or make_network("mlp", 2, hidden_sizes=(8,))
    iteration, results = pqn.make_iteration(network, environment, config), []
    for seed in seeds:
        lanes = rollout.start(environment, jax.random.key(seed + 1))
        state = pqn.init(network, lanes.timestep.observations, config, jax.random.key(seed))
        for _ in range(iterations):
            state, lanes, metrics = iteration(state, lanes)
        results.append((state, metrics))
    return results


@pytest.fixture(scope="module")
def trained() -> list[tuple[pqn.PQNState, dict[str, jax.Array]]]:
    return train(CountingEnvironment(), small_config(), seeds=(0, 0, 9))


def test_training_repeats_bit_for_bit_and_another_seed_differs(trained):
    first, again, other = (state.variables["params"] for state, _ in trained)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["torso"]["fc1"]["kernel"] != other["torso"]["fc1"]["kernel"]).any()


def test_reset_steps_weigh_nothing(trained):
    clean, metrics = trained[0]
    ((soiled, _),) = train(CountingEnvironment(reset_reward=1e6), small_config())
    jax.tree.map(np.testing.assert_array_equal, clean.variables, soiled.variables)
    # A quarter of the 64 steps of an iteration end a game, and every game pays 3.
    assert metrics["games"] == 16 and metrics["game_return"] == 3.0
    assert clean.env_steps == 3 * 64


def test_clipped_rewards_teach_as_rewards_of_one_and_are_reported_whole(trained):
    ((clipped, metrics),) = train(CountingEnvironment(reward=100.0), small_config(clip_rewards=True))
    jax.tree.map(np.testing.assert_array_equal, clipped.variables, trained[0][0].variables)
    assert metrics["game_return"] == 300.0


def test_q_values_approach_the_discounted_unclipped_rewards_left():
    network = make_network("mlp", 2, hidden_sizes=(32,), layer_norm=True)
    config = small_config(gamma=0.5, total_steps=64 * 150, epsilon_end=1.0)
    ((state, metrics),) = train(CountingEnvironment(reward=2.0), config, network, iterations=150)
    q_values = network.apply(state.variables, jnp.eye(4))
    # From the states 0, 1 and 2 there are 3, 2 and 1 rewards of 2 to come, whatever is done.
    np.testing.assert_allclose(q_values[:3], np.array([[3.5], [3.0], [2.0]]) * np.ones(2), atol=0.1)
    assert metrics["loss"] < 1e-2


@pytest.mark.parametrize(("env_steps", "epsilon"), [(0, 0.8), (50, 0.5), (100, 0.2), (700, 0.2)])
def test_epsilon_falls_linearly_and_then_stays(env_steps, epsilon):
    config = small_config(total_steps=1000, epsilon_start=0.8, epsilon_end=0.2, epsilon_decay_fraction=0.1)
    assert float(epsilon_at(jnp.int32(env_steps), config)) == pytest.approx(epsilon, rel=1e-5)


def test_the_learning_rate_falls_to_nothing_by_the_last_update():
    def step_sizes(decay: bool) -> list[float]:
        # 640 steps are 10 iterations of 8 updates.
        optimizer = pqn.make_optimizer(small_config(total_steps=640, learning_rate_decay=decay, learning_rate=0.1))
        state, steps = optimizer.init(jnp.zeros(1)), []
        update = jax.jit(optimizer.update)
        for _ in range(81):
            step, state = update(jnp.ones(1), state)
            steps.append(float(abs(step[0])))
        return steps

    falling, constant = step_sizes(True), step_sizes(False)
    for update in (0, 20, 40, 79, 80):
        assert falling[update] == pytest.approx(constant[update] * (1 - update / 80), abs=1e-5)


def test_muon_learns_matrices_at_the_rate_and_all_else_by_adam_at_a_tenth_of_it():
    optimizer = pqn.make_optimizer(
        small_config(optimizer="muon", learning_rate=1e-2, learning_rate_decay=False, max_grad_norm=1e9)
    )
    normal = functools.partial(jax.random.normal, jax.random.key(0))
    gradients = {"kernel": normal((40, 30)), "wide": normal((300, 256)), "scale": normal((30,))}
    changes, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    # The first steps are known: an orthogonal matrix, and Adam's, by sign alone.
    sizes = jnp.linalg.svd(changes["kernel"], compute_uv=False)
    assert float(sizes.min()) > 0.5e-2 * (30 / 40) ** 0.5 and float(sizes.max()) < 1.5e-2
    np.testing.assert_allclose(changes["wide"], -1e-3 * jnp.sign(gradients["wide"]), rtol=1e-3)
    nesterov = 0.9 * 0.1 / (1 - 0.9**2) + 1.0
    np.testing.assert_allclose(changes["scale"], -1e-3 * nesterov * jnp.sign(gradients["scale"]), rtol=1e-3)


def test_muon_stands_still_once_its_rate_has_fallen_to_nothing():
    optimizer = pqn.make_optimizer(small_config(total_steps=64, optimizer="muon", learning_rate=0.1))
    params = {"kernel": jnp.eye(3), "bias": jnp.ones(3)}
    state = optimizer.init(params)
    for _ in range(9):
        changes, state = optimizer.update(params, state, params)
    assert max(float(jnp.abs(change).max()) for change in changes.values()) == 0.0
