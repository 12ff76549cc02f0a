"""Students with memory: distilled from recordings and while they play, resumed, evaluated, and what they cannot be."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.actors import rollout
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.deploy.policy import load_student
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.runs.directory import _ADDED
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    state_digests,
    stop_when,
    succeed,
    without_time,
)
from support.policies import random_student

MEMORY = {
    "student.memory": "gru",
    "student.memory-size": 8,
    "learner.batch-size": 32,
    "learner.sequence-length": 8,
    "learner.burn-in": 4,
    "schedule.rounds": 3,
    "schedule.updates-per-round": 60,
    "checkpoint.every-updates": 60,
}
SHUFFLED = {"data-order": "shuffled", "replay.capacity": 8 * 2 * (32 + 3 + 4)}
LIVE = {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 4,
    "learner.updates-per-call": 20,
    "replay.capacity": 1024,
    "schedule.steps-per-round": 256,
}


@pytest.fixture(scope="module")
def recorded(recorded_run_options: dict[str, Any]) -> dict[str, Any]:
    return recorded_run_options | MEMORY | QUICK_EVALUATION


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recorded: dict[str, Any]) -> Path:
    """A run from the recording, never interrupted."""
    out = tmp_path_factory.mktemp("memory") / "whole"
    succeed("distill", recorded | {"out": out})
    return out


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an LSTM that plays itself, two games of it in evaluations."""
    out = tmp_path_factory.mktemp("memory") / "acting"
    settings = LIVE | MEMORY | QUICK_EVALUATION | {"behaviour.policy": "student", "student.memory": "lstm"}
    succeed("distill", settings | {"schedule.rounds": 2, "evaluation.every-rounds": 1, "out": out})
    return out


def test_a_run_from_a_recording_goes_on_to_the_same_bits(tmp_path: Path, recorded: dict[str, Any], whole: Path) -> None:
    out = tmp_path / "run"
    succeed("distill", recorded | {"out": out, "schedule.rounds": 2})
    succeed("distill", recorded | {"out": out, "resume": True})
    assert state_digests(out) == state_digests(whole)
    assert without_time(read_lines(out)) == without_time(read_lines(whole))
    losses = [line["loss"] for line in read_lines(whole) if "loss" in line]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.slow
def test_a_shuffled_run_goes_on_to_the_same_bits(tmp_path: Path, recorded: dict[str, Any]) -> None:
    """The replay holds two of the four stretches, so those of before have been written over."""
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    settings = recorded | SHUFFLED
    succeed("distill", settings | {"out": runs[0]})
    succeed("distill", settings | {"out": runs[1], "schedule.rounds": 2})
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_round_ends_with_the_same_bits(tmp_path: Path, recorded: dict[str, Any]) -> None:
    settings = recorded | {"schedule.updates-per-round": 600, "checkpoint.every-updates": 100}
    runs = [tmp_path / "whole", tmp_path / "killed"]
    succeed("distill", settings | {"out": runs[0]})
    argv = ["distill", *options(settings | ENDLESS_EVALUATION | {"out": runs[1]})]

    def is_in_the_second_round() -> bool:
        steps, lines = checkpoint_steps(runs[1]), read_lines(runs[1])
        return bool(steps and lines) and steps[-1] >= 800 and lines[-1]["step"] > steps[-1]

    assert stop_when(is_in_the_second_round, signal.SIGKILL, *argv).code == -signal.SIGKILL
    assert checkpoint_steps(runs[1])[-1] % 600
    succeed("distill", settings | {"out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])


def test_another_window_is_another_run(
    tmp_path: Path, recorded: dict[str, Any], whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(whole)
    for key, value, there in (
        ("sequence-length", 16, 8), ("burn-in", 0, 4),
    ):  # fmt: skip
        changed = recorded | {"out": whole, "resume": True, f"learner.{key}": value}
        name = f"learner.{key.replace('-', '_')}"
        assert f"{name} is {there} there and {value} here" in refusal(capfd, "distill", *options(changed))
    changed = recorded | {"out": whole, "resume": True, "student.memory": "lstm"}
    assert "student.memory is 'gru' there and 'lstm' here" in refusal(capfd, "distill", *options(changed))
    assert contents(whole) == before


def test_a_student_that_plays_itself_is_scored_and_compared_with_its_teacher(acting: Path) -> None:
    lines = read_lines(acting)
    assert any("cartpole_score" in line or "score" in str(line) for line in lines)
    summary = json.loads((acting / "summary.json").read_text())
    assert summary["student_parameters"] == 4 * 8 + 8 + (8 + 8 + 1) * 4 * 8 + (8 + 1) * 2
    details = json.loads((acting / "details.json").read_text())
    assert "cartpole" in json.dumps(details)


def test_evaluations_carry_the_memory_as_a_loop_of_ones_own_does() -> None:
    """Greedy games of a student that has learnt nothing: act by act, with lanes set back where their game is over."""
    student = random_student(["cartpole"], network="mlp", mlp_hidden=(6,), memory="gru", memory_size=5)
    lanes, seed = 3, 11
    games = evaluate(student, episodes=2 * lanes, num_lanes=lanes, epsilon=0.0, seed=seed)
    environment = Environment(get_task("cartpole"), lanes, seed, stepping="host")
    _, timestep = environment.reset()
    state, was_last, returns = student.initial_state(lanes), np.zeros(lanes, bool), [[] for _ in range(lanes)]
    assert state is not None and not state.any()
    totals = np.zeros(lanes)
    while any(len(own) < 2 for own in returns):
        state[was_last] = 0.0
        actions, state = student.act(np.asarray(timestep.observations), state)
        timestep = environment.step_host(actions, was_last)
        totals += np.asarray(timestep.rewards)
        was_last = np.array(timestep.is_last)
        for lane in np.flatnonzero(was_last):
            returns[lane].append(totals[lane])
            totals[lane] = 0.0
    environment.close()
    assert games.returns.tolist() == [value for own in returns for value in own[:2]]
    # So that a memory that was lost would show.
    forgetful, _ = student.act(np.asarray(timestep.observations), None)
    assert forgetful.shape == actions.shape


def test_play_carries_the_memory_from_rollout_to_rollout() -> None:
    student = random_student(["cartpole"], network="mlp", mlp_hidden=(6,), memory="lstm", memory_size=5)
    task = get_task("cartpole")
    found = []
    for lengths in ([12], [4, 4, 4]):
        environment = Environment(task, 3, 5, stepping="host")
        state = rollout.start(environment, jax.random.key(0), student.apply)
        played = []
        for length in lengths:
            unroll = rollout.make_rollout(environment, student.apply, length)
            state, trajectory, _ = unroll(student.variables, state, 0.0)
            played.append(np.asarray(trajectory.teacher_q))
        environment.close()
        found.append((np.concatenate(played), np.asarray(state.policy_state)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert np.abs(found[0][1]).max() > 0


def test_a_state_is_one_of_as_many_lanes(acting: Path) -> None:
    student = load_student(acting)
    observations = np.zeros((2, 4), np.float32)
    actions, state = student.act(observations, student.initial_state(2))
    assert actions.shape == (2,) and state is not None and state.shape == (2, 16) and state.dtype == np.float32
    again, _ = student.act(observations, state)
    first, _ = student.decide(observations)
    second, _ = student.decide(observations, state)
    assert again.shape == (2,) and np.abs(np.asarray(first) - np.asarray(second)).max() > 1e-6
    with pytest.raises(Exception, match=r"state: float32 \[3, 16\], and .* has float32 \[2, 16\] for 2 observations"):
        student.act(observations, student.initial_state(3))
    with pytest.raises(Exception, match="has memory: what it gives depends on its state; take decide or act"):
        student.outputs(observations)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"learner.batch-size": 20},
            "learner.batch-size: 20 steps are no whole sequences of learner",
        ),
        ({"learner.accumulate": 8}, "learner.batch-size: 32 does not split into 8 parts of whole sequences"),
        ({"learner.sampling": "loss"}, "learner.sampling: 'loss' prefers single steps, and student.memory is 'gru'"),
        ({"student.quantisation": "int8", "init-from": "x"}, "student.quantisation: 'int8', and student.memory is"),
        ({"learner.burn-in": 300}, ": 8 steps with learner.burn_in 300 before them do not fit"),
        (
            {"learner.burn-in": 60},
            ": 8 steps with learner.burn_in 60 before them are more than a lane plays",
        ),
    ],
)
def test_what_cannot_learn_from_sequences_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "run"
    told = refusal(capfd, "distill", *options(LIVE | MEMORY | {"learner.num-devices": 1} | changes | {"out": out}))
    assert words in told
    assert not out.exists()


def test_frames_that_are_shifted_are_refused() -> None:
    config = DistillConfig(
        teacher="pong", out="-", student=StudentConfig(memory="gru"), learner=LearnerConfig(random_shift=2)
    )
    assert ("learner.random_shift", "2 moves single steps, and student.memory is 'gru'; leave it out") in list(
        config.conflicts()
    )


def test_games_by_turns_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = LIVE | MEMORY | {"teacher": ["cartpole", "acrobot"], "learner.games": "alternating"}
    told = refusal(capfd, "distill", *options(settings | {"out": tmp_path / "run"}))
    assert "learner.games: 'alternating', and student.memory is 'gru', whose updates see all games together" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner.sequence-length": 16, "learner.burn-in": 40}, "are more than a lane gives in a round"),
        (
            {"learner.burn-in": 150, "schedule.steps-per-round": 2048, "replay.capacity": 2048},
            "before them are more than the 128 of",
        ),
        ({**SHUFFLED, "learner.sequence-length": 64, "learner.batch-size": 64}, "no whole number of such sequences"),
    ],
)
def test_windows_that_are_longer_than_the_play_are_refused(
    tmp_path: Path, recorded: dict[str, Any], capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "run"
    assert words in refusal(capfd, "distill", *options(recorded | changes | {"out": out}))
    assert not out.exists()


def test_a_student_with_memory_is_no_teacher_file(
    tmp_path: Path, acting: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = refusal(capfd, "export", *options({"teacher": acting, "out": out}))
    assert "its student has memory (lstm), and teacher files have none" in told
    assert not out.exists()


def test_settings_of_sequences_idle_without_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = refusal(capfd, "distill", *options(LIVE | {"learner.burn-in": 2, "out": tmp_path / "run"}))
    assert "--learner.burn-in: is for a student with memory" in told and "student.memory is 'none'" in told


def test_dataclasses_of_settings_are_as_they_were_without_memory() -> None:
    """A run from before there was memory goes on: what it has no word of is what it did."""
    for section, config, names in (
        ("student", StudentConfig(), ("memory", "memory_size")),
        ("learner", LearnerConfig(), ("sequence_length", "burn_in")),
    ):
        values = dataclasses.asdict(config)  # type: ignore[call-overload]
        for name in names:
            assert _ADDED[f"{section}.{name}"] == values[name]


@pytest.mark.slow
def test_cells_of_a_sweep_that_train_together_are_students_with_memory(tmp_path: Path) -> None:
    settings = LIVE | MEMORY | QUICK_EVALUATION | {"record": 256, "grid.seeds": [0, 1], "schedule.rounds": 1}
    del settings["schedule.steps-per-round"], settings["checkpoint.every-updates"]
    succeed("sweep", settings | {"out": tmp_path / "sweep"})
    cells = json.loads((tmp_path / "sweep" / "table.json").read_text())["cells"]
    assert len(cells) == 2 and all(cell["updates"] == 60 for cell in cells)


@pytest.mark.slow
def test_a_student_with_memory_learns_from_a_teacher_that_learns(tmp_path: Path) -> None:
    out = tmp_path / "online"
    settings = {key: value for key, value in (LIVE | MEMORY | QUICK_EVALUATION).items() if key != "teacher"}
    teacher = {
        "game": "cartpole", "teacher-network": "mlp", "pqn.total-steps": 2048, "pqn.num-lanes": 8,
        "pqn.rollout-length": 32, "pqn.minibatches": 4, "evaluation.progress-episodes": 2,
    }  # fmt: skip
    succeed("online", settings | teacher | {"out": out})
    student = load_student(out)
    assert student.initial_state(1) is not None
    assert json.loads((out / "details.json").read_text())
