"""Recordings for others: the group that zarr-python, xarray and pandas open, after kills and of old versions."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.errors import UserError
from pd_jax.replay import recordings
from pd_jax.replay.header import DatasetHeader
from pd_jax.replay.recordings import Dataset, DatasetWriter
from pd_jax.types import Trajectory

ATARI = DatasetHeader(
    task="pong", env_id="Pong-v5", num_actions=6, observation_shape=(84, 84), observation_dtype="uint8", num_lanes=3,
    teacher="pong-dqn", teacher_fingerprint="ab" * 32, teacher_output="q", epsilon=0.05, seed=7, chunk_length=8,
    environment={"max_noops": 30}, recording_id="cd" * 16, planned_steps=32, teacher_score={"mean": 20.5},
)  # fmt: skip
VECTOR = dataclasses.replace(
    ATARI, task="cartpole", env_id="CartPole-v1", num_actions=2, observation_shape=(4,), observation_dtype="float32"
)


def play(header: DatasetHeader, start: int, stop: int) -> Trajectory:
    """Play without a zero in it, so that what was not recorded can be told."""
    values = np.random.default_rng(0)
    fields = {}
    for name, (shape, dtype) in header.layouts().items():
        whole = values.integers(1, 200, (header.planned_steps, header.num_lanes, *shape))
        fields[name] = whole[start:stop].astype(dtype)
    return Trajectory(**fields)


def record(path: Path, header: DatasetHeader, stop: int, **options: Any) -> None:
    with DatasetWriter(path, header, **options) as writer:
        for start in range(writer.header.steps, stop, 8):
            writer.append(play(header, start, start + 8))


def group(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "zarr.json").read_text())
    assert (found["zarr_format"], found["node_type"]) == (3, "group")
    return found


def whole_steps(path: Path) -> int:
    """What the attributes say, once it is sure that the lengths of all arrays say so, too."""
    found = group(path)
    steps: int = found["attributes"]["whole_steps"]
    arrays = found["consolidated_metadata"]["metadata"]
    assert [array["shape"][0] for array in arrays.values()] == [steps] * 6
    return steps


@pytest.mark.parametrize("header", [ATARI, VECTOR], ids=["atari", "vector"])
def test_the_group_says_what_was_recorded_and_how_much_of_it(tmp_path: Path, header: DatasetHeader) -> None:
    with DatasetWriter(tmp_path, header) as writer:
        for start in range(0, 32, 8):
            assert whole_steps(tmp_path) == start
            writer.append(play(header, start, start + 8))
    assert group(tmp_path)["attributes"] == {
        "whole_steps": 32,
        "planned_steps": 32,
        "complete": True,
        "game": header.task,
        "env_id": header.env_id,
        "protocol": {"epsilon": 0.05, "max_noops": 30},
        "seed": 7,
        "teacher": "pong-dqn",
        "teacher_fingerprint": "ab" * 32,
        "teacher_output": "q",
        "teacher_score": {"mean": 20.5},
        "recording_id": "cd" * 16,
    }
    told = group(tmp_path)["consolidated_metadata"]["metadata"]
    # Of a whole recording they are the arrays' own, which TensorStore has written.
    assert told == {name: json.loads((tmp_path / name / "zarr.json").read_text()) for name in header.layouts()}
    dimensions = {name: array["dimension_names"] for name, array in told.items()}
    own = ["height", "width"] if header is ATARI else ["feature"]
    assert dimensions["observations"] == ["time", "lane", *own]
    assert dimensions["teacher_q"] == ["time", "lane", "action"]
    assert dimensions["rewards"] == ["time", "lane"]


@pytest.mark.parametrize("at", [8, 16, 32])
def test_the_group_never_tells_of_more_than_is_whole_and_is_right_again_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    class Killed(BaseException):
        pass

    def die(header: DatasetHeader, *arrays: Any) -> bytes:
        if header.steps == at:
            raise Killed
        return dump(header, *arrays)

    dump = recordings.dump_group
    monkeypatch.setattr(recordings, "dump_group", die)
    with pytest.raises(Killed):
        record(tmp_path / "killed", ATARI, 32)
    monkeypatch.setattr(recordings, "dump_group", dump)
    assert Dataset.open(tmp_path / "killed").num_steps == at
    assert whole_steps(tmp_path / "killed") == at - 8
    DatasetWriter(tmp_path / "killed", ATARI, resume=True).close()
    assert whole_steps(tmp_path / "killed") == at
    record(tmp_path / "killed", ATARI, 32, resume=True)
    record(tmp_path / "whole", ATARI, 32)
    assert (tmp_path / "killed" / "zarr.json").read_bytes() == (tmp_path / "whole" / "zarr.json").read_bytes()


def test_a_group_that_cannot_be_written_is_told_and_the_steps_count(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, VECTOR) as writer:
        (tmp_path / "zarr.json").unlink()
        (tmp_path / "zarr.json").mkdir()
        with pytest.raises(UserError, match=r": steps 0 to 8 are recorded, but zarr\.json could not be written: "):
            writer.append(play(VECTOR, 0, 8))
        assert writer.header.steps == Dataset.open(tmp_path).num_steps == 8


def test_a_recording_without_a_group_is_read_and_gets_one_when_it_goes_on(tmp_path: Path) -> None:
    """As revisions before there was one have left it: the arrays name two dimensions, and there is no zarr.json."""
    record(tmp_path, ATARI, 16)
    (tmp_path / "zarr.json").unlink()
    for name in ATARI.layouts():
        path = tmp_path / name / "zarr.json"
        old = json.loads(path.read_text())
        old["dimension_names"][2:] = [None] * (len(old["shape"]) - 2)
        path.write_text(json.dumps(old))
    assert Dataset.open(tmp_path).num_steps == 16
    longer = dataclasses.replace(ATARI, planned_steps=40)
    with DatasetWriter(tmp_path, longer, resume=True) as writer:
        assert whole_steps(tmp_path) == 16
        writer.append(play(ATARI, 16, 24))
    assert whole_steps(tmp_path) == 24
    assert group(tmp_path)["attributes"]["planned_steps"] == 40
    told = group(tmp_path)["consolidated_metadata"]["metadata"]["observations"]
    assert told["dimension_names"] == ["time", "lane", "height", "width"]
    # The array's own metadata are as they were, but for the longer plan.
    kept = json.loads((tmp_path / "observations" / "zarr.json").read_text())
    assert kept["dimension_names"] == ["time", "lane", None, None] and kept["shape"][0] == 40
    assert np.array_equal(Dataset.open(tmp_path).read(0, 24).rewards, play(ATARI, 0, 24).rewards)


READERS = """
import json, sys, warnings
import numpy as np
import xarray
import zarr
warnings.simplefilter("error")
group = zarr.open_group(sys.argv[1])
arrays = {name: array[:] for name, array in group.arrays()}
table = xarray.open_zarr(sys.argv[1])
for name, array in arrays.items():
    np.testing.assert_array_equal(table[name], array)
frame = table[["rewards", "actions"]].to_dataframe()
np.testing.assert_array_equal(frame["rewards"].to_numpy(), arrays["rewards"].ravel())
np.savez(sys.argv[2], **arrays)
print(json.dumps(dict(group.attrs)))
"""


@pytest.mark.parametrize("header", [ATARI, VECTOR], ids=["atari", "vector"])
def test_zarr_xarray_and_pandas_read_what_was_recorded_and_no_zeros_beyond(
    tmp_path: Path, header: DatasetHeader
) -> None:
    pytest.importorskip("zarr", "3.0", reason="zarr-python 3 is not installed")
    pytest.importorskip("xarray", reason="xarray is not installed")
    record(tmp_path / "data", header, 16)
    # Not in this process: some libraries warn when they are imported after others.
    ended = subprocess.run(
        [sys.executable, "-c", READERS, tmp_path / "data", tmp_path / "read.npz"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["whole_steps"] == 16
    expected = play(header, 0, 16)
    with np.load(tmp_path / "read.npz") as read:
        for name in header.layouts():
            np.testing.assert_array_equal(read[name], getattr(expected, name))
