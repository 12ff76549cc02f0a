"""Distilling several teachers of one game: resumed bit for bit, told of, and members that fail are left out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.config.credibility import CredibilityConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    EnvConfig,
    EvaluationConfig,
    LearnerConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.deploy.audit.players import describe_player
from pd_jax.deploy.scoring import run_evaluate
from pd_jax.distill.session import distill
from pd_jax.replay.recordings import Dataset
from pd_jax.report.page import run_page
from pd_jax.runs.directory import read_run
from pd_jax.runs.lineage import read_lineage
from pd_jax.runs.students import load_teacher
from pd_jax.teachers import load
from support.commands import (
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    state_digests,
    succeed,
    without_time,
)
from support.committees import write_changed
from support.unsound import steps_until_right_of, write_overflowing_teacher


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundled teacher, another one of the same mind, and one that does the opposite."""
    directory = tmp_path_factory.mktemp("members")
    alike = write_changed(directory / "alike.safetensors", 0.5, 480.0)
    opposite = write_changed(directory / "opposite.safetensors", -1.0, 300.0)
    return f"cartpole+{alike}+{opposite}"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, names: str) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "three"
    succeed("collect", {"teacher": names, "out": path, "steps": 1024, "rollout-length": 32, "env.num-lanes": 8})
    return path


def config_of(out: Path, names: str, data: Path | None, **changes: Any) -> DistillConfig:
    config = DistillConfig(
        teacher=names,
        out=str(out),
        data=None if data is None else str(data),
        student=StudentConfig(network="mlp", mlp_hidden=(8,)),
        env=EnvConfig(num_lanes=8),
        learner=LearnerConfig(batch_size=16, updates_per_call=20, optimizer="adam", learning_rate=1e-3),
        replay=ReplayConfig(capacity=768),
        schedule=ScheduleConfig(rounds=2, steps_per_round=512, updates_per_round=60),
        evaluation=StudentEvaluationConfig(episodes=2, num_lanes=2, max_episode_steps=40),
        checkpoint=DistillCheckpointConfig(every_updates=40, keep=5),
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, names: str, recorded: Path) -> Path:
    """From the recording. Not to be written to."""
    out = tmp_path_factory.mktemp("committee") / "run"
    distill(config_of(out, names, recorded))
    return out


def test_the_labels_of_a_recording_are_the_mixtures(names: str, recorded: Path) -> None:
    rollout = Dataset.open(str(recorded)).read(0, 64)
    seen, labels = np.asarray(rollout.observations).reshape(-1, 4), np.asarray(rollout.teacher_q).reshape(-1, 2)
    np.testing.assert_allclose(labels, np.asarray(load_teacher(names)(seen)), rtol=1e-3, atol=0.02)
    np.testing.assert_array_equal(labels.argmax(axis=1), np.asarray(load("cartpole")(seen)).argmax(axis=1))


def test_a_run_tells_how_far_its_teachers_contradict_each_other(run: Path, names: str) -> None:
    summary, lines = json.loads((run / "summary.json").read_text()), read_lines(run)
    told = summary["committees"]["cartpole"]
    assert told["by"] == "both"
    assert [member["teacher"] for member in told["members"]] == ["cartpole", "alike", "opposite"]
    # Where two of one mind are against it, the third counts nothing; and where equal outputs leave no best action,
    # they are of one mind all three.
    assert told["contradiction_rate"] > 0.9
    assert told["members"][2]["weight_where_outvoted"] < 0.01
    assert told["agreement"][0][1] > 0.99 and told["agreement"][0][2] == pytest.approx(1 - told["contradiction_rate"])
    assert 0 < len(told["worst"]) <= 5 and told["worst"][0]["weights"][2] < 1e-3
    # After each of the two rounds.
    rounds = [line for line in lines if "contradiction_rate" in line]
    assert [line["step"] for line in rounds] == [20, 80]
    assert all(line["credibility/opposite"] < 0.1 < line["credibility/cartpole"] for line in rounds)
    assert summary["teacher_parameters"] == 3 * load("cartpole").num_params
    page = run_page(read_run(run))
    assert "Where the teachers contradict each other" in page and (run / "committee_cartpole.png").is_file()


def test_lineage_names_each_teacher_and_audits_describe_them(run: Path, names: str) -> None:
    lineage = read_lineage(run)
    assert lineage is not None and "committee_cartpole.png" in lineage.files
    parents = [parent for parent in lineage.parents if parent.role == "teacher"]
    assert [parent.name for parent in parents] == ["cartpole", "alike.safetensors", "opposite.safetensors"]
    committee = load_teacher(names)
    assert [parent.sha256 for parent in parents] == [member.sha256 for member in committee.members]
    assert describe_player(committee)["network"] == "committee"


def test_a_resumed_run_has_every_bit(run: Path, names: str, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    steps = checkpoint_steps(out)
    assert steps == [40, 80, 120]
    # From the middle of its first round.
    for step in steps[1:]:
        shutil.rmtree(out / "checkpoints" / str(step))
    distill(config_of(out, names, recorded, resume=True))
    assert state_digests(out) == state_digests(run)
    assert without_time(read_lines(out)) == without_time(read_lines(run))
    assert (out / "committee_cartpole.png").is_file()


def test_another_credibility_is_another_run_and_another_recording(
    run: Path, names: str, recorded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    values = {"teacher": names, "data": recorded, "credibility.by": "none", "student.network": "mlp"}
    assert "recorded with the teacher" in refusal(capfd, "distill", *options(values | {"out": tmp_path / "other"}))
    assert not (tmp_path / "other").exists()
    config = config_of(run, names, None, credibility=CredibilityConfig(by="state"), resume=True)
    with pytest.raises(Exception, match=r"credibility\.by is 'both' there and 'state' here"):
        distill(config)
    assert contents(run) == before


def test_a_committee_is_scored_as_a_teacher_is(names: str) -> None:
    config = EvaluateConfig(teacher=names, evaluation=EvaluationConfig(episodes=2, num_lanes=2, epsilon=0.0))
    summary = run_evaluate(config)
    score = summary.games["cartpole"].teacher
    assert score is not None and score.mean == 500.0


FAILING = {
    "seed": 3,
    "epsilon": 1.0,
    "credibility.scores": [500, 500, 500],
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 4,
    "learner.updates-per-call": 10,
    "replay.capacity": 1024,
    "schedule.rounds": 4,
    "schedule.steps-per-round": 128,
    "schedule.rollout-length": 16,
    "schedule.updates-per-round": 20,
    "checkpoint.every-updates": 1_000,
}


@pytest.mark.slow
def test_a_member_that_gives_nan_is_left_out_from_then_on_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = steps_until_right_of(0.15)
    wild, out = write_overflowing_teacher(tmp_path / "wild.safetensors", 0.15), tmp_path / "run"
    alike = write_changed(tmp_path / "alike.safetensors", 0.5)
    values = FAILING | QUICK_EVALUATION | {"teacher": f"cartpole+{wild}+{alike}", "out": out}
    succeed("distill", values)
    printed, found = capfd.readouterr(), f"gave NaN or infinite outputs at step {steps:,}"
    assert printed.err.count("gave NaN") == 1
    assert f"warning: cartpole: {wild}, one of 3 teachers, {found}; it does not count any more" in printed.err
    assert f"cartpole: wild {found}, and does not count since" in printed.out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["games"]["cartpole"]["teachers_left_out"] == {"wild": steps}
    assert summary["env_steps"] == 512 and summary["committees"]["cartpole"]["members"][1]["weight"] == 0.0
    lines = read_lines(out)
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert [line["left_out_at/wild"] for line in lines if "left_out_at/wild" in line] == [steps]
    # Goes on without it, and says nothing anew.
    succeed("distill", values | {"schedule.rounds": 5, "resume": True})
    assert "gave NaN or infinite outputs at step" not in capfd.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["games"]["cartpole"]["teachers_left_out"] == {"wild": steps}


def test_a_recording_goes_on_without_a_member_that_gives_nan(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wild, out = write_overflowing_teacher(tmp_path / "wild.safetensors", 0.15), tmp_path / "recording"
    values = {"teacher": f"cartpole+{wild}", "credibility.scores": [500, 500], "out": out, "steps": 512, "seed": 3}
    succeed("collect", values | {"epsilon": 1.0, "env.num-lanes": 4, "rollout-length": 16})
    step = steps_until_right_of(0.15)
    assert (
        f"warning: {wild}, one of 2 teachers, gave NaN or infinite outputs at step {step:,}" in capfd.readouterr().err
    )
    rollout = Dataset.open(str(out)).read(0, 128)
    labels, seen = np.asarray(rollout.teacher_q), np.asarray(rollout.observations)
    assert np.isfinite(labels).all() and labels.max() <= 0.0
    # From the rollout after on, the other one is all there is.
    first = -(-(step // 4 + 1) // 16) * 16
    own = np.asarray(load("cartpole")(seen[first:].reshape(-1, 4))) / 0.01
    wanted = own - np.logaddexp(own[:, :1], own[:, 1:])
    np.testing.assert_allclose(labels[first:].reshape(-1, 2), wanted, rtol=1e-3, atol=0.02)


def test_where_all_fail_the_run_ends_as_with_one_teacher(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wild = write_overflowing_teacher(tmp_path / "wild.safetensors", 0.15)
    wilder, out = write_overflowing_teacher(tmp_path / "wilder.safetensors", 0.13), tmp_path / "run"
    names = f"{wild}+{wilder}"
    values = FAILING | QUICK_EVALUATION | {"teacher": names, "out": out, "credibility.scores": [500, 500]}
    assert main(["distill", *options(values)]) == 2
    printed = capfd.readouterr().err
    assert (
        f"{wilder}, one of 2 teachers, gave NaN or infinite outputs at step {steps_until_right_of(0.13):,}" in printed
    )
    assert f"teacher {names} gave NaN or infinite outputs at step {steps_until_right_of(0.15):,}" in printed
