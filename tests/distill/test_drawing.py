"""Runs that prefer examples, shift frames or average weights: the same bits after a resume, and one student for all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    EnvConfig,
    LearnerConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.deploy.student import load_trained
from pd_jax.distill.session import distill
from pd_jax.teachers.files import params_fingerprint
from support.commands import options, refusal, state_digests

LEARNER: dict[str, Any] = {"sampling": "loss", "sampling_candidates": 3, "average_decay": 0.95}


def config_of(out: Path, recording: Path, rounds: int, **learner: Any) -> DistillConfig:
    return DistillConfig(
        teacher="cartpole",
        out=str(out),
        data=str(recording),
        student=StudentConfig(network="mlp", mlp_hidden=(8,)),
        env=EnvConfig(num_lanes=8),
        learner=LearnerConfig(batch_size=16, updates_per_call=20, optimizer="adam", learning_rate=1e-3, **learner),
        replay=ReplayConfig(capacity=768),
        schedule=ScheduleConfig(rounds=rounds, steps_per_round=256, updates_per_round=40),
        evaluation=StudentEvaluationConfig(episodes=2, num_lanes=2, max_episode_steps=20),
        checkpoint=DistillCheckpointConfig(every_updates=40, keep=5),
    )


def test_a_run_that_is_resumed_ends_with_the_same_bits_and_hands_on_the_average(
    recording: Path, tmp_path: Path
) -> None:
    whole, halves, plain = tmp_path / "whole", tmp_path / "halves", tmp_path / "plain"
    distill(config_of(whole, recording, 2, **LEARNER))
    distill(config_of(halves, recording, 1, **LEARNER))
    distill(dataclasses.replace(config_of(halves, recording, 2, **LEARNER), resume=True))
    assert state_digests(whole, 80) == state_digests(halves, 80)
    # What is handed on is what was scored: not the weights that learn.
    distill(config_of(plain, recording, 2, **{**LEARNER, "average_decay": None}))
    average, weights = (jax.tree.leaves(load_trained(str(out)).variables) for out in (whole, plain))
    assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(average, weights, strict=True))
    params = jax.tree.map(np.asarray, load_trained(str(whole)).variables["params"])
    assert params_fingerprint(params) in (whole / "lineage.json").read_text()


def test_preferences_between_games_that_alternate_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "teacher": ["cartpole", "acrobot"],
        "student.network": "mlp",
        "learner.games": "alternating",
        "learner.sampling": "loss",
        "out": tmp_path / "run",
    }
    message = refusal(capfd, "distill", *options(settings))
    assert message == (
        "pd-jax distill: --learner.sampling: 'loss' prefers examples of every game at once, and learner.games is "
        "'alternating'"
    )
    assert not (tmp_path / "run").exists()
