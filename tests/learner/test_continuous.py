"""Losses of Gaussians and of actions, against float64 NumPy and numerical integration."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax import losses
from pd_jax.config.sections import LossConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.learner.continuous import agreement, check_loss, loss_of

TASK = dataclasses.replace(get_task("LunarLanderContinuous-v3"), action_low=(-2.0, 0.0), action_high=(2.0, 0.5))
GENERATOR = np.random.default_rng(0)
STUDENT, TEACHER = (GENERATOR.normal(size=(7, 4)).astype(np.float32) for _ in range(2))


def log_density(x: np.ndarray, mean: float, log_std: float) -> np.ndarray:
    return -0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)


def integrated(p: tuple[float, float], q: tuple[float, float]) -> float:
    """KL from p to q, means and logarithms of deviations, by the trapezoidal rule."""
    x = np.linspace(p[0] - 12 * np.exp(p[1]), p[0] + 12 * np.exp(p[1]), 20_001)
    return float(np.trapezoid(np.exp(log_density(x, *p)) * (log_density(x, *p) - log_density(x, *q)), x))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_kl_is_the_integral_in_both_directions(temperature: float) -> None:
    forward = losses.gaussian_kl_loss(*np.split(STUDENT, 2, 1), *np.split(TEACHER, 2, 1), temperature=temperature)
    reverse = losses.gaussian_reverse_kl_loss(
        *np.split(STUDENT, 2, 1), *np.split(TEACHER, 2, 1), temperature=temperature
    )
    for row in range(7):
        # The density to the power of 1 / temperature has its variance times the temperature.
        own = [(float(STUDENT[row, i]), float(STUDENT[row, 2 + i])) for i in (0, 1)]
        theirs = [(float(TEACHER[row, i]), float(TEACHER[row, 2 + i]) + 0.5 * np.log(temperature)) for i in (0, 1)]
        there = sum(integrated(p, q) for p, q in zip(theirs, own, strict=True))
        back = sum(integrated(p, q) for p, q in zip(own, theirs, strict=True))
        np.testing.assert_allclose([forward[row], reverse[row]], [there, back], rtol=1e-4)


def test_the_kl_is_the_same_after_tanh() -> None:
    p, q = (0.3, -0.5), (-0.2, 0.1)
    y = np.tanh(np.linspace(-8.0, 8.0, 400_001))[1:-1]
    x, log_slope = np.arctanh(y), np.log1p(-(y**2))
    log_p, log_q = (log_density(x, *each) - log_slope for each in (p, q))
    squashed = np.trapezoid(np.exp(log_p) * (log_p - log_q), y)
    before = losses.gaussian_kl_loss(*(jnp.array([value]) for value in (*q, *p)))
    np.testing.assert_allclose(before, squashed, rtol=1e-3)


def test_equal_gaussians_have_no_kl_and_no_gradient_and_no_gradient_reaches_the_teacher() -> None:
    halves = [jnp.asarray(half) for half in np.split(STUDENT, 2, 1)]
    for function in (losses.gaussian_kl_loss, losses.gaussian_reverse_kl_loss):
        assert not np.asarray(function(*halves, *halves)).any()
        gradients = jax.grad(lambda *given, function=function: function(*given).sum(), (0, 1, 2, 3))(*halves, *halves)
        assert not any(np.asarray(leaf).any() for leaf in gradients)
    moved = jax.grad(lambda mean: losses.gaussian_kl_loss(mean, halves[1], halves[0], halves[1]).sum())(halves[0] + 1)
    assert (np.asarray(moved) > 0).all()


def test_actions_are_learnt_as_the_teacher_would_play_them() -> None:
    wanted = np.clip(TEACHER[:, :2].astype(np.float64), [-2.0, 0.0], [2.0, 0.5])
    difference = STUDENT[:, :2] - wanted
    mse = loss_of(LossConfig(kind="mse"), TASK, 1.0, STUDENT[:, :2], TEACHER)
    np.testing.assert_allclose(mse, (difference**2).sum(1), rtol=1e-5)
    huber = loss_of(LossConfig(kind="huber", delta=0.5), TASK, 1.0, STUDENT[:, :2], TEACHER)
    size = np.abs(difference)
    np.testing.assert_allclose(huber, np.where(size > 0.5, 0.5 * (size - 0.25), difference**2 / 2).sum(1), rtol=1e-5)
    squashed = dataclasses.replace(TASK, squashed=True)
    wanted = np.array([0.0, 0.25]) + np.array([2.0, 0.25]) * np.tanh(TEACHER[:, :2].astype(np.float64))
    mse = loss_of(LossConfig(kind="mse"), squashed, 1.0, STUDENT[:, :2], TEACHER)
    np.testing.assert_allclose(mse, ((STUDENT[:, :2] - wanted) ** 2).sum(1), rtol=1e-5)


def test_a_students_action_beyond_the_range_is_drawn_back() -> None:
    gradient = jax.grad(lambda own: loss_of(LossConfig(kind="mse"), TASK, 1.0, own, TEACHER).sum())(
        jnp.full((7, 2), 9.0)
    )
    assert (np.asarray(gradient) > 0).all()


def test_agreement_is_the_distance_of_actions_as_a_share_of_the_range() -> None:
    own, theirs = np.float32([[1.0, 0.0], [-2.0, 0.5], [9.0, 9.0]]), np.float32([[-1.0, 0.5], [-2.0, 0.5], [2.0, 0.5]])
    # Of ranges of 4 and 0.5.
    np.testing.assert_allclose(agreement(own, theirs, TASK), [1 - (0.5 + 1.0) / 2, 1.0, 1.0])


@pytest.mark.parametrize(
    ("config", "is_gaussian", "message"),
    [
        (
            LossConfig(kind="nll"),
            True,
            "loss.kind: 'nll': the teacher of lunar_lander_continuous_v3 gives Gaussians",
        ),
        (LossConfig(kind="kl"), False, "loss.kind: 'kl': the teacher of lunar_lander_continuous_v3 gives actions with"),
        (LossConfig(temperature="auto"), True, "loss.temperature: auto is of teachers that choose among actions"),
        (LossConfig(weights="action_gap"), True, "loss.weights: 'action_gap' is of teachers that choose among"),
    ],
)
def test_losses_that_mean_nothing_are_refused(config: LossConfig, is_gaussian: bool, message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_loss(config, TASK, teacher_is_gaussian=is_gaussian)
    assert str(refused.value).startswith(message)
