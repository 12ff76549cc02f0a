"""Runs that balance their games: resumed, measured on the way, told of, and refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    LearnerConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.distill.memory import distillation_parts
from pd_jax.distill.session import distill
from pd_jax.environments.tasks import get_task
from pd_jax.networks.student import make_student
from pd_jax.runs.metrics import read_metrics
from pd_jax.system.devices import DeviceGroup
from support.commands import checkpoint_steps, options, read_lines, refusal, state_digests, succeed, without_time

GAMES = [get_task(game) for game in ("cartpole", "acrobot")]
LEARNER = LearnerConfig(batch_size=16, updates_per_call=20, optimizer="adam", learning_rate=1e-3)


@pytest.fixture(scope="module")
def recordings(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Of two games."""
    other = tmp_path_factory.mktemp("recording") / "acrobot"
    succeed(
        "collect",
        {"teacher": "acrobot", "out": other, "steps": 1024, "rollout-length": 32, "env.num-lanes": 8},
    )
    return str(recording), str(other)


def config_of(out: Path, recordings: tuple[str, str], learner: LearnerConfig) -> DistillConfig:
    return DistillConfig(
        teacher=("cartpole", "acrobot"),
        data=recordings,
        out=str(out),
        student=StudentConfig(network="mlp", mlp_hidden=(8, 6), head_hidden=5),
        learner=learner,
        replay=ReplayConfig(capacity=768),
        schedule=ScheduleConfig(rounds=2, steps_per_round=512, updates_per_round=60),
        evaluation=StudentEvaluationConfig(episodes=2, num_lanes=2, max_episode_steps=20),
        checkpoint=DistillCheckpointConfig(every_updates=40, keep=5),
    )


WAYS = {
    "given": dataclasses.replace(LEARNER, game_weights=(1.0, 3.0)),
    "uncertainty": dataclasses.replace(LEARNER, balance="uncertainty"),
    "gradnorm": dataclasses.replace(LEARNER, balance="gradnorm", gradient_cosines_every=30),
    "pcgrad": dataclasses.replace(LEARNER, balance="pcgrad"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, recordings: tuple[str, str]) -> Path:
    """By gradnorm, with cosines. Not to be written to."""
    out = tmp_path_factory.mktemp("measured") / "run"
    distill(config_of(out, recordings, WAYS["gradnorm"]))
    return out


# By hand and by projections nothing is learnt of the weights, and nothing kept; log-variances are kept as its weights.
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_resumed_ends_with_the_same_bits(
    way: str, recordings: tuple[str, str], measured: Path, tmp_path: Path
) -> None:
    whole, resumed = measured, tmp_path / "resumed"
    if way != "gradnorm":
        whole = tmp_path / "whole"
        distill(config_of(whole, recordings, WAYS[way]))
    shutil.copytree(whole, resumed)
    assert checkpoint_steps(whole) == [40, 80, 120]
    for step in (80, 120):
        shutil.rmtree(resumed / "checkpoints" / str(step))
    distill(dataclasses.replace(config_of(resumed, recordings, WAYS[way]), resume=True))
    assert state_digests(resumed) == state_digests(whole)
    assert without_time(read_lines(resumed)) == without_time(read_lines(whole))


def test_weights_are_told_in_metrics_and_summary(measured: Path) -> None:
    assert json.loads((measured / "summary.json").read_text())["balance"] == "gradnorm"
    lines = [line for line in read_lines(measured) if "cartpole/weight" in line]
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120]
    assert sum(lines[-1][f"{game}/weight"] for game in ("cartpole", "acrobot")) == pytest.approx(2.0)
    assert abs(lines[-1]["cartpole/weight"] - 1.0) > 0.05


def test_cosines_are_measured_when_they_are_due_and_drawn(measured: Path) -> None:
    lines = [line for line in read_metrics(measured / "metrics.jsonl") if "gradient_norm/torso/acrobot" in line]
    # With the first call that reaches a multiple of 30.
    assert [line["step"] for line in lines] == [40, 60, 100, 120]
    for layer in ("fc1", "fc2", "torso"):
        assert all(-1.0 <= line[f"gradient_cosine/{layer}/cartpole,acrobot"] <= 1.0 for line in lines)
        assert all(line[f"gradient_norm/{layer}/cartpole"] > 0.0 for line in lines)
    # Norms of layers add up to those of all, by Pythagoras.
    last = [lines[-1][f"gradient_norm/{layer}/cartpole"] for layer in ("fc1", "fc2", "torso")]
    assert last[2] == pytest.approx(np.hypot(*last[:2]), rel=1e-5)
    assert (measured / "gradient_cosines.png").read_bytes().startswith(b"\x89PNG")
    page = (measured / "report.html").read_text()
    assert "games balanced by GradNorm, seed 0" in page
    assert "Which games pull against each other" in page and "Means over 4 measurements" in page
    assert "gradient_cosines.png" in json.loads((measured / "lineage.json").read_text())["files"]


def test_measuring_changes_nothing_that_is_learnt(recordings: tuple[str, str], measured: Path, tmp_path: Path) -> None:
    """And may be begun, or left out, when a run is gone on with."""
    out = tmp_path / "run"
    shutil.copytree(measured, out)
    shutil.rmtree(out / "checkpoints" / "120")
    shutil.rmtree(out / "checkpoints" / "80")
    learner = dataclasses.replace(WAYS["gradnorm"], gradient_cosines_every=0)
    distill(dataclasses.replace(config_of(out, recordings, learner), resume=True))
    assert state_digests(out) == state_digests(measured)
    measurements = [line["step"] for line in read_lines(out) if "gradient_norm/torso/acrobot" in line]
    assert measurements == [40]


def test_the_estimate_of_memory_has_the_gradients_of_every_game(recordings: tuple[str, str], tmp_path: Path) -> None:
    student = make_student(StudentConfig(network="mlp", mlp_hidden=(8, 6), head_hidden=5), GAMES)
    variables = jax.eval_shape(student.init, jax.random.key(0))
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(variables))
    found = []
    for learner in (LEARNER, WAYS["pcgrad"], dataclasses.replace(LEARNER, gradient_cosines_every=5)):
        parts = distillation_parts(config_of(tmp_path, recordings, learner), student, (), DeviceGroup.local(1))
        found.append(next(part.num_bytes for part in parts if part.name == "student"))
    assert [each - found[0] for each in found] == [0, 2 * size, 2 * size]


TWO = {"teacher": ["cartpole", "acrobot"]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            TWO | {"learner.game-weights": [1, 2, 3]},
            "--learner.game-weights: 3 numbers for 2 teachers; give one for each teacher, in the same order",
        ),
        (TWO | {"learner.game-weights": 2}, "--learner.game-weights: 1 number for 2 teachers"),
        (TWO | {"learner.game-weights": [1, -1]}, "--learner.game-weights[1]: -1 is out of range"),
        (TWO | {"learner.game-weights": [0, 0]}, "--learner.game-weights: all are 0, and nothing would be learnt"),
        (
            TWO | {"learner.game-weights": [1, 2], "learner.balance": "gradnorm"},
            "--learner.game-weights: given, and learner.balance 'gradnorm' finds them; leave one out",
        ),
        (
            TWO | {"learner.balance": "gradnrom"},
            "--learner.balance: 'gradnrom' is not a balance of games; did you mean 'gradnorm'?",
        ),
        ({"teacher": "cartpole", "learner.balance": "pcgrad"}, "--learner.balance: is between games, and a student of"),
        ({"teacher": "cartpole", "learner.gradient-cosines-every": 9}, "--learner.gradient-cosines-every: is between"),
        (
            TWO | {"learner.balance": "pcgrad", "learner.games": "alternating"},
            "--learner.balance: is between the games of one update, and learner.games is 'alternating'",
        ),
        (
            TWO | {"learner.balance": "uncertainty", "learner.gradnorm-alpha": 1},
            "--learner.gradnorm-alpha: is a setting of gradnorm, and learner.balance is 'uncertainty'",
        ),
        (TWO | {"learner.balance-rate": 0.1}, "--learner.balance-rate: is a setting of uncertainty and gradnorm, and"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    more: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = {"out": out, "student.network": "mlp"} | more
    assert refusal(capfd, "distill", *options(settings)).startswith(f"pd-jax distill: {message}")
    assert not out.exists()


@pytest.mark.parametrize("learner", [{"balance": "gradnorm"}, {"gradient_cosines_every": 5}])
def test_games_that_share_no_layer_have_nothing_to_be_looked_at(learner: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(
        config_of(tmp_path / "run", ("a", "b"), dataclasses.replace(LEARNER, **learner)),
        student=StudentConfig(network="mlp", mlp_hidden=()),
    )
    ((key, problem),) = [found for found in config.conflicts() if found[0].startswith("learner.")]
    assert key == f"learner.{next(iter(learner))}" and "student.mlp_hidden has none" in problem
