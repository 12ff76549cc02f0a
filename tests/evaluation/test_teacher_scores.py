"""A teacher's score that stands for another playing: only where that would find the very same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import EnvConfig, StudentConfig, StudentEvaluationConfig
from pd_jax.distill.session import distill
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.teacher_scores import (
    TeacherScore,
    read_teacher_score,
    score_teacher,
    write_teacher_score,
)
from pd_jax.teachers import load

TASK = get_task("cartpole")
EVALUATION = StudentEvaluationConfig(episodes=6, num_lanes=3, epsilon=0.8, max_episode_steps=60)
CONFIG = DistillConfig(teacher="cartpole", out="x", seed=4, student=StudentConfig(network="mlp"), evaluation=EVALUATION)


def with_evaluation(**changes: Any) -> DistillConfig:
    return dataclasses.replace(CONFIG, evaluation=dataclasses.replace(EVALUATION, **changes))


@pytest.fixture(scope="module")
def score() -> TeacherScore:
    return score_teacher(Protocol.of(CONFIG, TASK), TASK, load("cartpole"))


def test_it_is_what_the_run_would_have_found(score: TeacherScore) -> None:
    assert score.score.episodes == 6
    # With eight random actions in ten, poles fall in 60 steps; another seed lets others fall.
    assert 10 < score.score.mean < 60
    other = score_teacher(Protocol.of(dataclasses.replace(CONFIG, seed=5), TASK), TASK, load("cartpole"))
    assert other.score.mean != score.score.mean
    # What counts is where the games start, not which numbers add up to it.
    moved = dataclasses.replace(with_evaluation(seed_offset=1_000_003), seed=1)
    assert Protocol.of(moved, TASK) == score.protocol
    assert score_teacher(Protocol.of(moved, TASK), TASK, load("cartpole")) == score


def test_it_is_kept_as_it_is(score: TeacherScore, tmp_path: Path) -> None:
    path = tmp_path / "teachers" / "cartpole.json"
    assert read_teacher_score(path) is None
    write_teacher_score(path, score)
    assert read_teacher_score(path) == score
    path.write_text(path.read_text()[:-20])
    assert read_teacher_score(path) is None, "damaged: taken anew"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (with_evaluation(episodes=7), "episodes 6, and the run's evaluation has 7"),
        (with_evaluation(num_lanes=2), "num_lanes 3, and the run's evaluation has 2"),
        (with_evaluation(epsilon=0.05), "epsilon 0.8, and the run's evaluation has 0.05"),
        (with_evaluation(max_episode_steps=None), "max_episode_steps 60, and the run's evaluation has 500"),
        (dataclasses.replace(CONFIG, seed=0), "seed 1000004, and the run's evaluation has 1000000"),
        (dataclasses.replace(CONFIG, env=EnvConfig(max_noops=3)), "max_noops 30, and the run's evaluation has 3"),
        (
            dataclasses.replace(CONFIG, env=EnvConfig(sticky_action_probability=0.25)),
            "sticky_action_probability 0.0, and the run's evaluation has 0.25",
        ),
    ],
)
def test_a_score_under_another_protocol_is_refused(
    score: TeacherScore, config: DistillConfig, name: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, out=str(tmp_path / "run"))
    with pytest.raises(UserError) as error:
        distill(config, teacher_scores={"cartpole": score})
    assert str(error.value) == f"the score given for the teacher of cartpole was taken with {name}"
    assert not (tmp_path / "run").exists()


def test_a_score_of_another_teacher_is_refused(score: TeacherScore) -> None:
    score.check_fits(Protocol.of(CONFIG, TASK), TASK, load("cartpole"))
    for other in (dataclasses.replace(score, fingerprint="0" * 64), dataclasses.replace(score, game="acrobot")):
        with pytest.raises(UserError, match=r"^the score given for the teacher is of "):
            other.check_fits(Protocol.of(CONFIG, TASK), TASK, load("cartpole"))


def test_threads_are_no_part_of_the_protocol(score: TeacherScore) -> None:
    config = dataclasses.replace(CONFIG, env=EnvConfig(num_threads=1, num_lanes=8, stepping="host"))
    assert Protocol.of(config, TASK) == score.protocol
