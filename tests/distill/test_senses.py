"""Students with senses of their own: recordings for them, runs that go on, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.environments.senses import make_senses
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.replay.header import parse_header
from pd_jax.replay.recordings import Dataset
from pd_jax.runs.students import load_teacher
from support.commands import QUICK_EVALUATION, contents, options, refusal, state_digests, succeed

CARTPOLE = get_task("cartpole")
NOISE = {"components": [2, 3, 0], "noise": [0.1, 0.2, 0.0], "missing": 0.1, "delay": 1}
STUDENT = {f"student.observation.{name}": value for name, value in NOISE.items()}
RUN = {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "replay.capacity": 400,
    "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 20,
    "schedule.rollout-length": 20,
    "checkpoint.every-updates": 20,
} | QUICK_EVALUATION


@pytest.fixture(scope="module")
def sensed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play of CartPole's teacher with what a student senses of it: 4 lanes x 96 steps."""
    path = tmp_path_factory.mktemp("sensed") / "data"
    observation = {f"observation.{name}": value for name, value in NOISE.items()}
    play = {"teacher": "cartpole", "out": path, "steps": 384, "rollout-length": 16, "env.num-lanes": 4}
    succeed("collect", play | observation)
    return path


def test_a_recording_holds_both_and_its_header_says_which(sensed: Path) -> None:
    dataset = Dataset.open(sensed)
    senses = make_senses(CARTPOLE, components=(2, 3, 0), noise=(0.1, 0.2, 0.0), missing=0.1, delay=1)
    assert dataset.header.observations == {"sensed": {"shape": [3], "dtype": "float32", "senses": senses.told}}
    assert parse_header((sensed / "dataset.json").read_bytes(), "").format_version == 2
    both = dataset.read(0, 96)
    assert both.sensed is None and both.observations.shape == (96, 4, 4), "who sees all reads no more than that"
    own = dataset.sensed_by(senses).read(0, 96)
    assert own.observations.shape == (96, 4, 3)
    np.testing.assert_array_equal(own.teacher_q, both.teacher_q)
    # The position is without noise: lost now and then, and a step late.
    late = np.concatenate([both.observations[:1], both.observations[:-1]])[..., 0]
    at = ~both.is_first
    same = (own.observations[..., 2] == late)[at].mean()
    assert 0.8 < same < 0.97
    assert Dataset.open(sensed).sensed_by(make_senses(CARTPOLE, window=2)).read(0, 96).observations.shape == (96, 4, 4)


def test_what_needs_no_recording_of_its_own_is_made_from_what_the_task_showed(recording: Path) -> None:
    senses = make_senses(CARTPOLE, components=(3, 1), window=5)
    dataset = Dataset.open(recording)
    found = dataset.sensed_by(senses)
    assert found.stack == 5
    np.testing.assert_array_equal(found.read(3, 9).observations, dataset.read(3, 9).observations[..., [3, 1]])


@pytest.mark.parametrize("order", ["recorded", pytest.param("shuffled", marks=pytest.mark.slow)])
def test_a_run_that_goes_on_is_bit_for_bit_the_one_that_was_not_stopped(
    tmp_path: Path, sensed: Path, order: str
) -> None:
    settings = RUN | STUDENT | {"data": sensed, "data-order": order, "student.observation.window": 5}
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"schedule.rounds": 3, "out": runs[0]})
    succeed("distill", settings | {"schedule.rounds": 2, "out": runs[1]})
    succeed("distill", settings | {"schedule.rounds": 3, "out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])
    policy: Any = pd_jax.load_student(runs[1])
    assert policy.task.observation_shape == (15,)
    actions, _ = policy.act(np.zeros((2, 15), np.float32))
    assert actions.shape == (2,)
    assert pd_jax.evaluate(policy, episodes=2, num_lanes=2).returns.shape == (2,)
    with pytest.raises(UserError, match=r"takes float32 \[N, 15\]"):
        policy.act(np.zeros((2, 4), np.float32))


@pytest.fixture(scope="module")
def live_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A student that acts and does not see the angle: its settings and its run, of one round."""
    out = tmp_path_factory.mktemp("live") / "run"
    settings = RUN | {"env.num-lanes": 4, "schedule.rounds": 1, "out": out, "behaviour.policy": "student"}
    settings |= {"student.observation.components": [0, 1], "student.observation.window": 2}
    succeed("distill", settings)
    return settings, out


def test_a_student_that_acts_live_is_taught_and_scored_and_told_what_it_cannot_learn(
    live_run: tuple[dict[str, Any], Path],
) -> None:
    _, out = live_run
    succeed("evaluate", {"run": out, "evaluation.episodes": 2, "evaluation.num-lanes": 2})
    assert "window: 2" in (out / "config.yaml").read_text()
    unseen = unseen_of(out)
    assert (unseen["unit"], unseen["states"] > 3000) == ("nats", True)
    # Without the angle it is left to chance.
    assert unseen["estimate"] > 0.2


def unseen_of(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    found: dict[str, Any] = summary["games"]["cartpole"]["unseen"] if "games" in summary else summary["unseen"]
    return found


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"student.observation.frames": 1}, "student.observation.frames: is of frames, and what is seen of cartpole"),
    ({"student.observation.source": "ram"}, "student.observation.source: 'ram' is of games of Atari"),
    ({"student.observation.components": [4]}, "student.observation.components: 4 is none of cartpole's 4 numbers"),
    ({"student.observation.noise": [1, 2]}, "student.observation.noise: has 2 numbers; it is one number, or one"),
    ({"student.observation.noise": "nan"}, "--student.observation.noise: "),
    ({"student.observation.missing": 1.0}, "--student.observation.missing: "),
    ({"student.observation.window": 0}, "--student.observation.window: "),
    ({"student.observation.source": "eyes"}, "--student.observation.source: "),
    ({"student.observation.window": 60, "replay.capacity": 200}, "replay.capacity: 200 leaves 50 steps to each of"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_senses_that_cannot_be_are_refused_and_nothing_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], given: dict[str, Any], message: str
) -> None:
    settings = RUN | {"out": tmp_path / "run", "env.num-lanes": 4} | given
    assert message in refusal(capfd, "distill", *options(settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (STUDENT, "holds what the task shows alone, and not what the student senses"),
        ({"student.observation.window": 200}, "holds 128 steps a lane, and the student sees 200 at once"),
    ],
)
def test_a_recording_without_what_is_sensed_is_refused(
    tmp_path: Path, recording: Path, capfd: pytest.CaptureFixture[str], given: dict[str, Any], message: str
) -> None:
    before = contents(recording)
    settings = RUN | {"out": tmp_path / "run", "data": recording, "replay.capacity": 4000} | given
    told = refusal(capfd, "distill", *options(settings))
    assert told.startswith(f"pd-jax distill: {recording}: {message}")
    assert not (tmp_path / "run").exists()
    assert contents(recording) == before


def test_what_another_student_senses_is_refused(
    tmp_path: Path, sensed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = RUN | STUDENT | {"out": tmp_path / "run", "data": sensed, "student.observation.delay": 2}
    assert "holds what another student senses" in refusal(capfd, "distill", *options(settings))


def test_other_senses_are_another_run_and_another_recording(
    live_run: tuple[dict[str, Any], Path], sensed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, _ = live_run
    told = refusal(capfd, "distill", *options(settings | {"resume": True, "student.observation.window": 3}))
    assert "holds a different run: student.observation.window is 2 there and 3 here" in told
    play = {"teacher": "cartpole", "out": sensed, "steps": 384, "rollout-length": 16, "env.num-lanes": 4}
    assert main(["collect", *options(play | {"resume": True})]) == 2


@pytest.mark.parametrize("name", ["observations", "sensed", "teacher_q"])
def test_a_recording_of_a_broken_sensor_is_refused_before_anything_is_written(
    tmp_path: Path, sensed: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sensed, copy)
    array = Dataset.open(copy).arrays[name]
    array[40, 2, 1].write(np.float32(np.nan)).result()
    told = refusal(capfd, "distill", *options(RUN | STUDENT | {"out": tmp_path / "run", "data": copy}))
    where = f"{copy}: {name} holds NaN or infinite values, the first at step 40 of a lane"
    assert told == f"pd-jax distill: {where}"
    assert not (tmp_path / "run").exists()


def test_online_asks_no_target_about_what_a_student_senses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = options(
        {"game": "cartpole", "out": tmp_path / "run", "student.network": "mlp", "student.observation.window": 2}
    )
    assert "stale: 'relabel' asks the target about what is stored" in refusal(capfd, "online", *argv)


@pytest.mark.slow
def test_the_same_numbers_in_another_order_leave_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = RUN | {"env.num-lanes": 4, "schedule.rounds": 1, "out": tmp_path / "run"}
    succeed("distill", settings | {"student.observation.components": [3, 1, 2, 0]})
    assert unseen_of(tmp_path / "run")["estimate"] < 0.02
    told = capfd.readouterr()
    assert "of the loss cannot be learnt" in told.out + told.err


@pytest.mark.slow
def test_a_student_of_the_memory_is_a_teacher_of_the_game_of_memory(tmp_path: Path) -> None:
    network = {"student.network": "mlp", "student.mlp-hidden": 8}
    small = RUN | {"env.num-lanes": 2, "schedule.rounds": 1, "schedule.steps-per-round": 40}
    small |= {"schedule.updates-per-round": 2, "evaluation.max-episode-steps": 8, "teacher": "pong"} | network
    succeed("distill", small | {"out": tmp_path / "memory", "student.observation.source": "ram"})
    teacher = load_teacher(tmp_path / "memory")
    assert (teacher.task.name, teacher.task.observation_shape) == ("pong_ram", (128,))
    pixels = {"teacher": tmp_path / "memory", "student.observation.source": "frames", "student.network": "net3"}
    small.pop("student.mlp-hidden")
    succeed("distill", small | pixels | {"out": tmp_path / "pixels", "student.observation.size": 42})
    with pytest.raises(UserError, match="its student senses 4 frames of 42x42, and a teacher sees what its game shows"):
        load_teacher(tmp_path / "pixels")


@pytest.mark.slow
def test_online_too_a_student_sees_less_than_the_teacher_that_learns(tmp_path: Path) -> None:
    learning = {"pqn.total-steps": 1024, "pqn.num-lanes": 8, "pqn.rollout-length": 8, "env.num-lanes": 4}
    own = {name: value for name, value in RUN.items() if name not in ("teacher", "checkpoint.every-updates")}
    own |= {"game": "cartpole", "schedule.rounds": 2, "stale": "keep", "evaluation.progress-episodes": 2}
    succeed("online", own | learning | STUDENT | {"out": tmp_path / "run"})
    student: Any = pd_jax.load_student(tmp_path / "run")
    assert (student.task.observation_shape, student.shown.observation_shape) == ((3,), (4,))
