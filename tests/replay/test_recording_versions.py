"""Version 2 of a recording's header: what it holds is read back, and a plain one is as before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.errors import UserError
from pd_jax.replay.header import dump_header, parse_header
from pd_jax.replay.recordings import Dataset, DatasetWriter
from support.recordings import VECTOR, assert_equal, copied, edit, play, record, refusal, whole

__all__ = ["copied", "whole"]

MAP = {"map": {"shape": [3, 2], "dtype": "uint8"}}
STATISTICS = {"mean": [0.0, 1.0, 2.0, 3.0], "variance": 1.0, "count": 100}


def test_a_plain_header_is_written_and_identified_as_before_there_was_version_2():
    # Worked out from the first format's own rules: all fields but these, and no others.
    fields = {
        "task": "cartpole", "env_id": "CartPole-v1", "num_actions": 2, "observation_shape": [4],
        "observation_dtype": "float32", "num_lanes": 3, "teacher": "pong-dqn", "teacher_fingerprint": "ab" * 32,
        "teacher_output": "logits", "epsilon": 0.05, "seed": 7, "environment": {"max_noops": 30},
        "recording_id": "cd" * 16, "chunk_length": 8, "planned_steps": 40, "steps": 0, "teacher_score": None,
        "format_version": 1,
    }  # fmt: skip
    assert dump_header(VECTOR) == json.dumps(fields | {"complete": False}, indent=1).encode()
    for name in ("planned_steps", "steps", "teacher_score"):
        del fields[name]
    assert VECTOR.identity == hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda n: n != "observation"
)
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(data=st.data())
def test_headers_are_read_back_in_the_lowest_version_that_holds_them(data):
    specifications = st.fixed_dictionaries({"shape": shapes, "dtype": st.sampled_from(["uint8", "float32"])})
    observations = data.draw(st.dictionaries(names, specifications, max_size=3))
    of_shape = {name: specification["shape"] for name, specification in observations.items()} | {"observation": [4]}
    normalisation = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(of_shape)), unique=True)):
        values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=of_shape[name])
        variance = data.draw(st.floats(0, 1e30) | st.just((values**2).tolist()))
        normalisation[name] = {"mean": values.tolist(), "variance": variance, "count": data.draw(st.floats(1e-4, 1e18))}
    score = data.draw(st.sampled_from([None, {"mean": 1.5}, {"mean": 1.5, "protocol": "no-op starts"}]))
    header = dataclasses.replace(VECTOR, observations=observations, normalisation=normalisation, teacher_score=score)
    is_new = bool(observations or normalisation or "protocol" in (score or {}))
    read = parse_header(dump_header(header), "x")
    assert read == dataclasses.replace(header, format_version=1 + is_new)
    assert dump_header(read) == dump_header(header)
    assert read.identity == header.identity
    assert (read.identity == VECTOR.identity) == (not observations and not normalisation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": []}, "observations is [], not an object of at most 64 fields"),
        ({"observations": None}, "observations is None, not an object of at most 64 fields"),
        ({"observations": {"\n": MAP["map"]}}, r"observations: '\n' is not a short printable name"),
        ({"observations": {"observation": MAP["map"]}}, "observations: 'observation' is the name of the main one"),
        ({"observations": {"map": {"shape": [3]}}}, "observations: map: dtype is missing"),
        ({"observations": {"map": MAP["map"] | {"stack": 4}}}, "observations: map: 'stack' is not a field"),
        (
            {"observations": {"map": MAP["map"] | {"shape": [0]}}},
            "observations: map: shape is [0], not a list of 1 to 8",
        ),
        (
            {"observations": {"map": MAP["map"] | {"dtype": "int8"}}},
            "observations: map: dtype is 'int8', not 'uint8' or",
        ),
        ({"normalisation": 3}, "normalisation is 3, not an object"),
        ({"normalisation": {"map": STATISTICS}}, "normalisation: 'map' is not an observation"),
        (
            {"normalisation": {"observation": STATISTICS | {"varaince": 1}}},
            "normalisation: observation: 'varaince' is not a field; did you mean 'variance'?",
        ),
        (
            {"normalisation": {"observation": STATISTICS | {"mean": [0.0]}}},
            "normalisation: observation: mean is [0.0], not a finite number, or lists of them in the shape [4]",
        ),
        (
            {"normalisation": {"observation": STATISTICS | {"variance": -1}}},
            "normalisation: observation: variance is -1, not a finite number >= 0",
        ),
        (
            {"normalisation": {"observation": STATISTICS | {"count": True}}},
            "normalisation: observation: count is True, not a number above 0",
        ),
        ({"teacher_score": {"protocol": 3}}, "teacher_score: protocol is 3, not a short printable text"),
    ],
)
def test_wrong_fields_of_version_2_are_named_by_reader_and_writer(tmp_path, changes, message):
    header = dataclasses.replace(VECTOR, **changes)
    assert refusal(tmp_path, DatasetWriter, tmp_path, header).startswith(f"dataset.json: {message}")
    assert not os.listdir(tmp_path)
    (tmp_path / "dataset.json").write_bytes(dump_header(header))
    assert refusal(tmp_path, Dataset.open, tmp_path).startswith(f"dataset.json: {message}")


def test_nan_is_no_statistic(tmp_path):
    header = dataclasses.replace(VECTOR, normalisation={"observation": STATISTICS})
    for text in (b"NaN", b"Infinity", b"1e999"):
        damaged = dump_header(header).replace(b"100", text)
        with pytest.raises(UserError, match=r"normalisation: observation: count is (nan|inf), not"):
            parse_header(damaged, "x")


def test_normalised_play_is_recorded_and_read_and_not_distilled_from(tmp_path):
    header = dataclasses.replace(VECTOR, normalisation={"observation": STATISTICS})
    record(tmp_path, header, stop=16)
    record(tmp_path, header, resume=True)
    dataset = Dataset.open(tmp_path)
    assert (dataset.header.format_version, dataset.header.normalisation) == (2, header.normalisation)
    assert_equal(dataset.read(0, 40), play(VECTOR, 0, 40))
    assert refusal(tmp_path, dataset.check_matches, "cartpole", 2) == (
        "needs frozen normalisation of ['observation'], which this pd_jax cannot apply: upgrade pd_jax"
    )
    message = refusal(tmp_path, DatasetWriter, tmp_path, VECTOR, resume=True)
    assert message.startswith("holds another recording, its normalisation is {'observation': ")


def test_further_observations_are_neither_recorded_nor_left_out_in_silence(tmp_path):
    header = dataclasses.replace(VECTOR, observations=MAP)
    message = "needs the further observations ['map'], which this pd_jax cannot apply: upgrade pd_jax"
    with DatasetWriter(tmp_path, header) as writer:
        assert refusal(tmp_path, writer.append, play(VECTOR, 0, 8)) == f"not recorded: {message}"
    dataset = Dataset.open(tmp_path)
    assert dataset.header == dataclasses.replace(header, format_version=2)
    assert refusal(tmp_path, dataset.check_matches, "cartpole", 2) == message
    # As another version has recorded it.
    shutil.rmtree(tmp_path)
    record(tmp_path, VECTOR)
    edit(tmp_path / "dataset.json", format_version=2, observations=MAP)
    dataset = Dataset.open(tmp_path)
    assert dataset.num_steps == 40
    assert refusal(tmp_path, dataset.read, 0, 40) == message
    assert refusal(tmp_path, next, dataset.trajectories(8)) == message


def test_a_recording_goes_on_when_its_teachers_score_gets_a_protocol(tmp_path):
    record(tmp_path, VECTOR, stop=16)
    score = {"mean": 1.5, "protocol": "no-op starts"}
    record(tmp_path, dataclasses.replace(VECTOR, teacher_score=score), stop=24, resume=True)
    # The score of the recording is kept where the settings have none.
    record(tmp_path, VECTOR, resume=True)
    dataset = Dataset.open(tmp_path)
    dataset.check_matches("cartpole", 2)
    assert (dataset.header.format_version, dataset.header.teacher_score) == (2, score)
    assert dataset.header.identity == VECTOR.identity
    assert_equal(dataset.read(0, 40), play(VECTOR, 0, 40))
