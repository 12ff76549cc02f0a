"""Made-up recordings, every step of which has its own values."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pd_jax.errors import UserError
from pd_jax.replay.header import DatasetHeader
from pd_jax.replay.recordings import DatasetWriter
from pd_jax.types import Trajectory

NAMES = ("observations", "is_first", "is_decision", "actions", "rewards", "teacher_q")
# 20 lanes of 16 frames are a chunk of 18 lanes and one of 2.
ATARI = DatasetHeader(
    task="pong", env_id="Pong-v5", num_actions=6, observation_shape=(84, 84), observation_dtype="uint8", num_lanes=20,
    teacher="pong-dqn", teacher_fingerprint="ab" * 32, teacher_output="q", epsilon=0.05, seed=7, chunk_length=16,
    environment={"max_noops": 30}, recording_id="cd" * 16, planned_steps=64, teacher_score={"mean": 20.5},
)  # fmt: skip
VECTOR = dataclasses.replace(
    ATARI, task="cartpole", env_id="CartPole-v1", num_actions=2, observation_shape=(4,), observation_dtype="float32",
    num_lanes=3, teacher_output="logits", chunk_length=8, planned_steps=40, teacher_score=None,
)  # fmt: skip


def play(header: DatasetHeader, start: int, stop: int) -> Trajectory:
    """Made-up play in which every step has its own values, whatever range it is asked for in."""
    steps = []
    for t in range(start, stop):
        rng = np.random.default_rng([header.seed, t])
        shape = (header.num_lanes, *header.observation_shape)
        frames = rng.integers(0, 255, (header.num_lanes, 1, 1)) + np.arange(84)  # as compressible as a game
        steps.append(
            (
                np.broadcast_to(frames, shape).astype(np.uint8)
                if header.observation_dtype == "uint8"
                else rng.normal(size=shape).astype(np.float32),
                rng.random(header.num_lanes) < 0.1,
                rng.random(header.num_lanes) < 0.9,
                rng.integers(0, header.num_actions, header.num_lanes, dtype=np.int32),
                rng.integers(-1, 2, header.num_lanes).astype(np.float32),
                rng.normal(size=(header.num_lanes, header.num_actions)).astype(np.float32),
            )
        )
    return Trajectory(*(np.stack(column) for column in zip(*steps, strict=True)))


def record(path, header: DatasetHeader, stop: int | None = None, **options) -> None:
    with DatasetWriter(path, header, **options) as writer:
        for start in range(writer.header.steps, stop or header.planned_steps, header.chunk_length):
            writer.append(play(header, start, start + header.chunk_length))


def assert_equal(got: Trajectory, want: Trajectory, where=()) -> None:
    for name in NAMES:
        found, expected = getattr(got, name), getattr(want, name)[where]
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == expected.dtype


def refusal(path, function, *args, **kwargs) -> str:
    """The message of a refusal, which is one line that begins with the path."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert "tensorstore_spec" not in message
    return message.removeprefix(f"{path}: ")


def files(path) -> dict[str, bytes]:
    """The files of a data set, less the locks."""
    found = (file for file in Path(path).rglob("*") if file.is_file() and not file.name.endswith("lock"))
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An Atari recording that nothing happened to; copy it before changing it."""
    path = tmp_path_factory.mktemp("data") / "whole"
    record(path, ATARI)
    return path


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def edit(path: Path, **changes) -> None:
    """Changes fields of a JSON file; a field set to ``...`` is dropped."""
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not ...}))
