"""The update as pure functions: they ask for a named axis and for no devices, so `jax.vmap` maps them here."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.learner import Learner
from pd_jax.learner.minibatch import fetch, place
from pd_jax.learner.rule import LearnerState, UpdateRule, games_seen, init_state, make_rule
from pd_jax.learner.update import update, updates_from_replay
from pd_jax.losses import action_gap_weights, kl_loss, mse_loss
from pd_jax.networks.student import Student, make_student
from pd_jax.replay import rings
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.types import Batch, Trajectory

ONE = DeviceGroup.local(1)
FEATURES, ACTIONS = 5, 3
TASK = dataclasses.replace(get_task("cartpole"), observation_shape=(FEATURES,), num_actions=ACTIONS)


class Linear(nn.Module):
    """``x @ kernel``: its gradients can be written down by hand."""

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        return nn.Dense(ACTIONS, use_bias=False, name="output")(observations)


LINEAR = Student(Linear(), (TASK,))
GAMES = make_student(
    StudentConfig(network="mlp", mlp_hidden=(4,)), [get_task(game) for game in ("cartpole", "acrobot")]
)


def as_if(size: int) -> DeviceGroup:
    """As if there were so many devices; nothing is mapped over them."""
    return dataclasses.replace(ONE, devices=ONE.devices * size)


def shared(tree: Any) -> Any:
    """What both shares begin with."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)


def mapped(function: Any, *arguments: Any) -> Any:
    return jax.jit(jax.vmap(function, axis_name=AXIS))(*arguments)


def test_shares_of_a_minibatch_take_one_step_by_the_mean_of_their_gradients() -> None:
    config = LearnerConfig(batch_size=8, learning_rate=3e-3, rmsprop_decay=0.9, rmsprop_epsilon=1e-4)
    rule = make_rule(LINEAR, mse_loss, config, as_if(2), total_updates=10)
    assert rule.share == 4
    state = init_state(rule, jax.random.key(0))
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((8, FEATURES)), rng.standard_normal((8, ACTIONS))
    shares = Batch(np.float32(x.reshape(2, 1, 4, FEATURES)), np.float32(q.reshape(2, 1, 4, ACTIONS)))
    after, metrics = mapped(functools.partial(update, rule), shared(state), shares)
    kernel = np.asarray(state.variables["params"]["output"]["kernel"], np.float64)
    gradient = 2.0 / 8 * x.T @ (x @ kernel - q)
    expected = kernel - 3e-3 * gradient / np.sqrt(0.1 * gradient**2 + 1e-4)
    for found in after.variables["params"]["output"]["kernel"]:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], [((x @ kernel - q) ** 2).sum(1).mean()] * 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], [np.linalg.norm(gradient)] * 2, rtol=1e-5)


def stored(lanes: int, seed: int = 0) -> rings.ReplayState:
    rng = np.random.default_rng(seed)
    shape = (16, lanes)
    trajectory = Trajectory(
        observations=rng.standard_normal((*shape, FEATURES)).astype(np.float32),
        is_first=np.zeros(shape, bool),
        is_decision=np.arange(16)[:, None] % 5 != np.zeros(lanes),
        actions=np.zeros(shape, np.int32),
        rewards=np.zeros(shape, np.float32),
        teacher_q=rng.standard_normal((*shape, ACTIONS)).astype(np.float32),
    )
    return rings.insert(rings.init(lanes, 16, (FEATURES,), "float32", ACTIONS), trajectory)


def test_an_update_draws_the_same_minibatch_in_one_share_and_in_two() -> None:
    """Each of two shares holds half of the lanes; one learner on a device holds them all."""
    config, replay = LearnerConfig(batch_size=8, learning_rate=3e-3, rmsprop_epsilon=1e-4), stored(4)
    halves = jax.tree.map(
        lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]) if leaf.ndim else jnp.stack([leaf] * 2), replay
    )
    rule = make_rule(LINEAR, mse_loss, config, as_if(2), total_updates=10)
    start = init_state(rule, jax.random.key(2))
    many = functools.partial(updates_from_replay, rule, num_updates=5)
    after, metrics = mapped(many, shared(start), (halves,))
    learner = Learner(LINEAR, mse_loss, config, ONE, total_updates=10)
    expected, expected_metrics = learner.update_from_replay(
        learner.init(jax.random.key(2)), (ONE.replicate(replay),), 5
    )
    for found, wanted in zip(jax.tree.leaves(after.variables), jax.tree.leaves(expected.variables), strict=True):
        np.testing.assert_allclose(found, np.concatenate([wanted] * 2), atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, np.concatenate([expected_metrics[name]] * 2), rtol=1e-5)
    assert after.updates.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("schedule", "games", "expected"),
    [
        ("together", None, [[1, 1], [1, 1], [1, 1]]),
        ("together", (1,), [[0, 1], [0, 1], [0, 1]]),
        ("alternating", None, [[1, 0], [0, 1], [1, 0]]),
        ("alternating", (1,), [[0, 1], [0, 1], [0, 1]]),
    ],
)
def test_which_games_an_update_sees(schedule: Any, games: Any, expected: list[list[int]]) -> None:
    rule = make_rule(GAMES, mse_loss, LearnerConfig(games=schedule), ONE, total_updates=1)
    np.testing.assert_array_equal(games_seen(rule, jnp.arange(3), games), np.array(expected, bool))


def test_one_game_does_not_alternate() -> None:
    rule = make_rule(LINEAR, mse_loss, LearnerConfig(games="alternating"), ONE, total_updates=1)
    assert isinstance(rule, UpdateRule) and not rule.alternates


def test_an_update_leaves_what_it_was_given_as_it_was() -> None:
    rule = make_rule(LINEAR, mse_loss, LearnerConfig(batch_size=8), ONE, total_updates=1)
    state: LearnerState = jax.tree.map(lambda leaf: leaf[None], init_state(rule, jax.random.key(0)))
    before = jax.tree.map(np.array, state.variables)
    batch = Batch(np.ones((1, 1, 8, FEATURES), np.float32), np.ones((1, 1, 8, ACTIONS), np.float32))
    first, _ = mapped(functools.partial(update, rule), state, batch)
    second, _ = mapped(functools.partial(update, rule), state, batch)
    jax.tree.map(np.testing.assert_array_equal, state.variables, before)
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)
    assert (
        np.abs(np.asarray(first.variables["params"]["output"]["kernel"] - before["params"]["output"]["kernel"])).max()
        > 0
    )


@pytest.mark.parametrize(
    ("size", "accumulate", "message"),
    [
        (3, 1, "batch_size 8 does not split evenly over 3 devices"),
        (2, 3, "4 examples on each device do not split into 3 parts"),
    ],
)
def test_a_minibatch_that_does_not_split_evenly_has_no_rule(size: int, accumulate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule(LINEAR, mse_loss, LearnerConfig(batch_size=8, accumulate=accumulate), as_if(size), total_updates=1)


def weighed_step(kernel: np.ndarray, x: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, float]:
    """The kernel after one step of RMSProp on the squared error, examples counting by their gap; and the loss."""
    ordered = np.sort(q, axis=1)
    weights = ordered[:, -1] - ordered[:, -2]
    weights = weights / weights.mean()
    errors = x @ kernel - q
    gradient = 2.0 * x.T @ (weights[:, None] * errors) / len(x)
    return kernel - 3e-3 * gradient / np.sqrt(0.1 * gradient**2 + 1e-4), (weights * (errors**2).sum(1)).mean()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_have_a_mean_of_1_over_the_minibatch_of_all_devices_and_parts(accumulate: int) -> None:
    config = LearnerConfig(
        batch_size=8, accumulate=accumulate, learning_rate=3e-3, rmsprop_decay=0.9, rmsprop_epsilon=1e-4
    )
    rng = np.random.default_rng(5)
    x, q = rng.standard_normal((8, FEATURES)), rng.standard_normal((8, ACTIONS))
    # The two devices' shares of the weights are not alike.
    q[:4] *= 10.0
    for shares in (1, 2):
        rule = make_rule(LINEAR, mse_loss, config, as_if(shares), total_updates=10, weigh=action_gap_weights)
        state = init_state(rule, jax.random.key(0))
        batch = Batch(np.float32(x.reshape(shares, 1, -1, FEATURES)), np.float32(q.reshape(shares, 1, -1, ACTIONS)))
        begun = jax.tree.map(lambda leaf, shares=shares: jnp.stack([leaf] * shares), state)
        after, metrics = mapped(functools.partial(update, rule), begun, batch)
        kernel = np.asarray(state.variables["params"]["output"]["kernel"], np.float64)
        wanted, loss = weighed_step(kernel, x, q)
        np.testing.assert_allclose(after.variables["params"]["output"]["kernel"], [wanted] * shares, atol=1e-6)
        np.testing.assert_allclose(metrics["loss"], [loss] * shares, rtol=1e-5)


def test_states_of_no_weight_at_all_count_the_same() -> None:
    config = LearnerConfig(batch_size=8)
    x = np.float32(np.random.default_rng(6).standard_normal((1, 1, 8, FEATURES)))
    q = np.ones((1, 1, 8, ACTIONS), np.float32)
    ends = []
    for weigh in (None, action_gap_weights):
        rule = make_rule(LINEAR, mse_loss, config, ONE, total_updates=10, weigh=weigh)
        state = jax.tree.map(lambda leaf: leaf[None], init_state(rule, jax.random.key(0)))
        ends.append(mapped(functools.partial(update, rule), state, Batch(x, q))[0])
    jax.tree.map(np.testing.assert_array_equal, ends[0].variables, ends[1].variables)


@pytest.mark.parametrize(
    ("games", "accumulate"), [pytest.param("together", 2, marks=pytest.mark.slow), ("alternating", 1)]
)
def test_weights_of_what_is_drawn_are_those_of_the_same_minibatch_given(games: Any, accumulate: int) -> None:
    """Each game's weights have a mean of 1 of their own, whatever is padded."""
    config = LearnerConfig(batch_size=4, games=games, accumulate=accumulate)
    weigh = functools.partial(action_gap_weights, mask=jnp.asarray(GAMES.mask[:, None]))
    loss = functools.partial(kl_loss, temperature=1.0, mask=jnp.asarray(GAMES.mask[:, None]))
    rule = make_rule(GAMES, loss, config, ONE, total_updates=10, weigh=weigh)
    rng, replays = np.random.default_rng(7), []
    for task, scale in zip(GAMES.tasks, (1.0, 100.0), strict=True):
        shape = (16, 2)
        trajectory = Trajectory(
            observations=rng.standard_normal((*shape, *task.observation_shape)).astype(np.float32),
            is_first=np.zeros(shape, bool),
            is_decision=np.ones(shape, bool),
            actions=np.zeros(shape, np.int32),
            rewards=np.zeros(shape, np.float32),
            teacher_q=(scale * rng.standard_normal((*shape, task.num_actions))).astype(np.float32),
        )
        empty = rings.init(2, 16, task.observation_shape, "float32", task.num_actions)
        replays.append(jax.tree.map(lambda leaf: leaf[None], rings.insert(empty, trajectory)))
    state = jax.tree.map(lambda leaf: leaf[None], init_state(rule, jax.random.key(1)))
    drawn, metrics = mapped(functools.partial(updates_from_replay, rule, num_updates=1), state, tuple(replays))

    def given(state: LearnerState, stored: tuple[rings.ReplayState, ...]) -> Any:
        _, key = jax.random.split(state.key)
        parts = [fetch(rule, stored[game], *place(rule, stored, game, key)) for game in range(2)]
        return update(rule, state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))

    expected, expected_metrics = mapped(given, state, tuple(replays))
    for found, wanted in zip(jax.tree.leaves(drawn.variables), jax.tree.leaves(expected.variables), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(metrics["game_loss"], expected_metrics["game_loss"], rtol=1e-5)
