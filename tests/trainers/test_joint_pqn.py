"""PQN on several games at once: its updates against each game's own, and that the values of both come out right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.config.algorithms import PQNConfig
from pd_jax.trainers import joint_pqn, pqn
from support.environments import CountingEnvironment
from support.two_games import NARROW, WIDE, assert_close, make_student, mean_of, one_games_values, random_variables


def make_config(**changes: Any) -> PQNConfig:
    settings: dict[str, Any] = {
        "num_lanes": 4,
        "rollout_length": 8,
        "epochs": 1,
        "minibatches": 1,
        "learning_rate_decay": False,
        "max_grad_norm": 1e6,
    }
    return PQNConfig(**(settings | changes))


def random_rollout(task: Any, seed: int) -> pqn.Transitions:
    rng = np.random.default_rng(seed)
    shape = (8, 4)
    return pqn.Transitions(
        observations=jnp.asarray(rng.standard_normal((*shape, *task.observation_shape)), jnp.float32),
        actions=jnp.asarray(rng.integers(task.num_actions, size=shape), jnp.int32),
        rewards=jnp.asarray(rng.standard_normal(shape), jnp.float32),
        next_value=jnp.asarray(rng.standard_normal(shape), jnp.float32),
        terminated=jnp.asarray(rng.random(shape) < 0.3),
        is_last=jnp.asarray(rng.random(shape) < 0.3),
        weight=jnp.asarray(rng.random(shape) < 0.8, jnp.float32),
    )


def reference_loss(variables: Any, game: int, rollout: pqn.Transitions, gamma: float) -> Any:
    """Half the mean squared error of one game's one-step targets."""
    seen = rollout.observations.reshape(32, -1)
    values = one_games_values(variables, game, seen)[np.arange(32), rollout.actions.reshape(-1)]
    targets = rollout.rewards + gamma * np.where(rollout.terminated, 0.0, rollout.next_value)
    weight = rollout.weight.reshape(-1)
    return 0.5 * (weight * (values - targets.reshape(-1)) ** 2).sum() / weight.sum()


def test_an_update_of_both_games_is_the_mean_of_two_separate_ones() -> None:
    student = make_student()
    config = make_config(td_lambda=0.0, gamma=0.9, learning_rate=1e-3)
    variables = random_variables(student, 0)
    rollouts = (random_rollout(NARROW, 1), random_rollout(WIDE, 2))
    optimizer = pqn.make_optimizer(config)
    state = pqn.PQNState(variables, optimizer.init(variables), jnp.zeros((), jnp.int32), jax.random.key(0))
    after, metrics = jax.jit(joint_pqn.make_learn(student, config))(state, rollouts)
    pairs = [jax.value_and_grad(reference_loss)(variables, game, own, 0.9) for game, own in enumerate(rollouts)]
    np.testing.assert_allclose(metrics["by_game"]["loss"], [value for value, _ in pairs], rtol=1e-5)
    # RAdam's first steps are those of plain momentum, whose bias is corrected: the gradient itself.
    mean = mean_of([gradient for _, gradient in pairs])
    wanted = jax.tree.map(lambda leaf, change: leaf - 1e-3 * change, variables, mean)
    assert_close(after.variables, wanted)
    assert (int(after.env_steps), int(metrics["updates"])) == (64, 1)
    assert joint_pqn.updates_done(after, config, 2) == 1


def test_both_games_values_approach_their_own_discounted_rewards() -> None:
    # An action that is not there would be worth 0, more than any of the narrow game's.
    environments = (CountingEnvironment(reward=-2.0, task=NARROW), CountingEnvironment(reward=1.0, task=WIDE))
    config = make_config(
        gamma=0.5,
        epochs=2,
        minibatches=4,
        clip_rewards=False,
        epsilon_end=1.0,
        learning_rate=1e-2,
        learning_rate_decay=True,
        total_steps=64 * 300,
    )
    student = make_student(head_hidden=16, layer_norm=True)
    state = joint_pqn.init(student, jnp.zeros((2, 1, 6)), config, jax.random.key(0))
    lanes = joint_pqn.start(environments, config, jax.random.key(1))
    iterate = joint_pqn.make_iteration(student, environments, config)
    for _ in range(300):
        state, lanes, metrics = iterate(state, lanes)
    for game, (task, reward) in enumerate(((NARROW, -2.0), (WIDE, 1.0))):
        values = student.policy(game)(state.variables, jnp.eye(4, task.observation_shape[0]))
        # From the states 0, 1 and 2 there are 3, 2 and 1 rewards to come, whatever is done.
        wanted = reward * np.array([[1.75], [1.5], [1.0]]) * np.ones(task.num_actions)
        np.testing.assert_allclose(values[:3], wanted, atol=0.1)
    np.testing.assert_allclose(metrics["by_game"]["game_return"], [-6.0, 3.0])
    np.testing.assert_allclose(metrics["by_game"]["games"], [8, 8])
    assert joint_pqn.updates_done(state, config, 2) == 300 * 8
