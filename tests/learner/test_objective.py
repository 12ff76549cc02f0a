"""Losses and divergences as a run's settings ask for them, against their formulas in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest

from pd_jax.config.sections import LossConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.objective import loss_at, make_divergence, make_loss, temperatures
from pd_jax.networks.student import Student, make_student

GAMES = ("cartpole", "acrobot")


def student_of(games: Sequence[str]) -> Student:
    return make_student(StudentConfig(network="mlp", mlp_hidden=(8,)), [get_task(game) for game in games])


def log_softmax(outputs: np.ndarray) -> np.ndarray:
    return outputs - np.log(np.exp(outputs).sum())


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    p, s = log_softmax(teacher), log_softmax(student)
    return float((np.exp(p) * (p - s)).sum())


@pytest.mark.parametrize(
    ("gives_logits", "temperature", "expected"), [(False, None, 0.01), (True, None, 1.0), (True, 0.5, 0.5)]
)
def test_the_loss_is_at_the_temperature_that_the_teachers_outputs_need(
    gives_logits: bool, temperature: float | None, expected: float
) -> None:
    config = LossConfig(kind="kl", temperature=temperature)
    assert temperatures(config, [gives_logits]) == [expected]
    loss = make_loss(config, student_of(["cartpole"]), [gives_logits])
    student, teacher = np.array([0.3, -0.2]), np.array([0.02, 0.01])
    value = loss(student.reshape(1, 1, 2), teacher.reshape(1, 1, 2))
    assert value.shape == (1, 1)
    assert float(value[0, 0]) == pytest.approx(kl(teacher / expected, student), rel=1e-4)


def test_every_loss_has_its_name() -> None:
    student, teacher = np.array([[[1.0, 0.0]]]), np.array([[[3.0, -1.0]]])
    values = {
        kind: float(make_loss(LossConfig(kind=kind), student_of(["cartpole"]), [False])(student, teacher)[0, 0])  # type: ignore[arg-type]
        for kind in ("nll", "mse", "kl")
    }
    # The teacher's best action is the first, and at a temperature of 0.01 its only one.
    nll = np.log(1 + np.exp(-1.0))
    assert values == {"nll": pytest.approx(nll), "mse": pytest.approx(2**2 + 1**2), "kl": pytest.approx(nll)}


CARTPOLE, ACROBOT = (
    (np.array([0.3, -0.2]), np.array([0.12, 0.01])),
    (np.array([1.0, 0.5, -1]), np.array([-2.0, 1, 1.5])),
)
# Outputs [G, B, A] = [2, 1, 3]: what stands in the place of CartPole's third action must not count.
STUDENT = np.array([[[*CARTPOLE[0], -np.inf]], [ACROBOT[0]]])
TEACHER = np.array([[[*CARTPOLE[1], 0.0]], [ACROBOT[1]]])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(None, (0.01, 1.0)), ((0.1, 0.3), (0.1, 0.3)), ((0.2,), (0.2, 0.2))],
)
def test_every_game_has_its_temperature_and_its_actions(
    temperature: tuple[float, ...] | None, expected: tuple[float, float]
) -> None:
    objective = LossConfig(temperature=temperature), student_of(GAMES), [False, True]
    wanted = [kl(teacher / t, student) for (student, teacher), t in zip((CARTPOLE, ACROBOT), expected, strict=True)]
    for measure in (make_loss(*objective), make_divergence(*objective)):
        assert measure(STUDENT, TEACHER)[:, 0] == pytest.approx(wanted, rel=1e-4)


def test_the_other_losses_do_not_see_absent_actions_either_and_q_students_are_sharpened_to_be_compared() -> None:
    student, gives_logits = student_of(GAMES), [False, False]
    nll = make_loss(LossConfig(kind="nll"), student, gives_logits)(STUDENT, TEACHER)[:, 0]
    assert nll == pytest.approx([-log_softmax(CARTPOLE[0])[0], -log_softmax(ACROBOT[0])[2]], rel=1e-5)
    of_q = LossConfig(kind="mse", temperature=(0.1, 0.3))
    mse = make_loss(of_q, student, gives_logits)(STUDENT, TEACHER)[:, 0]
    assert mse == pytest.approx([((s - t) ** 2).sum() for s, t in (CARTPOLE, ACROBOT)], rel=1e-5)
    divergence = make_divergence(of_q, student, gives_logits)(STUDENT, TEACHER)[:, 0]
    assert divergence == pytest.approx([kl(t / τ, s / τ) for (s, t), τ in ((CARTPOLE, 0.1), (ACROBOT, 0.3))], rel=1e-4)


@pytest.mark.parametrize("kind", ["kl", "nll", "mse"])
def test_a_loss_may_be_had_at_a_temperature_that_is_only_known_when_it_is_computed(kind: str) -> None:
    config, student = LossConfig(kind=kind, temperature=0.3), student_of(["acrobot"])  # type: ignore[arg-type]
    outputs, teacher_q = (values[None, None] for values in ACROBOT)
    traced = jax.jit(lambda temperature: loss_at(config, student, temperature)(outputs, teacher_q))
    at_its_own = make_loss(config, student, [False])(outputs, teacher_q)
    np.testing.assert_allclose(traced(0.3), at_its_own, rtol=1e-5)
    if kind == "kl":
        np.testing.assert_allclose(traced(2.0), [[kl(ACROBOT[1] / 2.0, ACROBOT[0])]], rtol=1e-4)
    else:
        np.testing.assert_array_equal(traced(2.0), traced(0.3))
