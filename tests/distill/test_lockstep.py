"""Runs that train together leave what they would leave alone, and can change over at any time."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    LearnerConfig,
    LossConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.student import load_trained
from pd_jax.distill.lockstep import distill_together
from pd_jax.distill.session import distill
from pd_jax.errors import UserError
from pd_jax.teachers import load
from support.commands import checkpoint_steps, options, read_lines, state_digests, stop_when, succeed

SEEDS, TEMPERATURES, RATES = (1, 2), (0.1, 1.0), (1e-3, 3e-4)
EVALUATION = StudentEvaluationConfig(episodes=4, num_lanes=4, max_episode_steps=40, every_rounds=2, progress_episodes=2)


def runs(out: Path, recording: Path, *, rounds: int = 3, **changes: Any) -> list[DistillConfig]:
    """Two runs that differ in seed, temperature and learning rate; scored after the second round of three."""
    learner = LearnerConfig(batch_size=32, optimizer="adam", updates_per_call=20)
    config = DistillConfig(
        teacher="cartpole",
        data=str(recording),
        out="",
        resume=True,
        student=StudentConfig(network="mlp", mlp_hidden=(16,)),
        replay=ReplayConfig(capacity=768),
        schedule=ScheduleConfig(rounds=rounds, steps_per_round=512, updates_per_round=60),
        evaluation=EVALUATION,
        checkpoint=DistillCheckpointConfig(every_updates=40),
        **changes,
    )
    return [
        dataclasses.replace(
            config,
            out=str(out / str(seed)),
            seed=seed,
            loss=LossConfig(kind="kl", temperature=temperature),
            learner=dataclasses.replace(learner, learning_rate=rate),
        )
        for seed, temperature, rate in zip(SEEDS, TEMPERATURES, RATES, strict=True)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """Both runs, one after the other. Not to be written to."""
    out = tmp_path_factory.mktemp("alone")
    for config in runs(out, recording):
        distill(config)
    return out


def assert_same(path: Path, expected: Path) -> None:
    """That a run is what another is, but for rounding."""
    assert {p.name for p in path.iterdir()} == {p.name for p in expected.iterdir()}
    assert checkpoint_steps(path) == checkpoint_steps(expected)
    assert state_digests(path).keys() == state_digests(expected).keys()
    ours, theirs = (jax.tree.leaves(load_trained(str(run)).variables) for run in (path, expected))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-4)
    lines, expected_lines = read_lines(path), read_lines(expected)
    assert [line.keys() for line in lines] == [line.keys() for line in expected_lines]
    for name in ("step", "env_steps", "learning_rate", "loss", "agreement", "teacher_action_gap"):
        values, expected_values = ([line[name] for line in text if name in line] for text in (lines, expected_lines))
        assert values == pytest.approx(expected_values, rel=1e-3, abs=1e-3), name
    summary, expected_summary = (json.loads((run / "summary.json").read_text()) for run in (path, expected))
    assert summary.keys() == expected_summary.keys()
    for name in ("updates", "env_steps", "student_parameters"):
        assert summary[name] == expected_summary[name]
    ours_config, theirs_config = (read_yaml(run / "config.yaml") for run in (path, expected))
    assert ours_config | {"out": ""} == theirs_config | {"out": ""}


def test_what_trains_together_is_what_trains_alone(alone: Path, recording: Path, tmp_path: Path) -> None:
    summaries = distill_together(runs(tmp_path, recording), load("cartpole"))
    for seed, summary in zip(SEEDS, summaries, strict=True):
        assert not isinstance(summary, UserError)
        assert summary["updates"] == 180
        assert_same(tmp_path / str(seed), alone / str(seed))
        # The score on the way is that of the run's own weights, and marks the best checkpoint.
        assert [line["step"] for line in read_lines(tmp_path / str(seed)) if "score/cartpole" in line] == [120]


@pytest.mark.slow
def test_what_was_begun_alone_goes_on_together_wherever_each_stands(
    alone: Path, recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    distill(runs(tmp_path, recording, rounds=1)[0])
    assert checkpoint_steps(tmp_path / "1") == [40, 60]
    distill_together(runs(tmp_path, recording), load("cartpole"))
    assert capfd.readouterr().err.count("resumed at update 60") == 1
    for seed in SEEDS:
        assert_same(tmp_path / str(seed), alone / str(seed))


@pytest.mark.slow
def test_what_was_begun_together_goes_on_alone(alone: Path, recording: Path, tmp_path: Path) -> None:
    distill_together(runs(tmp_path, recording, rounds=1), load("cartpole"))
    distill(runs(tmp_path, recording)[1])
    assert_same(tmp_path / "2", alone / "2")


def test_one_that_diverges_leaves_the_others_alone(recording: Path, tmp_path: Path) -> None:
    configs = runs(tmp_path, recording)
    loss = LossConfig(kind="mse")
    learners = [
        dataclasses.replace(configs[0].learner, optimizer="rmsprop", learning_rate=rate) for rate in (1e6, 1e-3)
    ]
    # Three layers of weights in the millions have outputs whose squares are infinite.
    deep = dataclasses.replace(configs[0].student, mlp_hidden=(16, 16))
    configs = [
        dataclasses.replace(config, student=deep, loss=loss, learner=learner)
        for config, learner in zip(configs, learners, strict=True)
    ]
    failed, summary = distill_together(configs, load("cartpole"))
    assert isinstance(failed, UserError)
    assert str(failed).startswith("the loss became ")
    assert not (tmp_path / "1" / "summary.json").exists()
    assert not isinstance(summary, UserError)
    assert summary.to_json() == json.loads((tmp_path / "2" / "summary.json").read_text())
    assert summary["updates"] == 180


@pytest.mark.slow
def test_a_signal_saves_all_of_them_and_a_sweep_goes_on(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    argv = {
        "teacher": "cartpole",
        "data": recording,
        "out": out,
        "resume": True,
        "together": "true",
        "grid.seeds": ["0", "1"],
        "student.network": "mlp",
        "student.mlp-hidden": 16,
        "replay.capacity": 768,
        "schedule.rounds": 3,
        "schedule.steps-per-round": 512,
        "schedule.updates-per-round": 200,
        "learner.updates-per-call": 20,
        "evaluation.episodes": 4,
        "evaluation.max-episode-steps": 40,
    }
    cells = [out / "cells" / f"cartpole-mlp-kl-lr0.00025-seed{seed}" for seed in (0, 1)]
    ended = stop_when(lambda: read_lines(cells[1]), signal.SIGTERM, "sweep", *options(argv))
    assert ended.code == 128 + signal.SIGTERM
    assert "cell 1 of 2 and 1 like it together: cartpole-mlp-kl-lr0.00025-seed0" in ended.stderr
    assert "Traceback" not in ended.stderr
    ((saved,), (also,)) = map(checkpoint_steps, cells)
    assert 0 < saved == also < 600
    assert [read_lines(cell)[-1]["step"] for cell in cells] == [saved, saved]
    succeed("sweep", argv)
    assert all(checkpoint_steps(cell)[-1] == 600 for cell in cells)
    table = json.loads((out / "table.json").read_text())
    assert all("student_score" in cell for cell in table["cells"])
    assert [line["step"] for line in read_lines(cells[0])] == list(range(20, 601, 20))
