"""Distillation of continuous tasks through the real commands: live, from recordings, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax import load_student
from pd_jax.config import DistillConfig
from pd_jax.config.sections import NormalisationConfig, StudentConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.student import load_trained
from pd_jax.distill.continuous import with_statistics
from pd_jax.errors import UserError
from pd_jax.replay.recordings import Dataset
from pd_jax.teachers import load
from support.commands import options, refusal, succeed
from support.continuous import write_teacher

STATISTICS = {"observation": {"mean": [0.1, 0.2, 0.3], "variance": [1.0, 2.0, 4.0], "count": 9, "epsilon": 0.0}}
SMALL = {
    "student.network": "mlp",
    "student.mlp-hidden": 16,
    "env.num-lanes": 8,
    "schedule.rounds": 2,
    "schedule.steps-per-round": 256,
    "schedule.updates-per-round": 40,
    "schedule.rollout-length": 16,
    "learner.optimizer": "adam",
    "learner.learning-rate": 3e-3,
    "learner.batch-size": 16,
    "replay.capacity": 1024,
    "evaluation.episodes": 2,
    "evaluation.num-lanes": 2,
    "evaluation.max-episode-steps": 20,
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("teachers")
    changes: dict[str, dict[str, Any]] = {
        "gaussian": {},
        "squashed": {"squashed": True, "normalisation": STATISTICS},
        "means": {"output": "means", "squashed": True},
    }
    return {name: write_teacher(directory / name, **each) for name, each in changes.items()}


@pytest.fixture(scope="module")
def recording(teachers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("play") / "recording"
    settings = {"steps": 512, "rollout-length": 16, "env.num-lanes": 8, "epsilon": 1.0}
    succeed("collect", settings | {"teacher": teachers["squashed"], "out": out})
    return out


@pytest.mark.parametrize(
    ("teacher", "loss", "behaviour", "width", "actions"),
    [
        pytest.param("gaussian", "kl", "teacher", 2, "gaussian", marks=pytest.mark.slow),
        ("squashed", "reverse_kl", "mixture", 2, "squashed"),
        pytest.param("squashed", "mse", "student", 1, "means", marks=pytest.mark.slow),
        ("means", "huber", "mixture", 1, "means"),
    ],
)
def test_a_student_learns_live(
    teachers: dict[str, Path], tmp_path: Path, teacher: str, loss: str, behaviour: str, width: int, actions: str
) -> None:
    succeed(
        "distill",
        SMALL | {"teacher": teachers[teacher], "loss.kind": loss, "behaviour.policy": behaviour, "out": tmp_path / "r"},
    )
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    learnt = [line["loss"] for line in metrics if "loss" in line]
    assert learnt[-1] < 0.7 * learnt[0]
    assert all(0 <= line["agreement"] <= 1 for line in metrics if "agreement" in line)
    student = load_student(tmp_path / "r")
    config = read_yaml(tmp_path / "r" / "config.yaml")["student"]
    assert config["actions"] == actions and student.task.squashed == (actions == "squashed")
    seen = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    assert student.outputs(seen).shape == (5, width)
    played, _ = student.act(seen)
    assert played.shape == (5, 1) and (np.abs(played) <= 2.0).all()
    # Of a teacher with statistics the student has them too.
    assert (config["normalisation"]["source"] == "teacher") == (teacher == "squashed")
    if teacher == "squashed":
        assert config["normalisation"]["mean"] == [0.1, 0.2, 0.3]
        assert student.trained.student.network.torso.normalisation.variance == (1.0, 2.0, 4.0)


def test_a_recording_holds_actions_with_noise_and_the_teachers_outputs(
    teachers: dict[str, Path], recording: Path
) -> None:
    dataset, teacher = Dataset.open(recording), load(teachers["squashed"])
    header = dataset.header
    assert (header.format_version, header.num_actions, header.teacher_output) == (3, 2, "gaussian")
    assert (header.action_low, header.action_high) == ((-2.0,), (2.0,))
    play = dataset.read(0, 64)
    assert play.actions.shape == (64, 8, 1) and play.actions.dtype == np.float32
    outputs = np.asarray(teacher.outputs(play.observations.reshape(-1, 3)))
    np.testing.assert_allclose(play.teacher_q.reshape(-1, 2), outputs, atol=1e-5)
    # Back to the Gaussian's own units: of mean 0 and deviation 1.
    means, log_stds = outputs[:, 0], outputs[:, 1]
    noise = (np.arctanh(np.clip(play.actions.ravel() / 2, -0.999999, 0.999999)) - means) / np.exp(log_stds)
    assert abs(noise.mean()) < 0.2 and 0.85 < noise.std() < 1.15


def test_a_run_from_a_recording_that_is_resumed_ends_with_the_same_bits(
    teachers: dict[str, Path], recording: Path, tmp_path: Path
) -> None:
    settings = {name: value for name, value in SMALL.items() if name != "env.num-lanes"}
    settings |= {"teacher": teachers["squashed"], "data": recording}
    succeed("distill", settings | {"out": tmp_path / "whole"})
    succeed("distill", settings | {"out": tmp_path / "halves", "schedule.rounds": 1})
    succeed("distill", settings | {"out": tmp_path / "halves", "resume": True})
    both = [jax.tree.leaves(load_trained(str(tmp_path / name)).variables) for name in ("whole", "halves")]
    assert all(np.array_equal(one, other) for one, other in zip(*both, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.kind": "nll"},
            "loss.kind: 'nll': the teacher of pendulum_v1 gives Gaussians (kl, reverse_kl, mse",
        ),
        ({"student.actions": "means"}, "student.actions: 'means', and kl of "),
        ({"learner.sampling": "action_gap"}, "learner.sampling: 'action_gap' is of teachers that choose among actions"),
        ({"student.normalisation.source": "teacher"}, "student.normalisation.source: 'teacher', and "),
        ({"student.normalisation.source": "given"}, "student.normalisation: 'given', and there is no mean or no varia"),
        (
            {
                "student.normalisation.source": "given",
                "student.normalisation.mean": [1, 2],
                "student.normalisation.variance": 1,
            },
            "student.normalisation.mean: 2 numbers, and pendulum_v1 shows 3",
        ),
        (
            {"teacher": ["TEACHER", "cartpole"]},
            "game: pendulum_v1 is continuous; a student of such a task plays no",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    teachers: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    settings = SMALL | {"teacher": "TEACHER", "out": tmp_path / "r"} | changes
    given = settings["teacher"] if isinstance(settings["teacher"], list) else [settings["teacher"]]
    settings["teacher"] = [str(teachers["gaussian"]) if name == "TEACHER" else name for name in given]
    told = refusal(capfd, "distill", *options(settings))
    assert told.startswith(f"pd-jax distill: {message}") or told.startswith(f"pd-jax distill: --{message}")
    assert not (tmp_path / "r").exists()


def test_the_statistics_of_the_teacher_take_the_place_of_another_teachers(teachers: dict[str, Path]) -> None:
    # As in the config.yaml of a run, which may be the settings of another one.
    known = NormalisationConfig(source="teacher", mean=(9.0,) * 3, variance=(9.0,) * 3)
    student = StudentConfig(network="mlp", normalisation=known)
    teacher = load(teachers["squashed"])
    config = DistillConfig(teacher=str(teachers["squashed"]), student=student, out="unused")
    taken = with_statistics(config, [teacher], [teacher.task]).normalisation
    assert (taken.source, taken.mean, taken.variance) == ("teacher", (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    with pytest.raises(UserError, match=r"^student\.normalisation\.source: 'teacher', and .* has no statistics$"):
        with_statistics(config, [load(teachers["gaussian"])], [teacher.task])


def test_a_recording_of_another_range_is_refused(
    teachers: dict[str, Path], recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(recording, copy)
    header = json.loads((copy / "dataset.json").read_text())
    settings = {name: value for name, value in SMALL.items() if name != "env.num-lanes"}
    settings |= {"teacher": teachers["squashed"], "data": copy, "out": tmp_path / "r"}
    for changes, message in (
        ({"action_high": [3.0]}, f"{copy}: recorded with action_high (3.0,), and the run has action_high (2.0,)"),
        ({"action_high": [-2.0]}, f"{copy}: dataset.json: action_low is not below action_high"),
        ({"action_high": "wide"}, f"{copy}: dataset.json: action_high is 'wide'"),
        ({"num_actions": 3}, f"{copy}: dataset.json: num_actions is 3, with 1 components in an action"),
        ({"format_version": 2}, f"{copy}: dataset.json: action_low is of format 3, the file of format 2"),
    ):
        (copy / "dataset.json").write_text(json.dumps(header | changes))
        assert refusal(capfd, "distill", *options(settings)) == f"pd-jax distill: {message}"
    assert not (tmp_path / "r").exists()
