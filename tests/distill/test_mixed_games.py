"""Students of games that show frames and of games that show vectors: a torso for each, which live play fills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.deploy.policy import load_student
from pd_jax.environments.tasks import get_task
from support.commands import (
    QUICK_EVALUATION,
    SHORT_OF_FRAMES,
    options,
    read_lines,
    refusal,
    state_digests,
    succeed,
    without_time,
)
from support.policies import random_observations, random_student

GAMES = ["pong", "cartpole"]
SMALL: dict[str, Any] = {"network": "net3", "channels": (2, 3, 4), "hidden": 6, "mlp_hidden": (5,), "joint_hidden": 7}
RUN: dict[str, Any] = SHORT_OF_FRAMES | {"teacher": GAMES, "student.mlp-hidden": 8, "student.head-hidden": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pong by frames and CartPole by its vector, with the last actions of each; who acts is drawn."""
    out = tmp_path_factory.mktemp("mixed") / "run"
    acts = {"behaviour.policy": "mixture", "student.observation.last-actions": 2}
    succeed("distill", RUN | acts | {"out": out})
    return out


def test_each_game_goes_through_its_own_torso_and_the_layer_that_all_share() -> None:
    policy = random_student(GAMES, **SMALL, head_hidden=4)
    student = policy.trained.student
    variables = jax.tree.map(jnp.asarray, policy.variables)
    frames, vectors = (random_observations(get_task(game), 3) for game in GAMES)
    lines = jnp.stack([student.pad(jnp.asarray(frames), 0), student.pad(jnp.asarray(vectors), 1)])
    outputs = np.asarray(jax.jit(student.apply)(variables, lines))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    torso, head = params["torso"], params["head"]
    x = np.maximum(vectors @ torso["vector"]["fc1"]["kernel"] + torso["vector"]["fc1"]["bias"], 0)
    x = np.maximum(x @ torso["joint_vector"]["kernel"] + torso["bias"], 0)
    x = np.maximum(x @ head["fc2"]["kernel"][1] + head["fc2"]["bias"][1], 0)
    wanted = x @ head["output1"]["kernel"] + head["output1"]["bias"]
    np.testing.assert_allclose(outputs[1, :, :2], wanted, rtol=1e-4, atol=1e-4)
    assert np.isneginf(outputs[1, :, 2:]).all()
    # The convolutions are those of a student of frames alone.
    alone = jax.jit(student.network.torso.frames.apply)
    seen = alone({"params": variables["params"]["torso"]["frames"]}, frames)
    x = np.maximum(np.asarray(seen) @ torso["joint_frames"]["kernel"] + torso["bias"], 0)
    x = np.maximum(x @ head["fc2"]["kernel"][0] + head["fc2"]["bias"][0], 0)
    np.testing.assert_allclose(
        outputs[0], x @ head["output0"]["kernel"] + head["output0"]["bias"], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(jax.jit(student.policy(0))(variables, frames), outputs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_of_both_kinds_learns_and_plays(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["games"]) == set(GAMES)
    for line in read_lines(run):
        assert all(np.isfinite(value) for key, value in line.items() if key.endswith("loss"))
    student = load_student(run)
    for game in GAMES:
        own = student.for_game(game)
        actions, state = own.act(random_observations(own.task, 2), own.initial_state(2))
        assert actions.shape == (2,) and state is not None and state.shape == (2, 2 * own.task.num_actions)


@pytest.mark.slow
def test_its_files_take_what_each_game_shows(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "export"
    succeed("export", {"run": run, "out": out, "proof.frames": 20, "evaluation.episodes": 0})
    games = json.loads((out / "export.json").read_text())["games"]
    assert [games[name]["policy"]["observation"]["shape"] for name in GAMES] == [[84, 84, 4], [4]]
    for game in games.values():
        assert game["files"]["onnx"]["frames"]["largest_relative_difference"] < 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner.games": "alternating"}, "learner.games: 'alternating', and pong shows frames and cartpole a vector"),
        ({"learner.random-shift": 2}, "learner.random_shift: 2 moves frames that stand alone, and pong shows frames"),
        ({"learner.balance": "gradnorm"}, "learner.balance: 'gradnorm' is about layers that all games share"),
        (
            {"teacher": ["pong", "cartpole_swingup_v1"]},
            "cartpole_swingup_v1 is continuous; a student of such a task plays no other",
        ),
        ({"student.observation.frames": 2}, "student.observation.frames: is of frames, and what is seen of cartpole"),
    ],
)
def test_what_cannot_be_of_both_kinds_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "run"
    assert main(["distill", *options(RUN | changes | {"out": out})]) == 2
    # A teacher of another version of MuJoCo than EnvPool's is warned of first.
    *warnings, message = capfd.readouterr().err.splitlines()
    assert words in message and all(line.startswith("warning: ") and "mujoco" in line for line in warnings)
    assert not out.exists()


@pytest.mark.slow
def test_a_student_of_both_kinds_is_no_teacher_file(
    tmp_path: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = refusal(capfd, "export", *options({"teacher": run, "game": "pong", "out": out}))
    assert "its student sees its last actions, and teacher files have none of that" in told and not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_run_from_recordings_goes_on_to_the_same_bits(tmp_path: Path, memory: str) -> None:
    data = []
    for game in GAMES:
        data.append(tmp_path / game)
        settings = {"teacher": game, "steps": 128, "env.num-lanes": 2, "rollout-length": 16, "out": data[-1]}
        succeed("collect", settings)
    settings = {key: value for key, value in RUN.items() if key != "env.num-lanes"} | {"data": data}
    if memory != "none":
        settings |= {
            "student.memory": memory, "student.memory-size": 4, "learner.sequence-length": 4, "learner.burn-in": 2
        }  # fmt: skip
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"out": runs[0]})
    succeed("distill", settings | {"out": runs[1], "schedule.rounds": 1})
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])
    assert without_time(read_lines(runs[0])) == without_time(read_lines(runs[1]))


@pytest.mark.slow
def test_each_game_is_exported_in_all_formats(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "export"
    succeed("distill", RUN | {"out": run})
    succeed("export", {
        "run": run, "out": out, "format": ["onnx", "c"], "precision": ["float32", "int8"],
        "proof.frames": 20, "calibration.frames": 64, "proof.max-loss": 1, **QUICK_EVALUATION,
    })  # fmt: skip
    games = json.loads((out / "export.json").read_text())["games"]
    for game in games.values():
        assert len(game["files"]) == 4
    told = refusal(capfd, "export", *options({"run": run, "out": tmp_path / "none", "format": "stablehlo"}))
    assert "format: stablehlo: the student of" in told and "plays games of frames beside cartpole" in told
    succeed("audit", {"run": run, "game": "cartpole", "out": tmp_path / "audit", "steps": 256})
