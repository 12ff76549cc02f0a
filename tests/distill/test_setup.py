"""What is checked before a distillation begins. The refusals themselves are in ``test_cli.py``, as users meet them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import EnvConfig, LossConfig, ReplayConfig, StudentConfig
from pd_jax.distill.setup import DistillSetup, make_divergence, make_loss, make_setup
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import Teacher, from_function, load
from support.commands import succeed


def test_what_was_left_open_is_filled_in(recording: Path) -> None:
    config = DistillConfig(
        teacher="cartpole", out="-", data=str(recording), student=StudentConfig(network="mlp"),
        replay=ReplayConfig(capacity=1024),
    )  # fmt: skip
    setup = make_setup(config)
    assert (setup.config.game, setup.config.lanes) == (("cartpole",), (8,))
    assert setup.total_updates == 10 * 10_000
    # 128 steps of 8 lanes are all there is, though ten rounds of 54,000 were asked for.
    assert setup.total_env_steps([128]) == (1024,)
    live = make_setup(DistillConfig(teacher="cartpole", out="-", student=StudentConfig(network="mlp")))
    # 53 rollouts of 32 steps of 32 lanes give at least 54,000.
    assert live.total_env_steps([0]) == (10 * 53 * 32 * 32,)


TWO = ("cartpole", "acrobot")


def two_games(**changes: Any) -> DistillConfig:
    config = DistillConfig(teacher=TWO, out="-", student=StudentConfig(network="mlp", mlp_hidden=(8,)))
    return dataclasses.replace(config, **changes)


def test_several_games_have_lanes_rounds_and_totals_of_their_own(recording: Path, tmp_path: Path) -> None:
    env = EnvConfig(lanes=(16, 64))
    setup = make_setup(two_games(env=env))
    assert (setup.names, setup.config.game, setup.student.tasks) == (TWO, TWO, setup.tasks)
    # 106 rollouts of 32 steps of 16 lanes, and 27 of 64 lanes, give at least 54,000 each.
    assert setup.total_env_steps([0, 0]) == (10 * 106 * 512, 10 * 27 * 2048)
    other = tmp_path / "acrobot"
    succeed("collect", {"teacher": "acrobot", "out": other, "steps": 64, "rollout-length": 32, "env.num-lanes": 2})
    setup = make_setup(two_games(data=(str(recording), str(other))))
    assert setup.config.lanes == (8, 2), "those that were recorded"
    assert setup.total_env_steps([128, 32]) == (1024, 64)


def log_softmax(outputs: np.ndarray) -> np.ndarray:
    return outputs - np.log(np.exp(outputs).sum())


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    p, s = log_softmax(teacher), log_softmax(student)
    return float((np.exp(p) * (p - s)).sum())


def silent_teacher(game: str, kind: Any) -> Teacher:
    """One that says nothing, in Q-values (``"q"``) or logits."""
    num_actions = get_task(game).num_actions
    return from_function(
        lambda observations: np.zeros((len(observations), num_actions)),
        kind=kind, game=game, host=True, fingerprint="silent",
    )  # fmt: skip


def setting_of(loss: LossConfig, kinds: Mapping[str, str]) -> DistillSetup:
    """A setting whose teachers are of certain kinds, by game."""
    teachers = [silent_teacher(game, kind) for game, kind in kinds.items()]
    return make_setup(two_games(teacher=tuple(kinds), loss=loss), teachers)


@pytest.mark.parametrize(
    ("kind", "temperature", "expected"), [("q", None, 0.01), ("logits", None, 1.0), ("logits", 0.5, 0.5)]
)
def test_the_loss_is_at_the_temperature_that_the_teachers_outputs_need(
    kind: str, temperature: float | None, expected: float
) -> None:
    loss = make_loss(setting_of(LossConfig(kind="kl", temperature=temperature), {"cartpole": kind}))
    student, teacher = np.array([0.3, -0.2]), np.array([0.02, 0.01])
    value = loss(student.reshape(1, 1, 2), teacher.reshape(1, 1, 2))
    assert value.shape == (1, 1)
    assert float(value[0, 0]) == pytest.approx(kl(teacher / expected, student), rel=1e-4)


def test_every_loss_has_its_name() -> None:
    student, teacher = np.array([[[1.0, 0.0]]]), np.array([[[3.0, -1.0]]])
    values = {
        kind: float(make_loss(setting_of(LossConfig(kind=kind), {"cartpole": "q"}))(student, teacher)[0, 0])  # type: ignore[arg-type]
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
    setup = setting_of(LossConfig(temperature=temperature), {"cartpole": "q", "acrobot": "logits"})
    wanted = [kl(teacher / t, student) for (student, teacher), t in zip((CARTPOLE, ACROBOT), expected, strict=True)]
    for measure in (make_loss(setup), make_divergence(setup)):
        assert measure(STUDENT, TEACHER)[:, 0] == pytest.approx(wanted, rel=1e-4)


def test_the_other_losses_do_not_see_absent_actions_either_and_q_students_are_sharpened_to_be_compared() -> None:
    games = {"cartpole": "q", "acrobot": "q"}
    nll = make_loss(setting_of(LossConfig(kind="nll"), games))(STUDENT, TEACHER)[:, 0]
    assert nll == pytest.approx([-log_softmax(CARTPOLE[0])[0], -log_softmax(ACROBOT[0])[2]], rel=1e-5)
    q_student = setting_of(LossConfig(kind="mse", temperature=(0.1, 0.3)), games)
    mse = make_loss(q_student)(STUDENT, TEACHER)[:, 0]
    assert mse == pytest.approx([((s - t) ** 2).sum() for s, t in (CARTPOLE, ACROBOT)], rel=1e-5)
    divergence = make_divergence(q_student)(STUDENT, TEACHER)[:, 0]
    assert divergence == pytest.approx([kl(t / τ, s / τ) for (s, t), τ in ((CARTPOLE, 0.1), (ACROBOT, 0.3))], rel=1e-4)


def test_teachers_in_hand_are_as_many_as_are_named() -> None:
    with pytest.raises(UserError, match=r"^teacher: 1 given, and 2 named \(cartpole, acrobot\)$"):
        make_setup(two_games(), load("cartpole"))
