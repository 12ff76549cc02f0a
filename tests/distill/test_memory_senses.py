"""Students with memory that sense less than their teachers: they remember what they do not see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.policy import load_student
from support.commands import QUICK_EVALUATION, read_lines, state_digests, succeed, without_time
from support.made_runs import write_student_run

SETTINGS: dict[str, Any] = {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 16,
    "student.memory": "gru",
    "student.memory-size": 16,
    "student.observation.components": [0, 2],
    "env.num-lanes": 8,
    "learner.batch-size": 64,
    "learner.sequence-length": 16,
    "learner.burn-in": 4,
    "learner.updates-per-call": 20,
    "replay.capacity": 4096,
    "schedule.rounds": 2,
    "schedule.steps-per-round": 512,
    "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 40,
}


@pytest.fixture(scope="module")
def sensing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a GRU that sees noisy positions, some of which are lost; it has learnt nothing."""
    seen = StudentObservationConfig(components=(0, 2), noise=0.01, missing=0.1)
    student = StudentConfig(network="mlp", mlp_hidden=(8,), memory="gru", memory_size=16, observation=seen)
    return write_student_run(tmp_path_factory.mktemp("sensing") / "run", ("cartpole",), student)


@pytest.mark.slow
def test_a_run_from_a_recording_of_what_is_sensed_goes_on_to_the_same_bits(tmp_path: Path, recording: Path) -> None:
    """The teacher's vector is recorded; two of its numbers and a window of two steps are what the student sees."""
    settings = SETTINGS | QUICK_EVALUATION | {"student.observation.window": 2, "data": recording}
    settings = {key: value for key, value in settings.items() if key != "env.num-lanes"}
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"out": runs[0]})
    succeed("distill", settings | {"out": runs[1], "schedule.rounds": 1})
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])
    assert without_time(read_lines(runs[0])) == without_time(read_lines(runs[1]))


def test_a_student_takes_what_it_senses_and_its_state(sensing: Path) -> None:
    student = load_student(sensing)
    state = student.initial_state(3)
    assert state is not None and state.shape == (3, 16)
    outputs, after = student.decide(np.zeros((3, 2), np.float32), state)
    assert outputs.shape == (3, 2) and after is not None and np.abs(after).max() > 0


def test_its_file_is_proved_on_what_it_senses(tmp_path: Path, sensing: Path) -> None:
    out = tmp_path / "export"
    proof = {"proof.frames": 100, "evaluation.episodes": 2, "evaluation.num-lanes": 2}
    succeed("export", {"run": sensing, "out": out, **proof})
    report = json.loads((out / "export.json").read_text())
    (entry,) = report["games"]["cartpole"]["files"].values()
    assert entry["frames"]["frames"] == 100 and entry["frames"]["largest_relative_difference"] < 1e-4
    assert report["games"]["cartpole"]["policy"]["observation"]["shape"] == [2]


@pytest.mark.slow
def test_a_student_of_continuous_actions_remembers_too(tmp_path: Path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if "components" not in key}
    run, out = tmp_path / "run", tmp_path / "export"
    acts = {"teacher": "cartpole_swingup_v1", "behaviour.policy": "student"}
    succeed("distill", settings | QUICK_EVALUATION | acts | {"out": run})
    student = load_student(run)
    actions, state = student.act(np.zeros((2, *student.task.observation_shape), np.float32), student.initial_state(2))
    assert actions.dtype == np.float32 and actions.shape == (2, 1)
    assert state is not None and state.shape == (2, 16)
    succeed("export", {"run": run, "out": out, "proof.frames": 100, "evaluation.episodes": 0})
    report = json.loads((out / "export.json").read_text())
    ((_, game),) = report["games"].items()
    assert game["files"]["onnx"]["frames"]["largest_relative_difference"] < 1e-4


@pytest.mark.slow
def test_a_gru_balances_by_positions_alone_and_a_student_without_memory_does_not(tmp_path: Path) -> None:
    """As `configs/quick/memory_cartpole.yaml`."""
    settings = SETTINGS | {
        "behaviour.policy": "student", "student.mlp-hidden": 32, "student.memory-size": 32, "loss.temperature": 0.1,
        "env.num-lanes": 16, "learner.batch-size": 128, "learner.burn-in": 8, "learner.optimizer": "adam",
        "learner.learning-rate": 2e-3, "learner.learning-rate-decay": True, "learner.updates-per-call": 50,
        "replay.capacity": 32_768, "schedule.rounds": 8, "schedule.steps-per-round": 4096,
        "schedule.updates-per-round": 1000, "schedule.rollout-length": 64, "checkpoint.every-updates": 4000,
        "evaluation.episodes": 30,
    }  # fmt: skip
    idle = ("student.memory", "student.memory-size", "learner.sequence-length", "learner.burn-in")
    scores = {}
    for memory in ("gru", "none"):
        own = settings if memory == "gru" else {key: value for key, value in settings.items() if key not in idle}
        out = tmp_path / memory
        succeed("distill", own | {"out": out})
        summary = json.loads((out / "summary.json").read_text())
        scores[memory] = summary["games"]["cartpole"]["student"]["mean"]
    assert scores["gru"] > 400 > 100 > scores["none"], scores
