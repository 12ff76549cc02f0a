"""What is checked before a distillation begins. The refusals themselves are in ``test_cli.py``, as users meet them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pd_jax.config import DistillConfig, LossConfig, ReplayConfig, StudentConfig
from pd_jax.errors import UserError
from pd_jax.preparation import make_loss, prepare


def test_what_was_left_open_is_filled_in(recording: Path) -> None:
    config = DistillConfig(
        teacher="cartpole", out="-", data=str(recording), student=StudentConfig(network="mlp"),
        replay=ReplayConfig(capacity=1024),
    )  # fmt: skip
    setting = prepare(config)
    assert (setting.config.game, setting.config.env.num_lanes) == ("cartpole", 8)
    assert setting.total_updates == 10 * 10_000
    # 128 steps of 8 lanes are all there is, though ten rounds of 54,000 were asked for.
    assert setting.total_env_steps(128) == 1024
    live = prepare(DistillConfig(teacher="cartpole", out="-", student=StudentConfig(network="mlp")))
    # 53 rollouts of 32 steps of 32 lanes give at least 54,000.
    assert live.total_env_steps(0) == 10 * 53 * 32 * 32


def test_a_student_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(65_536, 65_536, 65_536))
    # 5 x 65,536 + 2 x 65,537 x 65,536 + 65,537 x 2 parameters.
    with pytest.raises(UserError, match=r"training mlp's 8,590,524,418 parameters takes 128\.0 GiB, and there are"):
        prepare(DistillConfig(teacher="cartpole", out="-", student=student))


@pytest.mark.parametrize(
    ("gives_logits", "temperature", "expected"), [(False, None, 0.01), (True, None, 1.0), (True, 0.5, 0.5)]
)
def test_the_loss_is_at_the_temperature_that_the_teachers_outputs_need(
    gives_logits: bool, temperature: float | None, expected: float
) -> None:
    loss = make_loss(LossConfig(kind="kl", temperature=temperature), teacher_gives_logits=gives_logits)
    student, teacher = np.array([0.3, -0.2, 1.0]), np.array([0.02, 0.01, -0.5])
    log_p = teacher / expected - np.log(np.exp(teacher / expected).sum())
    log_s = student - np.log(np.exp(student).sum())
    assert float(loss(student, teacher)) == pytest.approx(float((np.exp(log_p) * (log_p - log_s)).sum()), rel=1e-5)


def test_every_loss_has_its_name() -> None:
    student, teacher = np.array([1.0, 0.0]), np.array([3.0, -1.0])
    values = {
        kind: float(make_loss(LossConfig(kind=kind), teacher_gives_logits=False)(student, teacher))
        for kind in ("nll", "mse", "kl")
    }
    # The teacher's best action is the first, and at a temperature of 0.01 its only one.
    nll = np.log(1 + np.exp(-1.0))
    assert values == {"nll": pytest.approx(nll), "mse": pytest.approx(2**2 + 1**2), "kl": pytest.approx(nll)}
