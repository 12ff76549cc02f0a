"""Runs that no memory holds are refused before anything is allocated."""

from __future__ import annotations

import pytest

from pd_jax import replay
from pd_jax.config import DistillConfig, ReplayConfig, StudentConfig
from pd_jax.errors import UserError
from pd_jax.memory import replay_step_bytes
from pd_jax.preparation import prepare
from pd_jax.tasks import get_task


@pytest.mark.parametrize("game", ["pong", "acrobot"])
def test_a_step_takes_what_the_replay_allocates_for_it(game: str) -> None:
    task = get_task(game)
    state = replay.init(2, 500, task.frame_shape, task.observation_dtype, task.num_actions)
    # Beside the rings there are two counters.
    assert replay.bytes_per_step(state) - replay_step_bytes(task) == pytest.approx(2 * 4 / 1000)


def test_a_student_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(65_536, 65_536, 65_536))
    # 5 x 65,536 + 2 x 65,537 x 65,536 + 65,537 x 2 parameters.
    with pytest.raises(UserError, match=r"training mlp's 8,590,524,418 parameters takes 128\.0 GiB, and there are"):
        prepare(DistillConfig(teacher="cartpole", out="-", student=student))


def test_all_replays_together_have_to_fit() -> None:
    # Float32 [4] and 2 outputs, float32 [6] and 3 outputs, and a byte of flags each: 25 + 37 bytes a step.
    capacity = 2_000_000_000
    message = f"replay.capacity: {capacity} steps of each of 2 games take {capacity * 62 / 2**30:,.1f} GiB, and there "
    with pytest.raises(UserError, match=f"^{message}"):
        prepare(
            DistillConfig(
                teacher=("cartpole", "acrobot"),
                out="-",
                student=StudentConfig(network="mlp"),
                replay=ReplayConfig(capacity=capacity),
            )
        )
