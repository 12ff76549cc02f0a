"""Recorded play: what is committed is read back bit for bit, whatever happens to the process, the disk or the files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pd_jax
from pd_jax.errors import UserError
from pd_jax.replay.recordings import Dataset, DatasetWriter
from pd_jax.types import Trajectory
from support.commands import ordinary_user, public_directory
from support.recordings import ATARI, NAMES, VECTOR, assert_equal, copied, edit, files, play, record, refusal, whole

__all__ = ["copied", "whole"]


@pytest.mark.parametrize("header", [ATARI, VECTOR], ids=["atari", "vector"])
def test_what_is_recorded_is_read_back(tmp_path, header):
    record(tmp_path / "new" / "data", header)
    dataset = Dataset.open(tmp_path / "new" / "data")
    assert dataset.header == dataclasses.replace(header, steps=header.planned_steps)
    assert dataset.num_steps == header.planned_steps and dataset.header.complete
    assert_equal(dataset.read(0, dataset.num_steps), play(header, 0, header.planned_steps))


def test_an_append_may_be_several_chunks_long(tmp_path):
    with DatasetWriter(tmp_path, VECTOR) as writer:
        writer.append(play(VECTOR, 0, 24))
        writer.append(play(VECTOR, 24, 40))
    assert_equal(Dataset.open(tmp_path).read(0, 40), play(VECTOR, 0, 40))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_of_steps_and_lanes_is_read(whole, data):
    start = data.draw(st.integers(0, 63))
    stop = data.draw(st.integers(start + 1, 64))
    first = data.draw(st.integers(0, 19))
    lanes = slice(first, data.draw(st.integers(first + 1, 20)))
    assert_equal(Dataset.open(whole).read(start, stop, lanes), play(ATARI, start, stop), (slice(None), lanes))


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (4, 4), (5, 4), (60, 65)])
def test_steps_that_were_not_recorded_cannot_be_read(whole, start, stop):
    with pytest.raises(ValueError):
        Dataset.open(whole).read(start, stop)


@pytest.mark.parametrize(
    ("length", "start", "lengths"),
    [(16, 0, [16] * 4), (24, 0, [24, 24, 16]), (64, 0, [64]), (100, 0, [64]), (10, 40, [10, 10, 4]), (9, 64, [])],
)
def test_trajectories_cover_the_recording_once_in_order(whole, length, start, lengths):
    stretches = list(Dataset.open(whole).trajectories(length, start))
    assert [len(stretch.rewards) for stretch in stretches] == lengths
    for stretch in stretches:
        assert_equal(stretch, play(ATARI, start, start + len(stretch.rewards)))
        start += len(stretch.rewards)


def test_the_next_stretch_is_being_read_while_one_is_used(whole, monkeypatch):
    events = []
    start_reading = Dataset._start_reading
    monkeypatch.setattr(
        Dataset, "_start_reading", lambda self, *args: events.append(args[0]) or start_reading(self, *args)
    )
    for index, _ in enumerate(Dataset.open(whole).trajectories(16)):
        events.append(f"use {16 * index}")
    assert events == [0, 16, "use 0", 32, "use 16", 48, "use 32", "use 48"]


def test_the_arrays_are_zarr_that_others_can_open_and_compress_frames(whole):
    for name in NAMES:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{whole}/{name}/"}}
        array = ts.open(spec).result().read().result()
        np.testing.assert_array_equal(array, getattr(play(ATARI, 0, 64), name))
    stored = sum(len(data) for name, data in files(whole).items() if name.startswith("observations"))
    assert stored < 64 * 20 * 84 * 84 / 10


def test_recordings_json_tells_how_far_the_recording_is(tmp_path):
    writer = DatasetWriter(tmp_path, VECTOR)
    for steps in range(0, 41, 8):
        header = json.loads((tmp_path / "dataset.json").read_text())
        assert (header["steps"], header["complete"], header["planned_steps"]) == (steps, steps == 40, 40)
        assert header["task"] == "cartpole" and header["observation_shape"] == [4] and header["format_version"] == 1
        dataset = Dataset.open(tmp_path)
        assert dataset.num_steps == writer.header.steps == steps
        if steps:
            assert_equal(dataset.read(0, steps), play(VECTOR, 0, steps))
        if steps < 40:
            writer.append(play(VECTOR, steps, steps + 8))
    with pytest.raises(ValueError, match="40 of 40"):
        writer.append(play(VECTOR, 40, 48))


def test_zeros_are_stored_like_other_values(tmp_path):
    with DatasetWriter(tmp_path, VECTOR) as writer:
        zeros = {name: np.zeros_like(getattr(play(VECTOR, 0, 8), name)) for name in NAMES}
        writer.append(Trajectory(**zeros))
    for name in NAMES:
        assert not getattr(Dataset.open(tmp_path).read(0, 8), name).any()


def wrong(header, **changes):
    return play(header, 0, 8).replace(**changes)


@pytest.mark.parametrize(
    "trajectory",
    [
        play(VECTOR, 0, 7),
        play(VECTOR, 0, 12),
        play(VECTOR, 0, 48),
        wrong(VECTOR, rewards=np.zeros((0, 3), np.float32)),
        wrong(VECTOR, actions=np.zeros((8, 3), np.int64)),
        wrong(VECTOR, actions=np.zeros((8, 2), np.int32)),
        wrong(VECTOR, teacher_q=np.zeros((8, 3, 3), np.float32)),
        wrong(VECTOR, is_first=np.zeros((16, 3), bool)),
        wrong(VECTOR, observations=np.zeros((8, 3, 5), np.float32)),
        wrong(VECTOR, observations=np.zeros((8, 3, 4), np.uint8)),
    ],
)
def test_arrays_that_contradict_the_header_are_not_appended(tmp_path, trajectory):
    with DatasetWriter(tmp_path, VECTOR) as writer, pytest.raises(ValueError):
        writer.append(trajectory)
    assert Dataset.open(tmp_path).num_steps == 0
    record(tmp_path, VECTOR, resume=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["teacher_q", "rewards", "observations"])
def test_a_diverged_teacher_is_not_recorded(tmp_path, name, bad):
    trajectory = play(VECTOR, 0, 8)
    getattr(trajectory, name)[3, 1] = bad
    with DatasetWriter(tmp_path, VECTOR) as writer:
        message = refusal(tmp_path, writer.append, trajectory)
    assert message == f"not recorded: {name} holds NaN or infinite values, the first at step 3 of lane 1"


def test_a_recording_is_continued_only_when_asked(tmp_path):
    record(tmp_path, VECTOR, stop=16)
    assert refusal(tmp_path, DatasetWriter, tmp_path, VECTOR) == (
        "holds this recording already, 16 of 40 steps: continue it with --resume"
    )
    record(tmp_path, dataclasses.replace(VECTOR, teacher_score={"mean": 9}), resume=True)
    dataset = Dataset.open(tmp_path)
    assert dataset.header.complete and dataset.header.teacher_score == {"mean": 9}
    assert_equal(dataset.read(0, 40), play(VECTOR, 0, 40))


def test_a_longer_plan_continues_a_recording_and_one_shorter_than_it_is_refused(tmp_path):
    record(tmp_path, VECTOR)
    longer = dataclasses.replace(VECTOR, planned_steps=64)
    record(tmp_path, longer, resume=True)
    assert_equal(Dataset.open(tmp_path).read(0, 64), play(VECTOR, 0, 64))
    message = refusal(tmp_path, DatasetWriter, tmp_path, VECTOR, resume=True)
    assert message == "already holds 64 steps, more than the 40 planned"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "breakout"),
        ("env_id", "Pong-v0"),
        ("num_actions", 18),
        ("num_lanes", 21),
        ("teacher", "other"),
        ("teacher_fingerprint", "cd" * 32),
        ("teacher_output", "logits"),
        ("epsilon", 0.01),
        ("seed", 8),
        ("chunk_length", 32),
        ("observation_shape", (42, 42)),
        ("observation_dtype", "float32"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_recording_is_never_continued_nor_touched(whole, field, value, resume):
    before = files(whole)
    message = refusal(whole, DatasetWriter, whole, dataclasses.replace(ATARI, **{field: value}), resume=resume)
    assert message == (f"holds another recording, its {field} is {getattr(ATARI, field)!r}: choose another directory")
    assert files(whole) == before


def test_directories_of_other_things_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    message = refusal(tmp_path, DatasetWriter, tmp_path, VECTOR, resume=True)
    assert message == "holds 'thesis.tex' and no data set: choose another directory"
    assert os.listdir(tmp_path) == ["thesis.tex"]
    path = tmp_path / "thesis.tex"
    assert "File exists" in refusal(path, DatasetWriter, path, VECTOR)
    assert "Not a directory" in refusal(path / "below", DatasetWriter, path / "below", VECTOR)


def test_the_settings_of_the_command_may_lie_beside_the_recording(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "config.yaml.123.unfinished").touch()
    record(tmp_path, VECTOR)
    assert Dataset.open(tmp_path).header.complete


def test_two_writers_do_not_share_a_recording(tmp_path):
    with DatasetWriter(tmp_path, VECTOR):
        message = refusal(tmp_path, DatasetWriter, tmp_path, VECTOR, resume=True)
    assert message == "another process is writing this data set"
    record(tmp_path, VECTOR, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planned_steps": 100}, "planned_steps 100 are not both multiples of the chunk length, 8"),
        ({"num_lanes": 0}, "num_lanes is 0"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"observation_dtype": "int64"}, "observation_dtype is 'int64'"),
    ],
)
def test_impossible_headers_are_refused_before_anything_is_made(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        DatasetWriter(tmp_path / "new", dataclasses.replace(VECTOR, **changes))
    assert not os.listdir(tmp_path)


CHILD = """
import os, signal, sys, time
sys.path[:0] = {path!r}
import test_recordings
from pd_jax.replay import recordings

def die():
    time.sleep(0.2)  # lets the writes that have begun end
    os.kill(os.getpid(), signal.SIGKILL)

class Trap:
    "Stands for the fourth of the arrays."
    def __init__(self, array):
        self.array = array
    def __getitem__(self, steps):
        return die() if steps.start == {arrays_from} else self.array[steps]

def dump_header(header, dump=recordings.dump_header):
    return die() if header.steps == {header_of} else dump(header)

recordings.dump_header = dump_header
writer = recordings.DatasetWriter({data!r}, test_recordings.ATARI, resume=True)
writer._arrays["actions"] = Trap(writer._arrays["actions"])
print("ready", flush=True)
for start in range(writer.header.steps, 64, 16):
    writer.append(test_recordings.play(test_recordings.ATARI, start, start + 16))
"""


def start_child(data, arrays_from: int = -1, header_of: int = -1) -> subprocess.Popen:
    """Starts to record, in a process that dies in the append from one step, or before it commits another."""
    path = [*map(str, Path(__file__).parents[:2]), str(Path(pd_jax.__file__).parents[1])]
    code = CHILD.format(path=path, data=str(data), arrays_from=arrays_from, header_of=header_of)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_recording_killed_in_mid_append_resumes_to_the_same_bytes(tmp_path, whole):
    path = tmp_path / "killed"
    for deadly, committed in (({"arrays_from": 0}, 0), ({"header_of": 48}, 32)):
        child = start_child(path, **deadly)
        child.communicate(timeout=60)
        assert child.returncode == -9
        dataset = Dataset.open(path)
        assert dataset.num_steps == committed
        if committed:
            assert_equal(dataset.read(0, committed), play(ATARI, 0, committed))
    child = start_child(path)
    child.stdout.readline()
    time.sleep(random.uniform(0, 0.05))
    child.kill()
    child.communicate(timeout=60)
    assert Dataset.open(path).num_steps in (32, 48, 64)
    record(path, ATARI, resume=True)
    assert files(path) == files(whole)


@pytest.mark.parametrize("left", [["dataset.json"], ["dataset.json", "actions"], ["dataset.json.__lock"], []])
def test_a_recording_killed_while_it_was_created_can_be_resumed(tmp_path, left):
    DatasetWriter(tmp_path, VECTOR).close()
    # Longer than what replaces it: what a killed process has half written must not shine through.
    (tmp_path / "dataset.json.__lock").write_bytes(b"x" * 10_000)
    for name in os.listdir(tmp_path):
        if name not in left:
            shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
    record(tmp_path, VECTOR, resume=True)
    assert_equal(Dataset.open(tmp_path).read(0, 40), play(VECTOR, 0, 40))


@contextlib.contextmanager
def files_limited_to(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_keeps_what_was_committed(tmp_path, whole):
    path = tmp_path / "full"
    with DatasetWriter(path, ATARI) as writer:
        writer.append(play(ATARI, 0, 16))
        # dataset.json would still fit, the frames do not.
        with files_limited_to(1000):
            message = refusal(path, writer.append, play(ATARI, 16, 32))
        assert message.startswith("steps 16 to 32 could not be written: ") and "File too large" in message
        assert writer.header.steps == Dataset.open(path).num_steps == 16
        assert_equal(Dataset.open(path).read(0, 16), play(ATARI, 0, 16))
    record(path, ATARI, resume=True)
    assert files(path) == files(whole)


def test_a_read_only_data_set_is_read_and_not_written(whole):
    with public_directory() as directory:
        path = Path(shutil.copytree(whole, directory / "data"))
        for file in [path, *path.rglob("*")]:
            file.chmod(0o555 if file.is_dir() else 0o444)
        try:
            with ordinary_user():
                assert_equal(Dataset.open(path).read(0, 64), play(ATARI, 0, 64))
                longer = dataclasses.replace(ATARI, planned_steps=80)
                message = refusal(path, DatasetWriter, path, longer, resume=True)
                assert message.startswith("cannot be opened for writing: Permission denied")
                below = path / "below"
                assert "Permission denied" in refusal(below, DatasetWriter, below, ATARI)
        finally:
            for file in [path, *path.rglob("*")]:
                file.chmod(0o755)


def test_a_url_names_a_data_set_too(tmp_path):
    url = f"file://{tmp_path}/data"
    record(url, VECTOR)
    assert_equal(Dataset.open(url + "/").read(0, 40), play(VECTOR, 0, 40))
    assert "already" in refusal(url, DatasetWriter, url, VECTOR)
    nothing = f"file://{tmp_path}/nothing"
    assert refusal(nothing, Dataset.open, nothing) == "not a data set: it has no dataset.json"
    assert 'unsupported URL scheme "xx"' in refusal("xx://data", Dataset.open, "xx://data")


def test_what_is_no_data_set_is_not_opened(tmp_path):
    assert refusal(tmp_path / "absent", Dataset.open, tmp_path / "absent") == "no such data set"
    assert refusal(tmp_path, Dataset.open, tmp_path) == "not a data set: it has no dataset.json"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file", Dataset.open, tmp_path / "file") == "is not a directory"
    (tmp_path / "dataset.json").mkdir()
    assert refusal(tmp_path, Dataset.open, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove", "noise"])
def test_a_damaged_chunk_is_named_when_it_is_read(copied, name, damage):
    chunks = sorted(file for file in (copied / name / "c" / "1").rglob("*") if file.is_file())
    chunk = chunks[-1]
    data = chunk.read_bytes()
    if damage == "remove":
        chunk.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
        damaged = {"flip": flipped, "truncate": data[:middle], "empty": b"", "noise": bytes(range(256)) * 4}
        chunk.write_bytes(damaged[damage])
    dataset = Dataset.open(copied)
    assert_equal(dataset.read(0, 16), play(ATARI, 0, 16))
    message = refusal(copied, dataset.read, 8, 24)
    assert message.startswith("damaged: ") and str(chunk) in message
    assert str(chunk) in refusal(copied, list, dataset.trajectories(16))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_no_flipped_byte_of_a_chunk_goes_unnoticed(copied, place, bits):
    chunk = next(file for file in (copied / "observations" / "c" / "0" / "0").rglob("*") if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[int(place * len(data))] ^= bits
    damaged = chunk.with_name("damaged")
    damaged.write_bytes(data)
    chunk.rename(chunk.with_name("good"))
    damaged.rename(chunk)
    try:
        assert str(chunk) in refusal(copied, Dataset.open(copied).read, 0, 16)
    finally:
        chunk.with_name("good").rename(chunk)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, "dataset.json: format 4, and this pd_jax reads 3: upgrade pd_jax"),
        ({"format_version": ...}, "dataset.json: not a data set of pd_jax"),
        ({"format_version": "1"}, "dataset.json: not a data set of pd_jax"),
        ({"steps": ...}, "dataset.json: steps is missing"),
        ({"steps": "64"}, "dataset.json: steps is '64'"),
        ({"steps": True}, "dataset.json: steps is True"),
        ({"steps": -16}, "dataset.json: steps is -16"),
        ({"steps": 8}, "dataset.json: steps 8 and planned_steps 64 are not both multiples of the chunk length, 16"),
        ({"steps": 80}, "damaged: observations is uint8 [64, 20, 84, 84], dataset.json says uint8 [80, 20, 84, 84]"),
        ({"num_lanes": 4}, "damaged: observations is uint8 [64, 20, 84, 84], dataset.json says uint8 [64, 4, 84, 84]"),
        ({"num_actions": 4}, "damaged: teacher_q is float32 [64, 20, 6], dataset.json says float32 [64, 20, 4]"),
        ({"observation_dtype": "float32"}, "damaged: observations is uint8"),
        ({"observation_shape": [84]}, "damaged: observations is uint8"),
        ({"observation_shape": "84"}, "dataset.json: observation_shape is '84'"),
        ({"observation_shape": {"a": 1}}, "dataset.json: observation_shape is {'a': 1}"),
        ({"chunk_length": 0}, "dataset.json: chunk_length is 0"),
        ({"task": "\x1b[2J"}, r"dataset.json: task is '\x1b[2J'"),
        ({"teacher_score": 3}, "dataset.json: teacher_score is 3"),
        ({"observations": {}}, "dataset.json: observations is of format 2, the file of format 1"),
        ({"normalisation": {}}, "dataset.json: normalisation is of format 2, the file of format 1"),
    ],
)
def test_a_wrong_dataset_json_is_named(copied, changes, message):
    edit(copied / "dataset.json", **changes)
    assert refusal(copied, Dataset.open, copied).startswith(message)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null", b"3"])
def test_a_dataset_json_that_is_none_is_refused_by_reader_and_writer(copied, text):
    (copied / "dataset.json").write_bytes(text)
    assert refusal(copied, Dataset.open, copied).startswith("dataset.json: ")
    assert refusal(copied, DatasetWriter, copied, ATARI, resume=True).startswith("dataset.json: ")


def test_every_truncation_of_dataset_json_is_refused(copied):
    text = (copied / "dataset.json").read_bytes()
    for length in range(len(text) - 1):
        (copied / "dataset.json").write_bytes(text[:length])
        refusal(copied, Dataset.open, copied)


@pytest.mark.parametrize("text", [None, "", "{}", '{"zarr_format": 3}', "[" * 1000])
@pytest.mark.parametrize("name", NAMES)
def test_a_lost_or_damaged_array_is_named(copied, name, text):
    path = copied / name / "zarr.json"
    path.unlink() if text is None else path.write_text(text)
    assert refusal(copied, Dataset.open, copied).startswith(f"{name} cannot be read: ")
    # The writer must not take a lost array for a new one.
    assert refusal(copied, DatasetWriter, copied, ATARI, resume=True).startswith("cannot be opened for writing: ")


def test_an_array_of_another_shape_is_named(copied):
    edit(copied / "rewards" / "zarr.json", shape=[48, 20])
    assert refusal(copied, Dataset.open, copied) == (
        "damaged: rewards is float32 [48, 20], dataset.json says float32 [64, 20]"
    )
    assert refusal(copied, DatasetWriter, copied, ATARI, resume=True).startswith("damaged: rewards")


def test_a_data_set_of_another_game_is_refused(whole):
    dataset = Dataset.open(whole)
    dataset.check_matches("pong", 6)
    message = refusal(whole, dataset.check_matches, "breakout", 6)
    assert message == "recorded with task 'pong', and the run has task 'breakout'"
    message = refusal(whole, dataset.check_matches, "pong", 18)
    assert message == "recorded with num_actions 6, and the run has num_actions 18"
