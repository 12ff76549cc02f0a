"""What outputs of continuous policies mean, against formulas in NumPy."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from pd_jax.environments.tasks import get_task
from pd_jax.networks.continuous import ContinuousHead, mean_actions, noisy_actions
from pd_jax.types import LaneRange

# Ranges that are neither symmetric nor alike.
TASK = dataclasses.replace(get_task("LunarLanderContinuous-v3"), action_low=(-2.0, 0.0), action_high=(2.0, 0.5))
SQUASHED = dataclasses.replace(TASK, squashed=True)
WIDE = dataclasses.replace(TASK, action_low=(-1e6, -1e6), action_high=(1e6, 1e6))
OUTPUTS = np.array([[0.3, 0.2, -1.0, 0.5], [-9.0, 9.0, 0.0, -3.0]], np.float32)


def test_without_noise_the_mean_is_played_within_the_range() -> None:
    assert np.array_equal(mean_actions(OUTPUTS, TASK), np.float32([[0.3, 0.2], [-2.0, 0.5]]))
    assert np.array_equal(mean_actions(OUTPUTS[:, :2], TASK), np.float32([[0.3, 0.2], [-2.0, 0.5]]))
    squashed = [[2 * np.tanh(0.3), 0.25 + 0.25 * np.tanh(0.2)], [2 * np.tanh(-9.0), 0.25 + 0.25 * np.tanh(9.0)]]
    np.testing.assert_allclose(mean_actions(OUTPUTS, SQUASHED), squashed, rtol=1e-6)
    # Actions are actions already.
    assert np.array_equal(mean_actions(OUTPUTS[:, :2], SQUASHED), np.float32([[0.3, 0.2], [-2.0, 0.5]]))


@pytest.mark.parametrize(("task", "width"), [(TASK, 4), (SQUASHED, 4), (TASK, 2)])
def test_no_noise_is_the_mean_to_the_bit(task, width: int) -> None:
    outputs = OUTPUTS[:, :width]
    assert np.array_equal(noisy_actions(jax.random.key(1), outputs, 0.0, task), mean_actions(outputs, task))


def test_the_noise_is_a_share_of_the_policys_own() -> None:
    outputs = np.tile(np.float32([[0.3, 0.2, -1.0, 0.5]]), (20_000, 1))
    for epsilon in (1.0, 0.25):
        played = np.asarray(noisy_actions(jax.random.key(2), outputs, epsilon, WIDE))
        np.testing.assert_allclose(played.mean(0), [0.3, 0.2], atol=0.05)
        np.testing.assert_allclose(played.std(0), epsilon * np.exp([-1.0, 0.5]), rtol=0.02)
    narrow = np.asarray(noisy_actions(jax.random.key(2), outputs[:, :2] * 0 + 0.25, 0.01, TASK))
    # Half of each component's range is 2 and 0.25.
    np.testing.assert_allclose(narrow.std(0), [0.02, 0.0025], rtol=0.02)


def test_a_squashed_policys_noise_goes_through_its_tanh_and_stays_within_the_range() -> None:
    outputs = np.tile(np.float32([[0.3, 0.2, 2.0, 2.0]]), (1000, 1))
    before = noisy_actions(jax.random.key(3), outputs, 1.0, WIDE)
    after = np.asarray(noisy_actions(jax.random.key(3), outputs, 1.0, SQUASHED))
    np.testing.assert_allclose(after, [0.0, 0.25] + np.float32([2.0, 0.25]) * np.tanh(before), atol=1e-6)
    assert (after >= TASK.action_low).all() and (after <= TASK.action_high).all()


def test_lanes_of_a_group_have_the_noise_that_they_have_among_all() -> None:
    outputs = np.tile(OUTPUTS, (3, 1))
    played = noisy_actions(jax.random.key(4), outputs, 1.0, TASK)
    own = noisy_actions(jax.random.key(4), outputs[2:5], 1.0, TASK, LaneRange(2, 5, 6))
    assert np.array_equal(own, played[2:5])


def test_a_teachers_head_clips_log_deviations_and_applies_its_range() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    plain = ContinuousHead(4)
    variables = plain.init(jax.random.key(0), features)
    kernel, bias = (np.asarray(variables["params"]["output"][name]) for name in ("kernel", "bias"))
    linear = features @ kernel + bias
    np.testing.assert_allclose(plain.apply(variables, features), linear, atol=1e-5)
    bounded = ContinuousHead(4, log_std_bounds=(-0.1, 0.1)).apply(variables, features)
    clipped = np.concatenate([linear[:, :2], np.clip(linear[:, 2:], -0.1, 0.1)], axis=1)
    np.testing.assert_allclose(bounded, clipped, atol=1e-5)
    actions = ContinuousHead(4, low=(-1.0, 0.0, -3.0, 2.0), high=(1.0, 2.0, -2.0, 4.0)).apply(variables, features)
    np.testing.assert_allclose(actions, [0, 1, -2.5, 3] + np.array([1, 1, 0.5, 1]) * np.tanh(linear), atol=1e-5)
