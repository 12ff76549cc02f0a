"""DQN: its targets, its optimizers against NumPy, when it updates what, and that its values come out right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.algorithms import DQNConfig
from pd_jax.networks.registry import make_network
from pd_jax.trainers import dqn
from support.environments import CountingEnvironment

STATES = jnp.eye(4)
td_targets = jax.jit(dqn.td_targets)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.floats(-10, 10, width=32, allow_subnormal=False), min_size=7, max_size=7),
    is_terminal=st.booleans(),
    gamma=st.floats(0, 1),
)
def test_targets_follow_the_equations(numbers, is_terminal, gamma):
    reward, target_q, online_q = numbers[0], numbers[1:4], numbers[4:]
    one = np.array([reward], np.float32), np.array([is_terminal])
    rows = np.array([target_q], np.float32), np.array([online_q], np.float32)
    plain = td_targets(*one, rows[0], gamma=gamma)
    double = td_targets(*one, rows[0], gamma=gamma, online_q=rows[1])
    value = 0.0 if is_terminal else max(target_q)
    assert plain[0] == pytest.approx(reward + gamma * value, abs=1e-4)
    value = 0.0 if is_terminal else target_q[online_q.index(max(online_q))]
    assert double[0] == pytest.approx(reward + gamma * value, abs=1e-4)


def small_config(**changes: Any) -> DQNConfig:
    """16 steps and 4 updates an iteration; learning begins with the second."""
    settings = {
        "num_lanes": 4,
        "rollout_length": 4,
        "steps_per_update": 4,
        "batch_size": 32,
        "replay_capacity": 128,
        "learning_starts": 32,
        "target_every": 8,
        "total_steps": 1000,
        "learning_rate": 1e-2,
        "optimizer": "adam",
        "clip_rewards": False,
    }
    return DQNConfig(**(settings | changes))


Result = tuple[Any, dict[str, float]]
"""Copies of the state's arrays after an iteration, all but its key, and the metrics."""


def train_each(
    environment: Any, config: DQNConfig, seeds: tuple[int, ...], iterations: int, state: dqn.DQNState | None = None
) -> list[list[Result]]:
    """The results of all iterations from each seed, or from a given state, through one compiled iteration."""
    network = make_network("mlp", 2, hidden_sizes=(16,))
    iteration, runs = dqn.make_iteration(network, environment, config), []
    for seed in seeds:
        play = dqn.start(environment, config, jax.random.key(seed + 1))
        state = state or dqn.init(network, STATES, config, jax.random.key(seed))
        results = []
        for _ in range(iterations):
            state, play, metrics = iteration(state, play)
            arrays = {name: getattr(state, name) for name in ("variables", "target_variables", "updates", "env_steps")}
            results.append((jax.tree.map(np.array, arrays), {name: float(value) for name, value in metrics.items()}))
        runs.append(results)
        state = None
    return runs


def train(
    environment: Any, config: DQNConfig, *, iterations: int = 6, state: dqn.DQNState | None = None
) -> list[Result]:
    return train_each(environment, config, (0,), iterations, state)[0]


@pytest.fixture(scope="module")
def trained() -> list[list[Result]]:
    return train_each(CountingEnvironment(), small_config(), (0, 0, 9), 6)


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def q_values(arrays: Any) -> np.ndarray:
    return np.asarray(make_network("mlp", 2, hidden_sizes=(16,)).apply(arrays["variables"], STATES))


def test_training_repeats_bit_for_bit_and_another_seed_differs(trained):
    first, again, other = (results[-1][0] for results in trained)
    assert same(first, again)
    assert not same(first["variables"], other["variables"])


def test_nothing_is_learnt_until_the_replay_holds_enough():
    config = small_config(learning_starts=50)
    results = train(CountingEnvironment(), config)
    initial = dqn.init(make_network("mlp", 2, hidden_sizes=(16,)), STATES, config, jax.random.key(0)).variables
    # 16 steps an iteration: the fourth finds 64.
    assert [metrics["updates"] for _, metrics in results] == [0, 0, 0, 4, 4, 4]
    assert [int(arrays["updates"]) for arrays, _ in results] == [0, 0, 0, 4, 8, 12]
    assert [int(arrays["env_steps"]) for arrays, _ in results] == [16, 32, 48, 64, 80, 96]
    assert [same(arrays["variables"], initial) for arrays, _ in results] == [True] * 3 + [False] * 3
    assert [metrics["loss"] > 0 for _, metrics in results] == [False] * 3 + [True] * 3


def test_the_target_network_is_a_copy_from_every_nth_update():
    # One update an iteration, from the second iteration on.
    results = train(CountingEnvironment(), small_config(steps_per_update=16, target_every=3), iterations=9)
    variables = [arrays["variables"] for arrays, _ in results]
    initial = variables[0]
    for iteration, (arrays, _) in enumerate(results):
        updates = int(arrays["updates"])
        assert updates == iteration
        copied = initial if updates < 3 else variables[updates // 3 * 3]
        assert same(arrays["target_variables"], copied)
    assert not any(same(a, b) for a, b in zip(variables[1:], variables[2:], strict=False))


def test_reset_steps_and_what_they_pay_are_never_learnt_from(trained):
    clean = trained[0]
    soiled = train(CountingEnvironment(reset_reward=1e6), small_config())
    assert same(clean[-1][0], soiled[-1][0])
    # Every fourth step is a reset; each lane ends a game in four steps, and each game pays 3.
    assert [metrics["games"] for _, metrics in clean] == [4.0] * 6
    assert [metrics["game_return"] for _, metrics in clean][1:] == [3.0] * 5


def test_clipped_rewards_teach_as_rewards_of_one_and_are_reported_whole(trained):
    clipped = train(CountingEnvironment(reward=100.0), small_config(clip_rewards=True))
    assert same(trained[0][-1][0], clipped[-1][0])
    assert clipped[-1][1]["game_return"] == 300.0


@pytest.mark.parametrize("changes", [{}, {"double": True}, {"optimizer": "rmsprop", "learning_rate": 3e-3}])
def test_q_values_approach_the_discounted_unclipped_rewards_left(changes):
    decay = {"learning_rate_decay": True, "total_steps": 16 * 400}
    config = small_config(gamma=0.5, epsilon_end=1.0, **(decay | changes))
    arrays, metrics = train(CountingEnvironment(reward=2.0), config, iterations=400)[-1]
    # From the states 0, 1 and 2 there are 3, 2 and 1 rewards of 2 to come, whatever is done.
    np.testing.assert_allclose(q_values(arrays)[:3], np.array([[3.5], [3.0], [2.0]]) * np.ones(2), atol=0.1)
    assert metrics["loss"] < 1e-2


def test_an_episode_that_is_cut_off_is_worth_what_would_have_followed():
    config = small_config(gamma=0.5, epsilon_end=1.0, learning_rate_decay=True, total_steps=16 * 400)
    arrays, _ = train(CountingEnvironment(reward=2.0, is_cut_off=True), config, iterations=400)[-1]
    q = q_values(arrays)
    # No step from state 3 is ever seen; it has what value the network gives it, and state 2 counts on it.
    assert abs(q[3].max()) > 0.5
    np.testing.assert_allclose(q[2], 2.0 + 0.5 * q[3].max(), atol=0.1)


def test_rmsprop_is_centred_with_its_epsilon_under_the_root():
    config = DQNConfig(learning_rate=0.1, rmsprop_decay=0.9, rmsprop_epsilon=0.01)
    optimizer = dqn.make_optimizer(config)
    state = optimizer.init(jnp.zeros(3))
    mean, square = np.zeros(3), np.zeros(3)
    for gradient in np.random.default_rng(0).normal(size=(5, 3)):
        step, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        np.testing.assert_allclose(step, -0.1 * gradient / np.sqrt(square - mean**2 + 0.01), rtol=1e-4)


def test_gradients_are_scaled_down_to_their_bound():
    steps = {}
    for bound in (None, 1.0):
        # An epsilon far above every gradient makes Adam's step proportional to the gradient.
        config = DQNConfig(optimizer="adam", adam_epsilon=1e6, max_grad_norm=bound, learning_rate=1.0)
        optimizer = dqn.make_optimizer(config)
        steps[bound], _ = optimizer.update(jnp.array([30.0, 40.0]), optimizer.init(jnp.zeros(2)))
    np.testing.assert_allclose(steps[1.0], steps[None] / 50, rtol=1e-4)


def test_the_learning_rate_falls_to_nothing_by_the_last_update():
    # 100 steps fill the replay, and 900 more are 225 updates.
    config = DQNConfig(
        optimizer="adam", learning_rate=0.1, learning_rate_decay=True, total_steps=1000, learning_starts=100
    )
    optimizer, steps = dqn.make_optimizer(config), []
    state, update = optimizer.init(jnp.zeros(1)), jax.jit(optimizer.update)
    for _ in range(226):
        step, state = update(jnp.ones(1), state)
        steps.append(float(abs(step[0])))
    for index in (0, 45, 224, 225):
        assert steps[index] == pytest.approx(0.1 * (1 - index / 225), rel=1e-3, abs=1e-6)


def test_a_warm_start_gives_both_networks_the_weights():
    network, config = make_network("mlp", 2, hidden_sizes=(16,)), small_config(learning_rate=1e-12)
    other = network.init(jax.random.key(5), STATES)
    wanted = jax.tree.leaves(jax.tree.map(np.array, other))
    state = dqn.warm_start(dqn.init(network, STATES, config, jax.random.key(0)), other)
    # Donation fails for a buffer that is there twice.
    arrays, _ = train(CountingEnvironment(), config, iterations=3, state=state)[-1]
    assert arrays["updates"] == 8
    for name in ("variables", "target_variables"):
        for found, leaf in zip(jax.tree.leaves(arrays[name]), wanted, strict=True):
            np.testing.assert_allclose(found, leaf, atol=1e-9)


def test_an_iteration_writes_the_replay_in_place_and_moves_nothing_between_host_and_device():
    config = small_config(replay_capacity=1_000_000)
    environment, network = CountingEnvironment(), make_network("mlp", 2, hidden_sizes=(16,))
    play = dqn.start(environment, config, jax.random.key(0))
    state = dqn.init(network, STATES, config, jax.random.key(0))
    compiled = dqn.make_iteration(network, environment, config).lower(state, play).compile()
    memory = compiled.memory_analysis()
    stored_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(play.stored))
    assert stored_bytes > 20e6
    assert memory.alias_size_in_bytes >= stored_bytes
    assert memory.temp_size_in_bytes < 1e6
    pointer = play.stored.observations.unsafe_buffer_pointer()
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, play, metrics = compiled(state, play)
        jax.block_until_ready(play)
    assert play.stored.observations.unsafe_buffer_pointer() == pointer
    assert metrics["updates"] == 4
