"""Runs' students with a state as teachers: they go along with the play, and what they label is what they would play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.policy import load_student
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.replay.recordings import Dataset
from pd_jax.runs.students import load_teacher
from support.commands import QUICK_EVALUATION, SHORT_OF_VECTORS, options, refusal, state_digests, succeed
from support.made_runs import write_student_run

RUN: dict[str, Any] = SHORT_OF_VECTORS | QUICK_EVALUATION


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a GRU that sees positions and its last two actions; it has learnt nothing."""
    observation = StudentObservationConfig(components=(0, 2), last_actions=2)
    student = StudentConfig(
        network="mlp", mlp_hidden=(8,), extra_hidden=(4,), joint_hidden=8, memory="gru", memory_size=8,
        observation=observation,
    )  # fmt: skip
    return write_student_run(tmp_path_factory.mktemp("teaches") / "run", ("cartpole",), student)


def test_what_it_labels_is_what_it_answers_step_by_step(tmp_path: Path, remembering: Path) -> None:
    out = tmp_path / "data"
    settings = {"teacher": remembering, "steps": 128, "rollout-length": 16, "env.num-lanes": 2, "epsilon": 0.3}
    succeed("collect", settings | {"out": out})
    dataset = Dataset.open(out)
    (play,) = dataset.trajectories(dataset.num_steps)
    student = load_student(remembering)
    state = student.initial_state(2)
    assert state is not None and np.asarray(play.is_first)[1:].any()
    for step in range(dataset.num_steps):
        state[np.asarray(play.is_first)[step]] = 0
        outputs, state = student.decide(np.asarray(play.observations)[step][:, [0, 2]], state)
        np.testing.assert_allclose(np.asarray(play.teacher_q)[step], outputs, rtol=1e-4, atol=1e-5)
        state = student.note(state, np.asarray(play.actions)[step])
        assert state is not None


def test_it_scores_what_its_own_run_scores(remembering: Path) -> None:
    teacher = load_teacher(remembering, in_play=True)
    own = [
        evaluate(policy, episodes=4, num_lanes=4, environment_options={"max_episode_steps": 40})
        for policy in (teacher, load_student(remembering))
    ]
    np.testing.assert_array_equal(own[0].returns, own[1].returns)


def test_what_asks_about_single_states_refuses_it(
    tmp_path: Path, remembering: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = refusal(
        capfd, "export", *options({"teacher": remembering, "evaluation.episodes": 0, "out": tmp_path / "out"})
    )
    assert "its student senses numbers 0, 2 of 4" in told
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is asked in play alone"):
        load_teacher(remembering, in_play=True).outputs(np.zeros((1, 4), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("acts", ["teacher", "student"])
def test_it_teaches_and_its_students_runs_go_on(tmp_path: Path, remembering: Path, acts: str) -> None:
    out = tmp_path / "run"
    senses = {"student.observation.window": 2} if acts == "student" else {}
    succeed("distill", RUN | senses | {"teacher": remembering, "behaviour.policy": acts, "out": out})
    summary = json.loads((out / "summary.json").read_text())
    assert summary["games"]["cartpole"]["teacher_score"] > 0
    succeed("distill", RUN | senses | {
        "teacher": remembering, "behaviour.policy": acts, "out": out, "resume": True, "schedule.rounds": 3
    })  # fmt: skip
    succeed("video", {"run": out, "out": tmp_path / "video.gif"})


@pytest.mark.slow
def test_a_run_from_its_recording_goes_on_to_the_same_bits(tmp_path: Path, remembering: Path) -> None:
    data = tmp_path / "data"
    succeed("collect", {"teacher": remembering, "steps": 512, "rollout-length": 32, "env.num-lanes": 4, "out": data})
    settings = {key: value for key, value in RUN.items() if key != "env.num-lanes"}
    settings |= {"teacher": remembering, "data": data, "student.memory": "gru", "learner.sequence-length": 8}
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"out": runs[0]})
    succeed("distill", settings | {"out": runs[1], "schedule.rounds": 1})
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])


@pytest.mark.slow
def test_a_student_of_two_kinds_of_games_teaches_each_of_them(tmp_path: Path) -> None:
    student = StudentConfig(network="net3", channels=(4, 4, 4), hidden=8, mlp_hidden=(8,))
    run = write_student_run(tmp_path / "run", ("pong", "cartpole"), student)
    teacher = load_teacher(run, "cartpole", in_play=True)
    seen = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    wanted = load_student(run).for_game("cartpole").outputs(seen)
    np.testing.assert_allclose(teacher.outputs(seen), wanted, rtol=1e-5)
    succeed("distill", RUN | {"teacher": run, "game": "cartpole", "out": tmp_path / "out"})
