"""Students that see a console's memory beside its frames: one line for both, in play, recordings and at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.policy import load_student
from pd_jax.environments import sensors
from pd_jax.environments.senses import make_senses
from pd_jax.environments.tasks import get_task
from pd_jax.errors import ObservationsError
from support.commands import (
    SHORT_OF_FRAMES,
    options,
    read_lines,
    refusal,
    state_digests,
    succeed,
    without_time,
)
from support.made_runs import write_student_run

PLACES = (3, 60)
RUN: dict[str, Any] = SHORT_OF_FRAMES | {
    "teacher": "pong",
    "student.observation.also": "ram",
    "student.observation.also-components": list(PLACES),
    "student.observation.frames": 2,
    "replay.capacity": 128,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt nothing."""
    seen = StudentObservationConfig(frames=2, size=42, also="ram", also_components=PLACES)
    student = StudentConfig(network="net3", channels=(2, 2, 2), hidden=4, joint_hidden=5, observation=seen)
    return write_student_run(tmp_path_factory.mktemp("also") / "run", ("pong",), student)


def test_a_sample_is_a_frame_and_the_bytes_that_are_chosen() -> None:
    senses = make_senses(get_task("pong"), frames=2, also="ram", also_components=PLACES)
    assert senses.beside == "ram" and senses.sample_shape == (84 * 84 + 2,)
    assert not senses.is_plain and not senses.is_of_shown_steps
    generator = np.random.default_rng(0)
    stacks = generator.integers(0, 256, (2, 3, 84, 84, 4)).astype(np.uint8)
    memory = generator.integers(0, 256, (2, 3, 128)).astype(np.uint8)
    state = sensors.start(senses, 3)
    for step in range(2):
        shown = memory[step].astype(np.float32) * np.float32(1 / 255)
        is_first = jnp.array([step == 0, step == 0, True])
        state = sensors.sense(senses, state, jnp.asarray(stacks[step]), is_first, jax.random.key(0), None, shown)
    line = np.asarray(sensors.observation(senses, state))
    samples = np.concatenate([stacks[..., -1].reshape(2, 3, -1), memory[..., PLACES]], axis=-1)
    np.testing.assert_array_equal(line[:2], samples[:, :2].transpose(1, 0, 2).reshape(2, -1))
    # Where an episode opens, its first step stands for those before it.
    np.testing.assert_array_equal(line[2], np.tile(samples[1, 2], 2))


def test_at_work_it_takes_frames_and_bytes(run: Path) -> None:
    student = load_student(run)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (3, 42, 42, 2)).astype(np.uint8)
    memory = generator.integers(0, 256, (3, 2)).astype(np.uint8)
    outputs = np.asarray(student.outputs((frames, memory)))
    assert outputs.shape == (3, 6)
    others = np.asarray(student.outputs((frames, 255 - memory)))
    assert np.abs(others - outputs).max() > 1e-4
    actions, _ = student.act((frames, memory))
    np.testing.assert_array_equal(actions, outputs.argmax(axis=1))
    with pytest.raises(ObservationsError, match=r"takes \[N, 42, 42, 2\] and \[N, 2\]"):
        student.act((frames, memory[:, :1]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": "cartpole", "student.network": "mlp"}, "student.observation.also: 'ram' is beside frames, and"),
        ({"student.observation.source": "ram", "student.network": "mlp"}, "also: 'ram' is beside frames, and what is"),
        ({"student.observation.also-components": [128]}, "128 is none of the 128 bytes of the memory, 0 to 127"),
        ({"env.backend": "ale"}, "'ram' is read by EnvPool, and env.backend is 'ale'"),
    ],
)
def test_what_has_no_memory_beside_frames_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "run"
    own = {key: value for key, value in (RUN | changes).items() if key not in ("student.channels", "student.hidden")}
    if "source" in "".join(changes) or changes.get("teacher") == "cartpole":
        del own["student.observation.frames"]
    assert words in refusal(capfd, "distill", *options(own | {"out": out}))
    assert not out.exists()


def test_its_file_is_refused(tmp_path: Path, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = refusal(capfd, "export", *options({"run": run, "evaluation.episodes": 0, "out": tmp_path / "out"}))
    assert "sees a console's memory beside frames, and files take one observation" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_from_a_recording_of_both_goes_on_to_the_same_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, data = tmp_path / "plain", tmp_path / "data"
    settings = {"teacher": "pong", "steps": 128, "env.num-lanes": 2, "rollout-length": 16}
    succeed("collect", settings | {"out": plain})
    also = {"observation.also": "ram", "observation.also-components": list(PLACES)}
    succeed("collect", settings | also | {"out": data})
    own = {key: value for key, value in RUN.items() if key != "env.num-lanes"}
    own["student.observation.last-actions"] = 2
    told = refusal(capfd, "distill", *options(own | {"data": plain, "out": tmp_path / "none"}))
    assert "record it with the same settings" in told
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", own | {"data": data, "out": runs[0]})
    succeed("distill", own | {"data": data, "out": runs[1], "schedule.rounds": 1})
    succeed("distill", own | {"data": data, "out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])
    assert without_time(read_lines(runs[0])) == without_time(read_lines(runs[1]))


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["pong", "memory"])
def test_it_plays_beside_its_teacher(tmp_path: Path, teacher: str) -> None:
    """Of a teacher of the memory, frames are beside, and the memory is what the game shows."""
    settings = RUN | {"behaviour.policy": "mixture", "out": tmp_path / "run"}
    if teacher == "memory":
        source = tmp_path / "teacher"
        student = StudentConfig(network="mlp", mlp_hidden=(4,))
        settings["teacher"] = write_student_run(source, ("pong_ram",), student)
        settings["student.observation.source"] = "frames"
    succeed("distill", settings)
    assert all(np.isfinite(line["loss"]) for line in read_lines(tmp_path / "run") if "loss" in line)
