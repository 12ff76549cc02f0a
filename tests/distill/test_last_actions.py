"""Students that see their last actions: those that were played, in live play, from recordings, and at work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.actors import rollout
from pd_jax.config.export import ExportConfig
from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.export import _check_precision
from pd_jax.deploy.policy import load_student
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.lane_policy import as_lane_policy
from pd_jax.runs.directory import _ADDED
from support.commands import (
    QUICK_EVALUATION,
    SHORT_OF_VECTORS,
    options,
    read_lines,
    refusal,
    state_digests,
    succeed,
    without_time,
)
from support.made_runs import write_student_run
from support.policies import random_student

COUNT, LANES, STEPS = 3, 4, 30
SEES = {"student.observation.last-actions": COUNT, "student.joint-hidden": 8, "student.extra-hidden": 4}
LIVE: dict[str, Any] = {"teacher": "cartpole", **SHORT_OF_VECTORS}


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student has learnt nothing."""
    observation = StudentObservationConfig(last_actions=COUNT)
    student = StudentConfig(network="mlp", mlp_hidden=(8,), extra_hidden=(4,), joint_hidden=8, observation=observation)
    return write_student_run(tmp_path_factory.mktemp("actions") / "run", ("cartpole",), student)


@pytest.mark.parametrize("stepping", ["jit", pytest.param("host", marks=pytest.mark.slow)])
def test_the_state_holds_what_was_played_whoever_acted(stepping: Any) -> None:
    student = random_student(
        ["cartpole"], network="mlp", mlp_hidden=(4,), observation=StudentObservationConfig(last_actions=COUNT)
    )
    teacher = random_student(["cartpole"], network="mlp", mlp_hidden=(4,))
    environment = Environment(get_task("cartpole"), LANES, 0, stepping=stepping)
    policies = {"policy": teacher.player, "student": student.player}
    start = rollout.start(environment, jax.random.key(0), **policies)
    play = rollout.make_rollout(environment, teacher.player, STEPS, student=student.player)
    after, trajectory, _ = play(teacher.variables, start, 0.2, rollout.ActingStudent(student.variables, 0.5))
    actions, is_first = np.asarray(trajectory.actions), np.asarray(trajectory.is_first)
    assert is_first[1:].any()
    wanted = np.zeros((LANES, COUNT, 2), np.float32)
    for lane in range(LANES):
        begin = max(time for time in range(STEPS) if is_first[time, lane])
        for back, time in enumerate(range(STEPS - 1, max(begin, STEPS - COUNT) - 1, -1)):
            wanted[lane, back, actions[time, lane]] = 1
    np.testing.assert_array_equal(after.student_state, wanted.reshape(LANES, -1))
    environment.close()


@pytest.mark.slow
def test_a_run_from_a_recording_goes_on_to_the_same_bits(tmp_path: Path, recorded_run_options: dict[str, Any]) -> None:
    settings = recorded_run_options | SEES | QUICK_EVALUATION | {"schedule.rounds": 2}
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"out": runs[0]})
    succeed("distill", settings | {"out": runs[1], "schedule.rounds": 1})
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])
    assert without_time(read_lines(runs[0])) == without_time(read_lines(runs[1]))


def test_a_student_at_work_keeps_its_actions_itself(acting: Path) -> None:
    student = load_student(acting)
    state = student.initial_state(2)
    assert state is not None and state.shape == (2, 2 * COUNT)
    shown = np.zeros((2, 4), np.float32)
    for _ in range(COUNT):
        actions, state = student.act(shown, state)
    assert state is not None and (state.sum(axis=1) == COUNT).all()
    np.testing.assert_array_equal(state[:, :2], np.eye(2)[actions])
    assert as_lane_policy(student.player).start(2).shape == state.shape


def test_its_file_takes_the_observation_and_the_state(tmp_path: Path, acting: Path) -> None:
    out = tmp_path / "export"
    proof = {"proof.frames": 100, "evaluation.episodes": 0}
    succeed("export", {"run": acting, "out": out, **proof})
    game = json.loads((out / "export.json").read_text())["games"]["cartpole"]
    (entry,) = game["files"].values()
    assert entry["frames"]["largest_relative_difference"] < 1e-4 and entry["frames"]["share_of_equal_actions"] == 1
    assert game["policy"]["observation"]["shape"] == [4]
    assert game["policy"]["memory"] == {"kind": "none", "state_size": 2 * COUNT, "last_actions": COUNT}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"_": "export", "format": "c", "evaluation.episodes": "0"}, "format: c: the student of"),
        ({"_": "audit"}, "audit: the student of"),
    ],
)
def test_what_is_for_policies_without_a_state_refuses_it(
    tmp_path: Path, acting: Path, capfd: pytest.CaptureFixture[str], command: dict[str, str], words: str
) -> None:
    name, out = command["_"], tmp_path / "out"
    settings = {key: value for key, value in command.items() if key != "_"} | {"run": acting, "out": out}
    told = refusal(capfd, name, *options(settings))
    assert words in told and "sees its last actions, and this is for policies without" in told
    assert not out.exists()


def test_integers_are_refused(acting: Path) -> None:
    config = ExportConfig(run=str(acting), out="-", precision=("int8",))
    with pytest.raises(UserError, match=r"precision: int8: the student of .* sees its last actions, and this is for"):
        _check_precision(load_student(acting), config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student.quantisation": "int8", "init-from": "x"}, "student.quantisation: 'int8' is for students with one"),
        ({"teacher": ["cartpole", "acrobot"], "learner.games": "alternating"}, "learner.games: 'alternating', and"),
        ({"teacher": ["cartpole", "acrobot"], "learner.balance": "pcgrad"}, "learner.balance: 'pcgrad' is about"),
        ({"replay.capacity": 128, "student.observation.last-actions": 40}, "40 last actions before a step needs 41"),
        ({"student.observation.last-actions": 65}, "student.observation.last-actions: 65 is out of range"),
    ],
)
def test_what_cannot_see_last_actions_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "run"
    assert words in refusal(capfd, "distill", *options(LIVE | SEES | changes | {"out": out}))
    assert not out.exists()


def test_frames_that_are_shifted_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"teacher": "pong", "student.observation.last-actions": 1, "learner.random-shift": 2}
    told = refusal(capfd, "distill", *options(settings | {"out": tmp_path / "run"}))
    assert "learner.random-shift: 2 moves frames that stand alone" in told


def test_a_recording_needs_no_such_setting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"teacher": "cartpole", "observation.last-actions": 1, "out": tmp_path / "data"}
    assert "observation.last-actions" in refusal(capfd, "collect", *options(settings))


def test_widths_idle_where_nothing_is_seen_beside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = refusal(capfd, "distill", *options(LIVE | {"student.extra-hidden": 4, "out": tmp_path / "run"}))
    assert "--student.extra-hidden: is for what is seen beside" in told


def test_a_run_from_before_goes_on() -> None:
    """What it has no word of is what it did."""
    assert _ADDED["student.observation.last_actions"] == StudentObservationConfig().last_actions == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"student.memory": "gru", "student.memory-size": 8, "learner.sequence-length": 8, "learner.burn-in": 4},
        {"data-order": "shuffled", "replay.capacity": 8 * 2 * (32 + 3)},
        {
            "student.memory": "gru", "student.memory-size": 8, "learner.sequence-length": 8, "learner.burn-in": 4,
            "data-order": "shuffled", "replay.capacity": 8 * 2 * (32 + 3 + 4),
        },
        {"student.observation.components": [0, 2], "student.observation.window": 2},
    ],
    ids=["memory", "shuffled", "shuffled memory", "senses"],
)  # fmt: skip
def test_other_runs_from_a_recording_go_on_to_the_same_bits(
    tmp_path: Path, recorded_run_options: dict[str, Any], changes: dict[str, Any]
) -> None:
    settings = recorded_run_options | SEES | QUICK_EVALUATION | {"schedule.rounds": 3} | changes
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"out": runs[0]})
    succeed("distill", settings | {"out": runs[1], "schedule.rounds": 2})
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("frames", {"teacher": "pong", "student.network": "net3", "student.observation.frames": 1}),
        ("continuous", {"teacher": "cartpole_swingup_v1", "behaviour.policy": "student"}),
        ("lstm", {"student.memory": "lstm", "student.memory-size": 8, "learner.sequence-length": 8}),
        ("several games", {
            "teacher": ["cartpole", "acrobot"], "student.head-hidden": 8, "behaviour.policy": "mixture",
        }),
        ("several games with memory", {
            "teacher": ["cartpole", "acrobot"], "student.head-hidden": 8, "student.memory": "gru",
            "student.memory-size": 8, "learner.sequence-length": 8, "behaviour.policy": "student",
        }),
    ],
)  # fmt: skip
def test_students_of_all_kinds_learn_play_and_are_exported(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    run, out = tmp_path / "run", tmp_path / "export"
    settings = LIVE | SEES | QUICK_EVALUATION | changes
    if name == "frames":
        del settings["student.mlp-hidden"]
    succeed("distill", settings | {"out": run})
    losses = [line["loss"] for line in read_lines(run) if "loss" in line]
    assert np.isfinite(losses).all()
    succeed("export", {"run": run, "out": out, "proof.frames": 100, "evaluation.episodes": 2})
    for game in json.loads((out / "export.json").read_text())["games"].values():
        assert game["files"]["onnx"]["frames"]["largest_relative_difference"] < 1e-4


@pytest.mark.slow
def test_a_student_is_shown_beside_its_teacher(tmp_path: Path, acting: Path) -> None:
    succeed("video", {"run": acting, "out": tmp_path / "video.gif"})
    assert (tmp_path / "video.gif").stat().st_size > 0


@pytest.mark.slow
def test_cells_of_a_sweep_that_train_together_see_their_actions(tmp_path: Path) -> None:
    settings = LIVE | SEES | QUICK_EVALUATION | {"record": 256, "grid.seeds": [0, 1], "schedule.rounds": 1}
    del settings["schedule.steps-per-round"]
    succeed("sweep", settings | {"out": tmp_path / "sweep"})
    cells = json.loads((tmp_path / "sweep" / "table.json").read_text())["cells"]
    assert len(cells) == 2 and all(cell["updates"] == 20 for cell in cells)


@pytest.mark.slow
def test_last_actions_stand_in_for_what_is_late(tmp_path: Path) -> None:
    """As `configs/quick/last_actions_cartpole.yaml`."""
    scores = {}
    for count in (4, 0):
        out = tmp_path / str(count)
        settings = {"config": "configs/quick/last_actions_cartpole.yaml", "student.observation.last-actions": count}
        succeed("distill", settings | {"out": out})
        scores[count] = json.loads((out / "summary.json").read_text())["games"]["cartpole"]["student_score"]
    assert scores[4] > 350 > scores[0], scores
