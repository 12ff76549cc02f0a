"""Preferred examples, shifted frames and averaged weights, against NumPy."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.sections import LearnerConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.drawing import Preference, choose, draw_shifts, shift
from pd_jax.learner.learner import Learner
from pd_jax.learner.rule import LearnerState, init_state, make_rule
from pd_jax.learner.update import updates_from_replay
from pd_jax.losses import mse_loss
from pd_jax.networks.student import Student
from pd_jax.replay import rings
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.types import Trajectory

ONE = DeviceGroup.local(1)
SIDE, ACTIONS = 6, 3
TASK = dataclasses.replace(get_task("pong"), observation_shape=(SIDE, SIDE, 4), num_actions=ACTIONS)


class Flat(nn.Module):
    """A layer over all pixels, which sees where things are."""

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        flat = observations.reshape(len(observations), -1) / 255.0
        return nn.Dense(ACTIONS, use_bias=False, name="output")(flat)


STUDENT = Student(Flat(), (TASK,))


def chosen_often(preference: Preference, priorities: list[float], share: int, times: int = 4000) -> Any:
    keys = jax.random.split(jax.random.key(0), times)
    return choose(preference, keys, jnp.tile(jnp.float32(priorities), (times, 1)), share)


@pytest.mark.parametrize(("exponent", "scale"), [(1.0, 1.0), (0.5, 1e-9), (0.0, 1.0)])
def test_one_of_the_candidates_is_chosen_by_its_priority_to_a_power(exponent: float, scale: float) -> None:
    priorities = np.array([1.0, 2.0, 3.0, 10.0])
    preference = Preference("loss", 4, exponent, 0.4)
    chosen, counts = chosen_often(preference, list(scale * priorities), 1)
    chances = priorities**exponent / (priorities**exponent).sum()
    found = np.bincount(np.ravel(chosen), minlength=4) / chosen.size
    np.testing.assert_allclose(found, chances, atol=4 * np.sqrt(0.25 / chosen.size))
    relative = priorities / priorities.mean()
    np.testing.assert_allclose(counts, relative[np.asarray(chosen)] ** (-0.4 * exponent), rtol=1e-4)


def test_nothing_is_chosen_twice_and_nothing_is_preferred_where_all_is_0() -> None:
    chosen, counts = chosen_often(Preference("loss", 4, 1.0, 1.0), [0.0, 0.0, 0.0], 2)
    assert all(len(set(pair)) == 2 for pair in np.asarray(chosen).tolist())
    np.testing.assert_allclose(np.bincount(np.ravel(chosen)) / chosen.size, 1 / 3, atol=0.03)
    np.testing.assert_array_equal(counts, 1.0)
    chosen, counts = chosen_often(Preference("loss", 4, 1.0, 1.0), [0.0, 5.0, 0.0, 5.0], 3, times=50)
    assert np.isfinite(counts).all() and all({1, 3} <= set(some) for some in np.asarray(chosen).tolist())


def moved(stack: np.ndarray, down: int, right: int) -> np.ndarray:
    """By hand: each pixel is the one that lies so far up and to the left, or the nearest that there is."""
    height, width, _ = stack.shape
    rows, columns = np.arange(height) - down, np.arange(width) - right
    return stack[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]


def test_stacks_are_moved_as_by_hand() -> None:
    rng = np.random.default_rng(0)
    stacks = rng.integers(0, 256, (9, 7, 5, 4), dtype=np.uint8)
    shifts = np.array([(down, right) for down in (-2, 0, 2) for right in (-2, 0, 1)], np.int32)
    found = np.asarray(shift(jnp.asarray(stacks), jnp.asarray(shifts), 2))
    assert found.dtype == np.uint8
    for stack, (down, right), after in zip(stacks, shifts.tolist(), found, strict=True):
        np.testing.assert_array_equal(after, moved(stack, down, right))


def test_shifts_are_all_that_are_allowed_and_equally_likely() -> None:
    shifts = np.asarray(draw_shifts(jax.random.key(1), 5000, 2))
    assert shifts.min() == -2 and shifts.max() == 2
    np.testing.assert_allclose(np.bincount(shifts.ravel() + 2) / shifts.size, 0.2, atol=0.02)


def stored(lanes: int, q: Any = None) -> rings.ReplayState:
    rng = np.random.default_rng(3)
    shape = (16, lanes)
    trajectory = Trajectory(
        observations=rng.integers(0, 256, (*shape, SIDE, SIDE), dtype=np.uint8),
        is_first=np.zeros(shape, bool),
        is_decision=np.ones(shape, bool),
        actions=np.zeros(shape, np.int32),
        rewards=np.zeros(shape, np.float32),
        teacher_q=np.float32(rng.standard_normal((*shape, ACTIONS)) if q is None else q),
    )
    return rings.insert(rings.init(lanes, 16, (SIDE, SIDE), "uint8", ACTIONS), trajectory)


OPTIONS: dict[str, Any] = {
    "loss": {"sampling": "loss"},
    "action_gap": {"sampling": "action_gap", "sampling_correction": 1.0},
    "shift": {"random_shift": 2},
    "all": {"sampling": "loss", "random_shift": 1, "average_decay": 0.5, "accumulate": 2},
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(each, marks=[pytest.mark.slow] * (name != "all")) for name, each in OPTIONS.items()],
    ids=OPTIONS,
)
def test_two_devices_draw_what_one_draws(options: dict[str, Any]) -> None:
    config, replay = LearnerConfig(batch_size=8, learning_rate=3e-3, rmsprop_epsilon=1e-4, **options), stored(4)
    halves = jax.tree.map(
        lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]) if leaf.ndim else jnp.stack([leaf] * 2), replay
    )
    two = dataclasses.replace(ONE, devices=ONE.devices * 2)
    rule = make_rule(STUDENT, mse_loss, config, two, total_updates=10)
    start = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), init_state(rule, jax.random.key(2)))
    many = functools.partial(updates_from_replay, rule, num_updates=3)
    after, metrics = jax.jit(jax.vmap(many, axis_name=AXIS))(start, (halves,))
    learner = Learner(STUDENT, mse_loss, config, ONE, total_updates=10)
    one, expected = learner.update_from_replay(learner.init(jax.random.key(2)), (ONE.replicate(replay),), 3)
    for found, wanted in zip(jax.tree.leaves(after), jax.tree.leaves(one), strict=True):
        if not jnp.issubdtype(found.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(found, np.concatenate([wanted] * 2), atol=2e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, np.concatenate([expected[name]] * 2), rtol=1e-5)


def first_losses(replay: rings.ReplayState, count: int, **options: Any) -> float:
    """The mean over so many minibatches, of a student whose outputs are all 0."""
    rule = make_rule(STUDENT, mse_loss, LearnerConfig(batch_size=8, **options), ONE, total_updates=10)
    state = init_state(rule, jax.random.key(0))
    state = state.starting_from(jax.tree.map(jnp.zeros_like, state.variables))

    @functools.partial(jax.vmap, axis_name=AXIS)
    def first(replay: rings.ReplayState) -> Any:
        def of_key(key: jax.Array) -> Any:
            begun = dataclasses.replace(state, key=key)
            return updates_from_replay(rule, begun, (replay,), num_updates=1)[1]["loss"]

        return jax.vmap(of_key)(jax.random.split(jax.random.key(1), count))

    return float(jnp.mean(jax.jit(first)(jax.tree.map(lambda leaf: leaf[None], replay))))


@pytest.mark.parametrize("by", ["loss", "action_gap"])
def test_what_is_preferred_is_learnt_from_more_often(by: str) -> None:
    """3 of the 13 steps of a lane that have a whole stack have a loss, and a gap; of 8 candidates 2 are kept."""
    rare = np.where(np.arange(16)[:, None] % 4 == 1, 1.0, 0.0) * np.ones(4)
    replay = stored(4, rare[..., None] * np.array([2.0, 0.0, 0.0]))
    options = {"sampling": by, "sampling_exponent": 4.0, "sampling_correction": 0.0}
    uniform, preferred = first_losses(replay, 200), first_losses(replay, 200, **options)
    none, one = (10 / 13) ** 8, 8 * (3 / 13) * (10 / 13) ** 7
    np.testing.assert_allclose([uniform, preferred], [4 * 3 / 13, 4 * (0.5 * one + (1 - none - one))], atol=0.2)


def test_a_correction_of_1_counts_the_preferred_as_little_as_they_are_rare() -> None:
    rare = np.where(np.arange(16)[:, None] % 4 == 1, 2.0, 1.0) * np.ones(4)
    replay = stored(4, rare[..., None] * np.array([1.0, 0.0, 0.0]))
    options = {"sampling": "loss", "sampling_exponent": 1.0, "sampling_candidates": 8}
    means = {
        correction: first_losses(replay, 200, sampling_correction=correction, **options) for correction in (0.0, 1.0)
    }
    # Of losses of 1 and 4, the latter of 3 in 13 of the steps that have a whole stack.
    wanted = (10 * 1.0 + 3 * 4.0) / 13
    assert abs(means[1.0] - wanted) < 0.15 and means[0.0] > wanted + 0.5


def states(count: int, **options: Any) -> list[LearnerState]:
    learner = Learner(STUDENT, mse_loss, LearnerConfig(batch_size=8, **options), ONE, total_updates=10)
    state, held, found = learner.init(jax.random.key(0)), (ONE.replicate(stored(4)),), []
    for _ in range(count):
        found.append(jax.tree.map(lambda leaf: jnp.copy(leaf[0]), state))
        state, _ = learner.update_from_replay(state, held, 1)
    return found


def test_the_average_of_the_weights_is_that_of_numpy() -> None:
    found = states(15, average_decay=0.5)
    kernels = [np.asarray(state.variables["params"]["output"]["kernel"], np.float64) for state in found]
    average = kernels[0]
    for updates, kernel in enumerate(kernels[1:]):
        decay = min(0.5, (1 + updates) / (10 + updates))
        average = decay * average + (1 - decay) * kernel
    last = found[-1].student_variables["params"]["output"]["kernel"]
    np.testing.assert_allclose(last, average, rtol=1e-5, atol=1e-7)
    assert np.abs(last - kernels[-1]).max() > 1e-5


def test_an_average_changes_nothing_in_what_is_learnt_and_is_not_kept_unasked() -> None:
    with_average, without = states(3, average_decay=0.9)[-1], states(3)[-1]
    jax.tree.map(np.testing.assert_array_equal, with_average.variables, without.variables)
    assert without.average is None and without.student_variables is without.variables


def test_vectors_are_not_moved() -> None:
    student = Student(Flat(), (dataclasses.replace(TASK, observation_shape=(5,)),))
    assert make_rule(student, mse_loss, LearnerConfig(random_shift=3), ONE, total_updates=1).random_shift == 0
