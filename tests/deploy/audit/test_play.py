"""Recorded play: the games of an evaluation, and what every policy says of what was seen in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pd_jax
from pd_jax.config.audit import AuditConfig, AuditEvaluationConfig
from pd_jax.deploy.audit.play import Decider, Frames, Play, features_of, play, recorded
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.evaluation.protocol import Protocol
from pd_jax.replay.recordings import Dataset
from support.cartpole_players import cartpole_params, write_cartpole_teacher
from support.commands import write_teacher

CONFIG = AuditConfig(policy="x", teacher="x", out="x", evaluation=AuditEvaluationConfig(episodes=10, num_lanes=4))


@pytest.fixture(scope="module")
def decider(tmp_path_factory: pytest.TempPathFactory) -> Decider:
    """A student that falls, and a teacher that does so elsewhere."""
    path = tmp_path_factory.mktemp("players")
    student = pd_jax.load_teacher(write_cartpole_teacher(path / "a.safetensors", is_wrong=True))
    teacher = pd_jax.load_teacher(write_cartpole_teacher(path / "b.safetensors", is_wrong=True, raised=0.05))
    return Decider({"student": student, "teacher": teacher})


@pytest.fixture(scope="module")
def played(decider: Decider) -> Play:
    task = get_task("cartpole")
    return play(task, decider, "student", Protocol.of(CONFIG, task), keeps_frames=True)


def test_the_games_are_those_that_an_evaluation_scores(decider: Decider, played: Play, tmp_path: Path) -> None:
    student = pd_jax.load_teacher(write_cartpole_teacher(tmp_path / "a.safetensors", is_wrong=True))
    protocol = Protocol.of(CONFIG, student.task)
    scored = evaluate(
        student,
        episodes=10,
        num_lanes=4,
        epsilon=protocol.epsilon,
        seed=protocol.seed,
        environment_options=protocol.environment_options,
    )
    assert len(scored.returns) == 12
    np.testing.assert_array_equal(played.returns, scored.returns)
    # Of CartPole a game's return is its length.
    np.testing.assert_array_equal(np.bincount(played.games), scored.returns)
    sparse = play(student.task, decider, "student", protocol, asks_every=3)
    np.testing.assert_array_equal(sparse.returns, scored.returns)
    assert 0 < len(sparse) < len(played) / 2
    seen = {row.tobytes() for row in played.vectors} if played.vectors is not None else set()
    assert sparse.vectors is not None and all(row.tobytes() in seen for row in sparse.vectors)


def test_every_policy_is_asked_about_what_was_seen(played: Play) -> None:
    assert played.vectors is not None
    for who, raised in (("student", 0.0), ("teacher", 0.05)):
        params = cartpole_params(is_wrong=True, raised=raised)
        hidden = np.maximum(played.vectors @ params["torso"]["fc1"]["kernel"] + params["torso"]["fc1"]["bias"], 0)
        outputs = hidden @ params["head"]["output"]["kernel"] + params["head"]["output"]["bias"]
        np.testing.assert_allclose(played.outputs[who], outputs, rtol=1e-5, atol=1e-4)
        if who == "student":
            np.testing.assert_allclose(played.features, hidden, rtol=1e-5, atol=1e-5)
    for index in (0, 7, len(played) - 1):
        np.testing.assert_array_equal(played.stack(index), played.vectors[index])
    # One action in twenty is drawn, half of those the one that was chosen.
    assert 0.005 < (played.actions != played.choices("student")).mean() < 0.05
    assert played.terminated.sum() == 12 and not played.truncated.any()


def test_play_that_is_cut_has_no_score(decider: Decider) -> None:
    task = get_task("cartpole")
    counted: list[tuple[int, int]] = []
    cut = play(
        task,
        decider,
        "teacher",
        Protocol.of(CONFIG, task),
        steps=50,
        on_progress=lambda done, wanted: counted.append((done, wanted)),
    )
    assert 50 <= len(cut) < 54 and len(cut.returns) == 0 and counted[-1] == (50, 50)


def test_stacks_of_frames_are_rebuilt_as_they_were_seen(tmp_path: Path) -> None:
    task = get_task("pong")
    seen: list[np.ndarray] = []
    frames = Frames(task)
    generator = np.random.default_rng(0)
    stacks, ages = np.zeros((2, 84, 84, 4), np.uint8), np.array([-1, -1])
    history = []
    for step in range(9):
        newest = generator.integers(0, 256, (2, 84, 84)).astype(np.uint8)
        is_first = np.array([step == 0, step in (0, 5)])
        filled = np.repeat(newest[..., None], 4, axis=-1)
        stacks = np.where(
            is_first[:, None, None, None], filled, np.concatenate([stacks[..., 1:], newest[..., None]], -1)
        )
        ages = np.where(is_first, 0, ages + 1)
        frames.append(stacks)
        seen.append(stacks)
        history.append(ages)
    for step in range(9):
        for lane in range(2):
            rebuilt = frames.stack(step, lane, int(history[step][lane]))
            np.testing.assert_array_equal(rebuilt, seen[step][lane])


def test_lives_that_are_lost_are_noted_where_a_game_has_some(tmp_path: Path) -> None:
    task = get_task("breakout")
    file = pd_jax.load_teacher(write_teacher(tmp_path / "breakout.safetensors", "breakout"))
    config = AuditConfig(
        policy="x",
        teacher="x",
        out="x",
        evaluation=AuditEvaluationConfig(episodes=2, num_lanes=2, epsilon=1.0, max_episode_steps=300),
    )
    played = play(task, Decider({"student": file, "teacher": file}), "student", Protocol.of(config, task))
    over = played.terminated
    # Random play mostly ends by itself within 300 steps, after five lives.
    assert over.any()
    for game in np.unique(played.games[over]):
        assert played.lives_lost[played.games == game].sum() == 5


def test_a_recording_is_asked_about_as_play_is(decider: Decider, recording: Path) -> None:
    task = get_task("cartpole")
    found = recorded(str(recording), task, decider)
    dataset = Dataset.open(recording)
    trajectory = dataset.read(0, dataset.num_steps)
    is_decision = np.asarray(trajectory.is_decision)
    assert len(found) == is_decision.sum() and found.vectors is not None
    expected = np.asarray(trajectory.observations).swapaxes(0, 1)[is_decision.T]
    np.testing.assert_array_equal(found.vectors, expected)
    # A game ends where nothing is decided, or with the recording; each lane has one more than ends.
    assert len(np.unique(found.games)) == 8 + np.asarray(trajectory.is_first)[1:].sum()
    assert 100 <= len(recorded(str(recording), task, decider, steps=100)) <= 108


def test_a_policy_without_a_torso_is_told_apart_by_its_outputs() -> None:
    from pd_jax.teachers.function import from_function

    teacher = from_function(lambda x: x[:, :2], kind="q", game="cartpole", fingerprint="a")
    assert features_of(teacher) is teacher.apply
