"""DQN on several games at once: its updates against each game's own, and that the values of both come out right."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.algorithms import DQNConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.replay import transitions
from pd_jax.replay.transitions import Steps, TransitionState
from pd_jax.trainers import dqn, joint_dqn
from pd_jax.trainers.setup import TrainingSetup
from support.environments import CountingEnvironment
from support.two_games import NARROW, WIDE, assert_close, make_student, mean_of, one_games_values, random_variables

GAMES = (NARROW, WIDE)


def make_config(**changes: Any) -> DQNConfig:
    """16 steps of each game an iteration, and 8 updates; learning begins with the second."""
    settings = {
        "num_lanes": 4,
        "rollout_length": 4,
        "steps_per_update": 4,
        "batch_size": 32,
        "replay_capacity": 128,
        "learning_starts": 32,
        "target_every": 8,
        "total_steps": 2000,
        "learning_rate": 1e-2,
        "optimizer": "adam",
        "clip_rewards": False,
    }
    return DQNConfig(**(settings | changes))


def random_play(task: Any, seed: int, num_lanes: int = 4, length: int = 32) -> TransitionState:
    rng = np.random.default_rng(seed)
    shape = (length, num_lanes)
    is_last = rng.random(shape) < 0.2
    steps = Steps(
        observations=jnp.asarray(rng.standard_normal((*shape, *task.observation_shape)), jnp.float32),
        opens_game=jnp.asarray(rng.random(shape) < 0.2),
        is_last=jnp.asarray(is_last),
        is_terminal=jnp.asarray(is_last & (rng.random(shape) < 0.7)),
        actions=jnp.asarray(rng.integers(task.num_actions, size=shape), jnp.int32),
        rewards=jnp.asarray(rng.standard_normal(shape), jnp.float32),
    )
    return transitions.insert(transitions.init(num_lanes, length, task.observation_shape, "float32"), steps)


@functools.partial(jax.jit, static_argnames=("game", "double"))
@functools.partial(jax.value_and_grad, argnums=0)
def reference_loss(variables: Any, targets: Any, game: int, batch: Any, *, double: bool) -> Any:
    """One game's mean Huber loss, with a discount of 0.99."""
    rows = np.arange(8)
    values = one_games_values(variables, game, batch.observations)
    target_values = one_games_values(targets, game, batch.next_observations)
    chooser = one_games_values(variables, game, batch.next_observations) if double else target_values
    future = jnp.where(batch.is_terminal, 0.0, 0.99 * target_values[rows, chooser.argmax(axis=-1)])
    error = values[rows, batch.actions] - jax.lax.stop_gradient(batch.rewards + future)
    return jnp.where(abs(error) <= 1.0, 0.5 * error**2, abs(error) - 0.5).sum() / 8


@pytest.fixture(scope="module")
def start() -> tuple[Any, dqn.DQNState, tuple[TransitionState, ...]]:
    student = make_student()
    variables, targets = random_variables(student, 0), random_variables(student, 1)
    zero = jnp.zeros((), jnp.int32)
    # A large epsilon makes a step of RMSProp proportional to the gradient.
    optimizer = dqn.make_optimizer(plain_steps())
    state = dqn.DQNState(variables, targets, optimizer.init(variables), zero, zero, jax.random.key(7))
    return student, state, (random_play(NARROW, 2), random_play(WIDE, 3))


def plain_steps(**changes: Any) -> DQNConfig:
    """One update an iteration, whose step is the gradient times 0.1."""
    plain = {"optimizer": "rmsprop", "rmsprop_epsilon": 1e6, "learning_rate": 100.0, "steps_per_update": 32}
    return make_config(batch_size=8, target_every=1000, **(plain | changes))


def drawn(state: dqn.DQNState, stored: tuple[TransitionState, ...], game: int) -> Any:
    """The minibatch that a state's next update has of a game."""
    _, key = jax.random.split(state.key)
    return jax.tree.map(np.asarray, transitions.sample(stored[game], jax.random.fold_in(key, game), 8))


@pytest.mark.parametrize("double", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_update_of_both_games_is_the_mean_of_two_separate_ones(start: Any, double: bool) -> None:
    student, state, stored = start
    config = plain_steps(double=double)
    after, metrics = jax.jit(joint_dqn.make_learn(student, config))(state, stored)
    losses, gradients = [], []
    for game in range(2):
        value, gradient = reference_loss(
            state.variables, state.target_variables, game, drawn(state, stored, game), double=double
        )
        losses.append(float(value))
        gradients.append(gradient)
    assert metrics["updates"] == 1
    np.testing.assert_allclose(metrics["by_game"]["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    wanted = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, state.variables, mean_of(gradients))
    assert_close(after.variables, wanted)
    for game in range(2):
        # What the other game's head got from this one.
        other = gradients[game]["params"]["head"][f"output{1 - game}"]["kernel"]
        assert not np.any(other)
    values = [one_games_values(state.variables, game, drawn(state, stored, game).observations) for game in range(2)]
    np.testing.assert_allclose(metrics["by_game"]["mean_q"], [own.mean() for own in values], rtol=1e-4)


def test_alternating_updates_are_about_one_game_after_the_other(start: Any) -> None:
    student, state, stored = start
    config = plain_steps(games="alternating")
    learn = jax.jit(joint_dqn.make_learn(student, config))
    for update in range(3):
        game = update % 2
        value, gradient = reference_loss(
            state.variables, state.target_variables, game, drawn(state, stored, game), double=False
        )
        after, metrics = learn(state, stored)
        if update == 0:
            wanted = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, state.variables, gradient)
            assert_close(after.variables, wanted)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
        assert np.isnan(metrics["by_game"]["loss"][1 - game])
        np.testing.assert_allclose(metrics["by_game"]["loss"][game], value, rtol=1e-5)
        state = after


@functools.cache
def make_iteration(config: DQNConfig) -> tuple[Any, Any, Any]:
    # An action that is not there would be worth 0, more than any of the narrow game's.
    environments = (CountingEnvironment(reward=-2.0, task=NARROW), CountingEnvironment(reward=1.0, task=WIDE))
    student = make_student(head_hidden=16)
    return student, environments, joint_dqn.make_iteration(student, environments, config)


def train(config: DQNConfig, iterations: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    student, environments, iterate = make_iteration(config)
    state = joint_dqn.init(student, jnp.zeros((2, 1, 6)), config, jax.random.key(0))
    play = joint_dqn.start(environments, config, jax.random.key(1))
    metrics: dict[str, Any] = {}
    for _ in range(iterations):
        state, play, metrics = iterate(state, play)
    return student, state, play, metrics


@pytest.mark.parametrize("games", ["together", "alternating"])
def test_both_games_values_approach_their_own_discounted_rewards(games: str) -> None:
    config = make_config(gamma=0.5, epsilon_end=1.0, learning_rate_decay=True, total_steps=32 * 400, games=games)
    student, state, play, metrics = train(config, 400)
    assert (int(state.env_steps), int(state.updates)) == (32 * 400, 8 * 399)
    for game, (task, reward) in enumerate(((NARROW, -2.0), (WIDE, 1.0))):
        states = jnp.eye(4, task.observation_shape[0])
        values = student.policy(game)(state.variables, states)
        # From the states 0, 1 and 2 there are 3, 2 and 1 rewards to come, whatever is done.
        wanted = reward * np.array([[1.75], [1.5], [1.0]]) * np.ones(task.num_actions)
        np.testing.assert_allclose(values[:3], wanted, atol=0.1)
        # Actions at random, and none that the game does not have.
        assert set(np.unique(play[game].stored.actions)) == set(range(task.num_actions))
    np.testing.assert_allclose(metrics["by_game"]["game_return"], [-6.0, 3.0])
    # Every lane ends a game in four steps.
    np.testing.assert_allclose(metrics["by_game"]["games"], [4, 4])
    assert metrics["loss"] < 1e-2


def test_training_repeats_bit_for_bit_and_begins_once_every_replay_holds_enough() -> None:
    config = make_config(learning_starts=50)
    once, again = (train(config, 4) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, once[1].variables, again[1].variables)
    # 16 steps of each game an iteration: the fourth finds 64.
    assert (int(once[1].updates), int(once[3]["updates"]), int(train(config, 3)[1].updates)) == (8, 8, 0)


def test_an_iteration_writes_both_replays_in_place() -> None:
    config = make_config(replay_capacity=1_000_000, games="alternating")
    environments = (CountingEnvironment(task=NARROW), CountingEnvironment(task=WIDE))
    student = make_student()
    play = joint_dqn.start(environments, config, jax.random.key(0))
    state = joint_dqn.init(student, jnp.zeros((2, 1, 6)), config, jax.random.key(0))
    memory = joint_dqn.make_iteration(student, environments, config).lower(state, play).compile().memory_analysis()
    stored_bytes = sum(leaf.nbytes for own in play for leaf in jax.tree.leaves(own.stored))
    assert stored_bytes > 50e6
    assert memory.alias_size_in_bytes >= stored_bytes
    assert memory.temp_size_in_bytes < 1e6


def test_replays_larger_than_the_memory_are_refused_together() -> None:
    tasks = (get_task("breakout"), get_task("freeway"), get_task("pong"))
    steps = 2**31 - 1
    learning = dataclasses.replace(DQNConfig(), replay_capacity=steps)
    games = tuple(task.name for task in tasks)
    config = TrainTeacherConfig(game=games, out="-", algorithm="dqn", network="multi3", dqn=learning)
    with pytest.raises(UserError) as refused:
        TrainingSetup.make(config, tasks).memory().check()
    # A frame in whole tiles, its flags, an action and a reward each.
    wanted = f"dqn.replay_capacity: {steps} steps of each of 3 games take {3 * 2**31 * 7065 / 2**30:,.1f} GiB; in all"
    assert str(refused.value).startswith(wanted)
