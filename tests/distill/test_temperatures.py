"""Temperatures that runs find from their play: once, kept, told of, and blind to the scale of the outputs."""

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
    EnvConfig,
    LearnerConfig,
    LossConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.deploy.pairs import reading_of
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.deploy.student import load_trained
from pd_jax.distill.lockstep import distill_together
from pd_jax.distill.session import distill
from pd_jax.replay.recordings import Dataset
from pd_jax.report.report import read_report
from pd_jax.teachers import Teacher, load
from support.commands import checkpoint_steps, options, read_lines, refusal, state_digests, succeed, without_time

AUTO = LossConfig(temperature="auto", target_entropy=0.3)


def config_of(out: Path, **changes: Any) -> DistillConfig:
    config = DistillConfig(
        teacher="cartpole",
        out=str(out),
        student=StudentConfig(network="mlp", mlp_hidden=(8,)),
        env=EnvConfig(num_lanes=8),
        loss=AUTO,
        learner=LearnerConfig(batch_size=16, updates_per_call=20, optimizer="adam", learning_rate=1e-3),
        replay=ReplayConfig(capacity=768),
        schedule=ScheduleConfig(rounds=2, steps_per_round=512, updates_per_round=60),
        evaluation=StudentEvaluationConfig(episodes=2, num_lanes=2, max_episode_steps=20),
        checkpoint=DistillCheckpointConfig(every_updates=40, keep=5),
    )
    return dataclasses.replace(config, **changes)


def scaled(name: str, factor: float) -> Teacher:
    """A bundled teacher whose outputs are multiplied."""
    teacher = load(name)
    params = jax.tree.map(lambda leaf: leaf, teacher.variables["params"])
    params["head"]["output"] = jax.tree.map(lambda leaf: leaf * np.float32(factor), params["head"]["output"])
    return Teacher(teacher.metadata, params, f"{name} x {factor:g}", f"{factor:g}" * 16)


def variables_of(out: Path) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(load_trained(str(out)).variables)])


def mean_entropy(outputs: np.ndarray, temperature: float) -> float:
    shifted = (outputs - outputs.max(axis=-1, keepdims=True)) / temperature
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(-(np.exp(log_p) * log_p).sum(axis=-1).mean())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """From a recording. Not to be written to."""
    out = tmp_path_factory.mktemp("auto") / "run"
    distill(config_of(out, data=str(recording)))
    return out


def test_a_run_finds_the_temperature_in_its_first_round_and_tells_of_it(run: Path, recording: Path) -> None:
    trained, summary = load_trained(str(run)), json.loads((run / "summary.json").read_text())
    temperature = trained.temperature(0)
    assert temperature is not None
    assert (summary["loss"], summary["temperature"], summary["target_entropy"]) == ("kl", temperature, 0.3)
    assert f"temperature: {temperature:.4g}, from the play" in (run / "report.html").read_text()
    lines = read_lines(run)
    assert [(line["step"], line["temperature"]) for line in lines if "temperature" in line] == [(0, temperature)]
    # Of the first round of the recording, half of it; the sample that it was found from is another.
    dataset = Dataset.open(str(recording))
    outputs = np.concatenate([np.asarray(dataset.read(start, start + 32).teacher_q) for start in (0, 32)])
    assert mean_entropy(outputs.reshape(-1, 2), temperature) == pytest.approx(0.3 * np.log(2), abs=0.03)


def test_an_audit_reads_the_teachers_policy_at_that_temperature(run: Path) -> None:
    trained, teacher = load_trained(str(run)), load("cartpole")
    reading = reading_of(StudentPolicy(trained, str(run), None).for_game("cartpole"), teacher)
    assert (reading.temperature, reading.student_temperature) == (trained.temperature(0), 1.0)


@pytest.mark.parametrize("kept", [1, 2])
def test_a_run_that_is_resumed_keeps_its_temperature_and_every_bit(
    run: Path, recording: Path, tmp_path: Path, kept: int
) -> None:
    """From the middle of its first round, and from its second."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    steps = checkpoint_steps(out)
    assert steps == [40, 80, 120]
    for step in steps[kept:]:
        shutil.rmtree(out / "checkpoints" / str(step))
    distill(config_of(out, data=str(recording), resume=True))
    assert state_digests(out) == state_digests(run)
    assert without_time(read_lines(out)) == without_time(read_lines(run))


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(LossConfig(kind="jsd", beta=0.2, weights="action_gap"), marks=pytest.mark.slow),
        LossConfig(kind="advantage_huber", weights="entropy"),
    ],
)
def test_runs_of_other_losses_and_weights_are_resumed_to_the_bit(
    recording: Path, tmp_path: Path, loss: LossConfig
) -> None:
    for name in ("whole", "resumed"):
        distill(config_of(tmp_path / name, data=str(recording), loss=loss))
    for step in (80, 120):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(step))
    distill(config_of(tmp_path / "resumed", data=str(recording), loss=loss, resume=True))
    assert checkpoint_steps(tmp_path / "resumed") == [40, 80, 120]
    assert state_digests(tmp_path / "resumed") == state_digests(tmp_path / "whole")


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(kind="advantage_huber", weights="entropy"),
        LossConfig(kind="nll", weights="action_gap"),
    ],
    ids=["advantages", "nll"],
)
def test_a_teacher_times_a_power_of_two_gives_the_same_student_bit_for_bit(tmp_path: Path, loss: LossConfig) -> None:
    students, temperatures = [], []
    for name, factor in (("small", 2.0**-10), ("large", 2.0**10)):
        distill(config_of(tmp_path / name, loss=loss), scaled("cartpole", factor))
        students.append(variables_of(tmp_path / name))
        temperatures.append(load_trained(str(tmp_path / name)).temperature(0))
    np.testing.assert_array_equal(*students)
    if loss.is_auto:
        assert temperatures[1] == temperatures[0] * 2.0**20


def test_a_teacher_times_any_factor_gives_the_same_student_but_for_rounding(tmp_path: Path) -> None:
    for name, factor in (("small", 0.001), ("large", 1000.0)):
        distill(config_of(tmp_path / name), scaled("cartpole", factor))
    small, large = (load_trained(str(tmp_path / name)).temperature(0) for name in ("small", "large"))
    assert small is not None and large == pytest.approx(1e6 * small, rel=1e-4)
    np.testing.assert_allclose(variables_of(tmp_path / "large"), variables_of(tmp_path / "small"), atol=1e-4)


def test_another_teacher_has_its_temperature_found_anew(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run")
    short = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, rounds=1))
    distill(short, scaled("cartpole", 1.0))
    before = load_trained(config.out).temperature(0)
    distill(dataclasses.replace(config, resume=True, accept_other_teacher=True), scaled("cartpole", 8.0))
    after = load_trained(config.out).temperature(0)
    assert before is not None and after is not None
    # Of other play, and eight times as large.
    assert 4 * before < after < 16 * before
    assert [line["temperature"] for line in read_lines(Path(config.out)) if "temperature" in line] == [before, after]


@pytest.mark.slow
def test_games_have_temperatures_of_their_own_and_one_may_be_a_number(tmp_path: Path) -> None:
    out, config = tmp_path / "run", config_of(tmp_path / "run", teacher=("cartpole", "acrobot"))
    loss = LossConfig(kind="jsd", beta=0.3, temperature=("auto", 0.2), target_entropy=0.3, weights="entropy")
    summary = distill(dataclasses.replace(config, loss=loss))
    first, second = summary["temperature"]
    trained = load_trained(str(out))
    assert (trained.temperature(0), trained.temperature(1)) == (first, None)
    assert first not in (0.01, 0.2) and second == 0.2
    (line,) = [line for line in read_lines(out) if "cartpole/temperature" in line]
    assert line["cartpole/temperature"] == first and "acrobot/temperature" not in line
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pd_jax.distill.session.note_temperatures", lambda *_: pytest.fail("found again"))
        shutil.rmtree(out / "checkpoints" / "120")
        distill(dataclasses.replace(config, loss=loss, resume=True))


def test_students_that_train_together_have_the_temperature_of_each_alone(
    run: Path, recording: Path, tmp_path: Path
) -> None:
    configs = [config_of(tmp_path / str(seed), data=str(recording), seed=seed) for seed in (0, 1)]
    summaries = distill_together(configs, load("cartpole"))
    expected = load_trained(str(run)).temperature(0)
    for seed, summary in enumerate(summaries):
        assert not isinstance(summary, Exception)
        assert summary["temperature"] == expected
        assert load_trained(str(tmp_path / str(seed))).temperature(0) == expected
    np.testing.assert_allclose(variables_of(tmp_path / "0"), variables_of(run), atol=1e-4)
    assert np.abs(variables_of(tmp_path / "1") - variables_of(run)).max() > 0.01


@pytest.mark.slow
def test_a_sweep_has_auto_beside_numbers_and_a_report_pools_its_seeds(recording: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "teacher": "cartpole",
        "data": recording,
        "out": tmp_path / "sweep",
        "student.network": "mlp",
        "student.mlp-hidden": 8,
        "grid.losses": ["reverse_kl", "huber"],
        "grid.temperatures": [0.1, "auto"],
        "grid.seeds": [0, 1],
        "together": True,
        "replay.capacity": 768,
        "schedule.rounds": 1,
        "schedule.steps-per-round": 512,
        "schedule.updates-per-round": 40,
        "evaluation.episodes": 2,
        "evaluation.num-lanes": 2,
        "evaluation.max-episode-steps": 20,
    }
    succeed("sweep", settings)
    cells = sorted(path.name for path in (tmp_path / "sweep" / "cells").iterdir())
    names = [f"reverse_kl-t{temperature}" for temperature in ("0.1", "auto")] + ["huber"]
    assert cells == sorted(f"cartpole-mlp-{name}-lr0.00025-seed{seed}" for name in names for seed in (0, 1))
    table = json.loads((tmp_path / "sweep" / "table.json").read_text())
    assert [(row["loss"], row["temperature"]) for row in table["rows"]] == [
        ("reverse_kl", 0.1),
        ("reverse_kl", "auto"),
        ("huber", None),
    ]
    (section,) = read_report([str(tmp_path / "sweep")]).sections
    found = [(cell.design.recipe.loss, cell.design.recipe.temperature, len(cell.results)) for cell in section.cells]
    assert found == [("reverse_kl", 0.1, 2), ("reverse_kl", "auto", 2), ("huber", None, 2)]


def test_a_student_of_huber_gives_q_values_as_one_of_mse_does(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", loss=LossConfig(kind="huber", delta=0.5))
    distill(config)
    trained = load_trained(config.out)
    assert not StudentPolicy(trained, config.out, None).for_game("cartpole").gives_logits
    assert trained.temperature(0) is None
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["temperature"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"loss.kind": "huberr"}, "--loss.kind: 'huberr' is not a loss; did you mean 'huber'?"),
        ({"loss.kind": "jsd", "loss.beta": 1.5}, "--loss.beta: 1.5 is out of range (at most 0.999999)"),
        ({"loss.temperature": "auto", "loss.target-entropy": 0}, "--loss.target-entropy: 0 is out of range"),
        ({"loss.temperature": "auto", "loss.target-entropy": 1.2}, "--loss.target-entropy: 1.2 is out of range"),
        ({"loss.kind": "mse", "loss.temperature": "auto"}, "--loss.temperature: is of policies and advantages, and"),
        ({"loss.kind": "nll", "loss.temperature": "auto"}, "--loss.temperature: is of policies and advantages, and"),
        ({"loss.temperature": ["auto", "auto"]}, "--loss.temperature: 2 numbers for 1 teacher"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    more: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = {"teacher": "cartpole", "out": out, "student.network": "mlp"} | more
    assert refusal(capfd, "distill", *options(settings)).startswith(f"pd-jax distill: {message}")
    assert not out.exists()
