"""A made-up teacher file, and its parts by hand, by the format's own definition."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from pd_jax.errors import UserError
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata

METADATA = TeacherMetadata(
    name="pong-test",
    game="pong",
    env_id="Pong-v5",
    network="net2",
    layer_norm=True,
    num_actions=6,
    action_names=("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"),
    observation={
        "kind": "atari", "shape": [84, 84, 4], "dtype": "uint8", "frame_stack": 4, "frame_skip": 4, "grey": True,
        "scaling": "1/255",
    },
    output="q",
    algorithm="pqn",
    env_steps=2_000_000,
    seed=3,
    training_config={"learning_rate": 2.5e-4, "lanes": 128, "schedule": ["linear", None]},
    evaluation={
        "mean": 19.5, "standard_error": 0.25, "ci95": [19.0, 20.0], "episodes": 30, "epsilon": 0.05, "max_noops": 30,
        "max_episode_steps": 27000, "seed": 1,
    },
    learning_curve=[{"env_steps": 1000, "mean": -20.5, "standard_error": 0.5, "episodes": 8}],
    how_made="pd-jax train-teacher --game pong --seed 3",
    licence="Apache-2.0",
    created="2025-01-31T12:00:00Z",
    pd_jax_version="0.1.0",
)  # fmt: skip
PARAMS = {
    "torso": {
        "conv1": {"kernel": np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 4, 1, 3), "bias": np.zeros(3, "f4")},
    },
    "head": {"scale": np.float32(1.5), "empty": np.zeros((0, 2), np.float32)},
}


INVENTORY = {"kind": "vector", "shape": [2], "dtype": "float32"}
STATISTICS = {"mean": [0.0, 1.0], "variance": 1.0, "count": 100}


def new(observations=None, normalisation=None, **changes) -> dict:
    """Fields of version 4, and others."""
    further = {"inventory": INVENTORY} if observations is None else observations
    return {"observations": further, "normalisation": normalisation or {}} | changes


@pytest.fixture
def teacher_file(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, PARAMS, METADATA)
    return path


def refusal(path) -> str:
    """The message with which a file is refused, which is one line that begins with its name."""
    with pytest.raises(UserError) as caught:
        read_teacher(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "Traceback" not in message
    return message.removeprefix(f"{path}: ")


def write_parts(path, header: dict, tensors: bytes = b"") -> None:
    """Writes a safetensors file by hand, by the format's own definition."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def parts(path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_metadata(path, **changes) -> None:
    """Rewrites the metadata of the file; a field set to ``...`` is dropped."""
    header, tensors = parts(path)
    fields = json.loads(header["__metadata__"]["pd_jax"]) | changes
    text = json.dumps({name: value for name, value in fields.items() if value is not ...})
    write_parts(path, header | {"__metadata__": {"pd_jax": text}}, tensors)


def leaves(tree: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return found


def assert_same_params(got: dict, want: dict) -> None:
    got, want = leaves(got), leaves(want)
    assert got.keys() == want.keys()
    for name, array in got.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.asarray(want[name], np.float32))
        assert array.shape == np.shape(want[name])
