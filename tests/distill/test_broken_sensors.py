"""An environment that shows NaN: whoever plays says which one, when and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pd_jax
from pd_jax.actors.play import Place, first_unsound_observation
from pd_jax.config import DistillConfig, TrainTeacherConfig
from pd_jax.config.algorithms import PPOConfig
from pd_jax.config.sections import (
    EnvConfig,
    LearnerConfig,
    LossConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    TeacherEvaluationConfig,
)
from pd_jax.environments.registered import register_jax
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.teachers import from_function
from pd_jax.types import Trajectory
from support.commands import checkpoint_steps
from support.jax_environments import Params, Point, Walk

BROKEN_FROM = 40


class Broken(Walk):
    """A point that never gets anywhere, whose third number is lost from its fortieth step on."""

    def _seen(self, position: Any) -> Any:
        return super()._seen(position).at[1, 0].set(jnp.where(position > BROKEN_FROM - 0.5, jnp.nan, 1.0))

    def reset_env(self, key: Any, params: Params) -> tuple[Any, Point]:
        return self._seen(jnp.zeros(())), Point(jnp.zeros(()))

    def step_env(self, key: Any, state: Point, action: Any, params: Params) -> tuple[Any, Point, Any, Any, Any]:
        position = state.position + 1.0
        return self._seen(position), Point(position), jnp.zeros(()), jnp.zeros((), bool), {}


@pytest.fixture(scope="module")
def broken() -> Task:
    return register_jax("broken_sensor", lambda: (Broken(), Params(100)))


def test_the_first_place_is_told_of_numbers_and_never_of_frames() -> None:
    numbers = np.zeros((3, 2, 4), np.float32)
    nothing = np.zeros((3, 2))
    trajectory: Any = Trajectory(numbers, nothing, nothing, nothing, nothing, nothing)
    assert first_unsound_observation(trajectory) is None
    numbers[2, 0, 0] = numbers[1, 1, 3] = np.inf
    assert first_unsound_observation(trajectory) == Place(step=1, lane=1, number=3)
    frames: Any = Trajectory(np.zeros((3, 2, 84, 84), np.uint8), *[nothing] * 5)
    assert first_unsound_observation(frames) is None


def test_an_evaluation_ends_where_it_is_shown_nan(broken: Task) -> None:
    def still(variables: Any, observations: jax.Array) -> jax.Array:
        return jnp.zeros((len(observations), 1))

    where = r"at step 40 of an evaluation \(number 2 of lane 0\)"
    with pytest.raises(pd_jax.UserError, match=f"^broken_sensor: .* shows NaN or infinite numbers {where}; mend"):
        evaluate(still, {}, broken, episodes=2, num_lanes=2)


@pytest.mark.slow
@pytest.mark.parametrize("is_blind", [True, False])
def test_a_run_ends_and_is_saved_where_it_is_shown_nan(broken: Task, tmp_path: Path, is_blind: bool) -> None:
    """Also of a teacher that gives sound outputs of it, so that only the student would notice."""

    def outputs(observations: Any) -> Any:
        return jnp.nan_to_num(observations[:, :1]) if is_blind else observations.sum(axis=1, keepdims=True)

    teacher = from_function(outputs, kind="means", game="broken_sensor", fingerprint="broken")
    config = DistillConfig(
        teacher="broken",
        game="broken_sensor",
        out=str(tmp_path / "run"),
        env=EnvConfig(num_lanes=4),
        student=StudentConfig(network="mlp", mlp_hidden=(8,)),
        loss=LossConfig(kind="mse"),
        learner=LearnerConfig(batch_size=4, updates_per_call=10),
        replay=ReplayConfig(capacity=1024),
        schedule=ScheduleConfig(rounds=4, steps_per_round=64, updates_per_round=10, rollout_length=16),
    )
    with pytest.raises(pd_jax.UserError) as refused:
        pd_jax.run_distill(config, teacher=teacher)
    # The third rollout of 16 steps is the third round's.
    assert str(refused.value) == (
        "broken_sensor: the environment shows NaN or infinite numbers at step 160 (number 2 of lane 0); mend the "
        f"environment, or the sensor that it comes from; {tmp_path / 'run'} is saved at update 20"
    )
    assert checkpoint_steps(tmp_path / "run") == [20]


def test_a_training_ends_with_what_it_was_shown(broken: Task, tmp_path: Path) -> None:
    config = TrainTeacherConfig(
        game=("broken_sensor",),
        algorithm="ppo",
        out=str(tmp_path / "run"),
        network="mlp",
        mlp_hidden=(8,),
        ppo=PPOConfig(total_steps=2048, num_lanes=4, rollout_length=16, minibatches=2, epochs=1),
        evaluation=TeacherEvaluationConfig(every_steps=0),
    )
    with pytest.raises(pd_jax.UserError) as refused:
        pd_jax.run_train_teacher(config)
    # The third iteration of 16 steps of 4 lanes sees the fortieth step.
    assert str(refused.value) == (
        "the loss became nan by step 192; the checkpoints before it are sound: mend the environment, broken_sensor, "
        "which shows NaN or infinite numbers (number 2 of lane 0)"
    )
