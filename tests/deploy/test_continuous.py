"""Students of continuous tasks at work: ONNX files, their runtime, as teachers, and what refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax import load_student
from pd_jax.cli import main
from pd_jax.deploy.runtime import Policy
from pd_jax.environments.envpool import Environment
from pd_jax.teachers import load
from support.commands import options, refusal, succeed
from support.continuous import write_teacher

STATISTICS = {"observation": {"mean": [0.1, 0.2, 0.3], "variance": [1.0, 2.0, 4.0], "count": 9, "epsilon": 0.0}}
SMALL = {
    "student.network": "mlp",
    "student.mlp-hidden": 16,
    "env.num-lanes": 8,
    "schedule.rounds": 1,
    "schedule.steps-per-round": 256,
    "schedule.updates-per-round": 20,
    "schedule.rollout-length": 16,
    "replay.capacity": 1024,
    "evaluation.episodes": 2,
    "evaluation.num-lanes": 2,
    "evaluation.max-episode-steps": 20,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a squashed teacher with statistics: a student of Gaussians, and one of actions."""
    directory = tmp_path_factory.mktemp("runs")
    teacher = write_teacher(directory / "teacher", squashed=True, normalisation=STATISTICS)
    for loss in ("kl", "mse"):
        succeed("distill", SMALL | {"teacher": teacher, "loss.kind": loss, "out": directory / loss})
    return {loss: directory / loss for loss in ("kl", "mse")}


@pytest.mark.parametrize(("loss", "output", "width"), [("kl", "gaussian", 2), ("mse", "means", 1)])
def test_a_file_plays_an_episode_as_its_student_does(
    runs: dict[str, Path], tmp_path: Path, loss: str, output: str, width: int
) -> None:
    settings = {"proof.frames": 64, "evaluation.episodes": 2, "evaluation.num-lanes": 2}
    settings["evaluation.max-episode-steps"] = 20
    succeed("export", settings | {"run": runs[loss], "format": "onnx", "out": tmp_path / "x"})
    file, student = Policy.load(tmp_path / "x" / "pendulum_v1.onnx"), load_student(runs[loss])
    assert (file.metadata["format_version"], file.metadata["output"]) == (3, output)
    assert file.metadata["action_range"] == {"low": [-2.0], "high": [2.0], "squashed": loss == "kl"}
    low, high = file.action_range
    assert (low, high) == (np.float32([-2.0]), np.float32([2.0]))
    environment = Environment(student.task, 3, 11, stepping="host")
    timestep, steps = environment.reset()[1], 0
    while not np.asarray(timestep.is_last).any():
        seen = np.asarray(timestep.observations)
        actions, _ = file.act(seen)
        assert actions.dtype == np.float32 and actions.shape == (3, 1)
        np.testing.assert_allclose(actions, student.act(seen)[0], atol=1e-4)
        np.testing.assert_allclose(file.outputs(seen), student.outputs(seen), atol=1e-4)
        assert file.outputs(seen).shape == (3, width)
        timestep, steps = environment.step_host(actions, np.zeros(3, bool)), steps + 1
    assert steps == 200
    report = json.loads((tmp_path / "x" / "export.json").read_text())["games"]["pendulum_v1"]
    assert report["files"]["onnx"]["frames"]["share_of_equal_actions"] == 1.0


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_a_student_is_a_teacher_with_its_range_and_its_statistics(
    runs: dict[str, Path], tmp_path: Path, loss: str
) -> None:
    path = tmp_path / "teacher.safetensors"
    assert main(["teachers", "import", str(runs[loss]), "--game", "pendulum", "--out", str(path)]) == 0
    teacher, student = load(path), load_student(runs[loss])
    seen = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    assert np.array_equal(teacher.outputs(seen), student.outputs(seen))
    assert np.array_equal(teacher.act(seen)[0], student.act(seen)[0])
    assert teacher.metadata.action_high == (2.0,) and teacher.metadata.squashed == (loss == "kl")
    assert teacher.metadata.normalisation["observation"]["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        ("export", {"format": "c"}, "format: c: "),
        ("export", {"format": "stablehlo"}, "format: stablehlo: "),
        ("export", {"format": "onnx", "precision": "int8"}, "precision: int8: "),
        ("audit", {}, "audit: "),
    ],
)
def test_what_is_for_actions_that_are_chosen_refuses_them(
    runs: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    command: str,
    settings: dict[str, Any],
    message: str,
) -> None:
    told = refusal(capfd, command, *options(settings | {"run": runs["kl"], "out": tmp_path / "x"}))
    assert told.startswith(f"pd-jax {command}: {message}the student of ") and "has continuous actions" in told
    assert not (tmp_path / "x").exists()


def test_a_video_of_a_task_without_a_picture_is_refused(
    runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capfd, "video", *options({"run": runs["kl"], "out": tmp_path / "x.gif"}))
    assert told.startswith("pd-jax video: game: there is no picture of pendulum_v1 (")
    assert not (tmp_path / "x.gif").exists()
