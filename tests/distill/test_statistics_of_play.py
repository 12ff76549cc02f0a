"""Statistics of what a student sees of its teacher's play, frozen before it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pd_jax
from pd_jax.config.yaml import read_yaml
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.runs.students import load_teacher
from pd_jax.teachers import load
from support.commands import contents, options, refusal, succeed

TINY: dict[str, Any] = {
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "schedule.rounds": 1,
    "schedule.steps-per-round": 256,
    "schedule.rollout-length": 16,
    "schedule.updates-per-round": 3,
    "replay.capacity": 512,
    "evaluation.episodes": 2,
    "evaluation.num-lanes": 2,
    "evaluation.max-episode-steps": 30,
}
POSITIONS = {"student.observation.components": [0, 2], "student.observation.window": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("statistics") / "run"
    succeed("distill", TINY | POSITIONS | {"teacher": "cartpole", "student.normalisation.source": "play", "out": out})
    return out


def test_they_are_those_of_the_teachers_play(run: Path) -> None:
    told = read_yaml(run / "config.yaml")["student"]["normalisation"]
    assert told["source"] == "play" and len(told["mean"]) == len(told["variance"]) == 4
    # Play of other seeds, by a loop of its own.
    teacher, environment = (
        load("cartpole"),
        Environment(get_task("cartpole"), 32, 900, stepping="host", max_episode_steps=30),
    )
    _, timestep = environment.reset()
    generator, seen = np.random.default_rng(0), []
    for _ in range(256):
        actions = np.asarray(teacher(np.asarray(timestep.observations))).argmax(axis=1)
        actions = np.where(generator.random(32) < 0.05, generator.integers(0, 2, 32), actions)
        timestep = environment.step_host(actions, np.asarray(timestep.is_last))
        seen.append(np.asarray(timestep.observations)[:, [0, 2]])
    environment.close()
    wanted = np.concatenate(seen).astype(np.float64)
    deviations = np.sqrt(np.tile(wanted.var(axis=0), 2))
    np.testing.assert_allclose(np.sqrt(told["variance"]), deviations, rtol=0.2)
    np.testing.assert_array_less(np.abs(told["mean"] - np.tile(wanted.mean(axis=0), 2)), 0.3 * deviations)


def test_the_student_computes_with_them_wherever_it_is_loaded(run: Path) -> None:
    told = read_yaml(run / "config.yaml")["student"]["normalisation"]
    student = pd_jax.load_student(str(run))
    params = student.variables["params"]
    seen = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    x = np.clip((seen - np.float64(told["mean"])) / np.sqrt(np.float64(told["variance"]) + told["epsilon"]), -10, 10)
    hidden = params["torso"]["fc1"]
    x = np.maximum(x @ np.float64(hidden["kernel"]) + np.float64(hidden["bias"]), 0.0)
    output = params["head"]["output"]
    wanted = x @ np.float64(output["kernel"]) + np.float64(output["bias"])
    np.testing.assert_allclose(student.outputs(seen), wanted, rtol=1e-4, atol=1e-4)


def test_a_run_that_goes_on_keeps_them(run: Path) -> None:
    before = contents(run)["config.yaml"]
    succeed(
        "distill",
        TINY | POSITIONS | {"teacher": "cartpole", "student.normalisation.source": "play", "out": run, "resume": True},
    )
    assert contents(run)["config.yaml"] == before


def test_they_are_of_one_game_that_shows_a_vector(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    asked = {"teacher": "pong", "student.normalisation.source": "play", "out": out}
    assert "'play' is for a student of one game that sees a vector" in refusal(capfd, "distill", *options(asked))
    asked = {"teacher": ["cartpole", "acrobot"], "student.network": "mlp", "student.normalisation.source": "play"}
    assert "'play' is for a student of one game" in refusal(capfd, "distill", *options(asked | {"out": out}))
    assert not out.exists()


def test_a_student_that_becomes_a_teacher_keeps_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("distill", TINY | {"teacher": "cartpole", "student.normalisation.source": "play", "out": out})
    teacher, student = load_teacher(str(out)), pd_jax.load_student(str(out))
    seen = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    outputs = np.asarray(teacher.network.apply(teacher.variables, seen))
    np.testing.assert_array_equal(outputs, student.outputs(seen))
    told = read_yaml(out / "config.yaml")["student"]["normalisation"]["mean"]
    assert list(teacher.metadata.normalisation["observation"]["mean"]) == told
