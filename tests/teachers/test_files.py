"""The teacher file: what is saved is read back, and nothing else is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pd_jax.errors import UserError
from pd_jax.teachers.files import check_params, fingerprint, params_fingerprint, read_teacher, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata
from support.teacher_files import (
    METADATA,
    PARAMS,
    STATISTICS,
    assert_same_params,
    new,
    parts,
    refusal,
    teacher_file,
    with_metadata,
    write_parts,
)

__all__ = ["teacher_file"]


def test_a_teacher_is_read_back_as_it_was_saved(teacher_file):
    params, metadata = read_teacher(teacher_file)
    assert_same_params(params, PARAMS)
    assert metadata == METADATA
    assert os.listdir(teacher_file.parent) == [teacher_file.name]


def test_the_file_is_plain_safetensors_with_names_joined_by_slashes(teacher_file):
    tensors = safetensors.numpy.load_file(teacher_file)
    assert sorted(tensors) == ["head/empty", "head/scale", "torso/conv1/bias", "torso/conv1/kernel"]
    np.testing.assert_array_equal(tensors["torso/conv1/kernel"], PARAMS["torso"]["conv1"]["kernel"])
    assert json.loads(parts(teacher_file)[0]["__metadata__"]["pd_jax"])["env_id"] == "Pong-v5"


def test_jax_arrays_other_float_types_and_strided_views_are_stored_as_float32(tmp_path):
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    tree = {
        "bf16": jnp.asarray(values, jnp.bfloat16),
        "f64": values,
        "view": values.T[::-1, ::2],
        "big_endian": values.astype(">f4"),
    }
    metadata = dataclasses.replace(METADATA, training_config={"lr": np.float32(0.5), "lanes": jnp.int32(8)})
    save_teacher(tmp_path / "t", tree, metadata)
    params, read = read_teacher(tmp_path / "t")
    assert_same_params(params, tree)
    assert read.training_config == {"lr": 0.5, "lanes": 8}


def test_equal_teachers_are_equal_files_and_have_equal_fingerprints(tmp_path, teacher_file):
    other = tmp_path / "made" / "on_the_way" / "other.safetensors"
    save_teacher(other, {"head": PARAMS["head"], "torso": PARAMS["torso"]}, METADATA)
    assert other.read_bytes() == teacher_file.read_bytes()
    assert fingerprint(other) == hashlib.sha256(teacher_file.read_bytes()).hexdigest()
    assert params_fingerprint(read_teacher(other)[0]) == params_fingerprint(PARAMS)


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.ones((2, 3)), "c": np.zeros(1)},
        {"a": np.ones((3, 2)), "b": np.zeros(1)},
        {"a": np.ones((2, 3)), "b": np.full(1, 1e-30)},
        {"a": np.ones((2, 3)), "b": {"b": np.zeros(1)}},
    ],
    ids=["name", "shape", "value", "depth"],
)
def test_params_fingerprints_tell_parameters_apart(other):
    assert params_fingerprint(other) != params_fingerprint({"a": np.ones((2, 3)), "b": np.zeros(1)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_a_diverged_teacher_is_not_written_over_a_good_one(teacher_file, bad):
    before = teacher_file.read_bytes()
    with pytest.raises(UserError, match=r"head/kernel holds NaN or infinite"):
        save_teacher(teacher_file, {"head": {"kernel": np.array([0.0, bad])}}, METADATA)
    assert teacher_file.read_bytes() == before
    assert os.listdir(teacher_file.parent) == [teacher_file.name]


def test_a_failed_write_leaves_the_old_file_and_no_litter(teacher_file, monkeypatch):
    before = teacher_file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"teacher\.safetensors: cannot be written: No space left on device"):
        save_teacher(teacher_file, {"w": np.ones(3)}, METADATA)
    assert teacher_file.read_bytes() == before
    assert os.listdir(teacher_file.parent) == [teacher_file.name]


def test_a_path_that_cannot_be_written_is_a_user_error(teacher_file):
    with pytest.raises(UserError, match="cannot be written"):
        save_teacher(teacher_file / "below_a_file", PARAMS, METADATA)
    with pytest.raises(UserError, match="cannot be written"):
        save_teacher(teacher_file.parent, PARAMS, METADATA)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_actions": 5},
        {"output": "values"},
        {"learning_curve": [{"mean": 1.0}]},
        {"evaluation": METADATA.evaluation | {"mean": float("nan")}},
        {"training_config": {"optimizer": object()}},
        {"how_made": "half a character: \ud800"},
    ],
)
def test_metadata_that_could_not_be_read_back_is_not_written(tmp_path, changes):
    with pytest.raises(ValueError):
        save_teacher(tmp_path / "t", PARAMS, dataclasses.replace(METADATA, **changes))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_a_parameter_name_that_would_not_survive_the_flattening_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a parameter"):
        save_teacher(tmp_path / "t", {"torso": {name: np.ones(1)}}, METADATA)


def test_what_is_not_a_regular_file_is_refused(tmp_path):
    assert refusal(tmp_path / "absent") == "no such file"
    assert refusal(tmp_path) == "is a directory, not a file"
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == "is not a regular file"
    assert refusal("nul\0byte") == "is not a file name"
    (tmp_path / "empty").touch()
    assert refusal(tmp_path / "empty") == "is empty"
    with pytest.raises(UserError, match="absent: no such file"):
        fingerprint(tmp_path / "absent")


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"short",
        bytes(8),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b'{"\xff"',
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", 200_000) + b'{"":' * 50_000,
    ],
)
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    assert refusal(tmp_path / "foreign").startswith("not a pd_jax teacher")


def test_a_header_beyond_all_reason_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.write(struct.pack("<Q", 2**40 - 8))
        file.truncate(2**40)
    assert refusal(tmp_path / "sparse").startswith("not a pd_jax teacher")


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"pd_jax": 3}, None, "pd_jax"])
def test_the_safetensors_of_others_are_refused(tmp_path, metadata):
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    write_parts(tmp_path / "t", {"__metadata__": metadata, "w": tensor}, bytes(4))
    assert refusal(tmp_path / "t") == "not a pd_jax teacher (a safetensors file without pd_jax metadata)"
    safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "t")
    assert refusal(tmp_path / "t") == "not a pd_jax teacher (a safetensors file without pd_jax metadata)"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"q"', '{"mean": NaN}', "[" * 50_000, '{"a": "\\ud800"}'])
def test_metadata_that_is_not_json_is_refused(teacher_file, text):
    header, tensors = parts(teacher_file)
    write_parts(teacher_file, header | {"__metadata__": {"pd_jax": text}}, tensors)
    assert refusal(teacher_file) == "metadata: not JSON"


def test_a_newer_format_is_refused_whatever_else_it_holds(teacher_file):
    header, tensors = parts(teacher_file)
    write_parts(teacher_file, header | {"__metadata__": {"pd_jax": '{"format_version": 7}'}}, tensors)
    assert refusal(teacher_file) == (
        "is in teacher format 7, newer than the format 6 that this pd_jax reads: upgrade pd_jax"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": ..., "netwrok": "net1"}, "metadata: network is missing; did you mean 'netwrok'?"),
        ({"nmae": "x"}, "metadata: 'nmae' is not a field; did you mean 'name'?"),
        ({"name": "two\nlines"}, r"metadata: name is 'two\nlines', not a short printable text"),
        ({"game": "\x1b[2J"}, r"metadata: game is '\x1b[2J', not a short printable text"),
        ({"format_version": True}, "metadata: format_version is True, not a whole number >= 1"),
        ({"format_version": "1"}, "metadata: format_version is '1', not a whole number >= 1"),
        ({"num_actions": 6.0}, "metadata: num_actions is 6.0, not a whole number from 1 to 65536"),
        ({"num_actions": 18}, "metadata: 6 action_names for 18 actions"),
        ({"hidden_sizes": [10**12]}, "metadata: hidden_sizes is [1000000000000], not a list of whole numbers from 1"),
        ({"layer_norm": 1}, "metadata: layer_norm is 1, not true or false"),
        ({"output": "v"}, "metadata: output is 'v', not 'q' or 'logits'"),
        ({"env_steps": -1}, "metadata: env_steps is -1, not a whole number from 0 to 2^63 - 1, or null"),
        ({"observation": {"kind": "atari"}}, "metadata: observation: shape is missing"),
        ({"observation": {"kind": "atari", "shape": [], "dtype": "uint8"}}, "metadata: observation: shape is []"),
        ({"evaluation": {"mean": 1}}, "metadata: evaluation: standard_error is missing"),
        ({"evaluation": METADATA.evaluation | {"ci95": [1]}}, "metadata: evaluation: ci95 is [1], not a list of two"),
        ({"learning_curve": [3]}, "metadata: learning_curve is [3], not a list of objects"),
        ({"learning_curve": [{}]}, "metadata: learning_curve[0]: mean is missing"),
        ({"params_sha256": "0" * 64}, "damaged: its weights are not those that were saved"),
    ],
)
def test_wrong_metadata_is_named(teacher_file, changes, message):
    with_metadata(teacher_file, **changes)
    assert refusal(teacher_file).startswith(message)


def test_a_teacher_of_unknown_training_that_was_never_evaluated_is_read(teacher_file):
    with_metadata(teacher_file, env_steps=None, seed=None, evaluation={}, learning_curve=[], output="logits")
    metadata = read_teacher(teacher_file)[1]
    assert (metadata.env_steps, metadata.seed, metadata.evaluation, metadata.learning_curve) == (None, None, {}, [])


@pytest.mark.parametrize(
    ("tensors", "data", "message"),
    [
        ({}, b"", "holds no weights"),
        ({"w": ("I32", [1], [0, 4])}, bytes(4), "tensor 'w' is I32, not one of F32, F16, BF16"),
        ({"w": ("F64", [1], [0, 8])}, bytes(8), "tensor 'w' is F64, not one of F32, F16, BF16"),
        ({"w": ("F16", [1], [0, 2])}, np.array([np.inf], "<f2").tobytes(), "tensor 'w' holds NaN or infinite"),
        ({"w": ("F32", [2], [0, 8])}, np.array([1, np.nan], "<f4").tobytes(), "tensor 'w' holds NaN or infinite"),
        ({"w": ("F32", [2], [0, 8])}, np.array([-np.inf, 1], "<f4").tobytes(), "tensor 'w' holds NaN or infinite"),
        ({"w": ("F32", [1], [0, 4]), "v": ("F32", [1], [0, 4])}, bytes(4), "damaged or cut short"),
        ({"w": ("F32", [1], [4, 8])}, bytes(8), "damaged or cut short"),
        ({"w": ("F32", [1], [0, 4])}, bytes(3), "damaged or cut short"),
        ({"w": ("F32", [1], [0, 4])}, bytes(5), "damaged or cut short"),
        ({"w": ("F32", [3], [0, 4])}, bytes(4), "damaged or cut short"),
        ({"w": ("F32", [2**62, 4], [0, 0])}, b"", "damaged or cut short"),
        ({"w": ("F32", [0, 2**63], [0, 0])}, b"", "tensor 'w' has the impossible shape [0, 9223372036854775808]"),
        ({"a": ("F32", [1], [0, 4]), "a/b": ("F32", [1], [4, 8])}, bytes(8), "tensor 'a/b' lies inside another"),
        ({"a/": ("F32", [1], [0, 4])}, bytes(4), "tensor 'a/' is no place in a tree"),
        ({"w": ("F32", [1], [0, 4])}, bytes(4), "damaged: its weights are not those that were saved"),
    ],
)
def test_wrong_tensors_are_named(teacher_file, tensors, data, message):
    header, _ = parts(teacher_file)
    entries = {n: {"dtype": d, "shape": s, "data_offsets": o} for n, (d, s, o) in tensors.items()}
    write_parts(teacher_file, {"__metadata__": header["__metadata__"], **entries}, data)
    assert refusal(teacher_file).startswith(message)


def test_every_truncation_is_refused(teacher_file, tmp_path):
    data = teacher_file.read_bytes()
    path = tmp_path / "cut"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refusal(path)


def only_a_user_error_or_the_teacher(path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        params, metadata = read_teacher(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        # A flipped bit may change a text of the metadata, but never the weights.
        assert_same_params(params, PARAMS)
        assert isinstance(metadata, TeacherMetadata)


fuzzed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_cause_another_error_nor_other_weights(teacher_file, flips):
    data = bytearray(teacher_file.read_bytes())
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    only_a_user_error_or_the_teacher(teacher_file.with_name("fuzzed"), bytes(data))


@fuzzed
@given(start=st.integers(0, 3000), stop=st.integers(0, 3000), insert=st.binary(max_size=40))
@example(start=0, stop=8, insert=b"\xff" * 8)
def test_spliced_bytes_never_cause_another_error_nor_other_weights(teacher_file, start, stop, insert):
    data = teacher_file.read_bytes()
    only_a_user_error_or_the_teacher(teacher_file.with_name("fuzzed"), data[:start] + insert + data[stop:])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@fuzzed
@given(field=st.sampled_from([f.name for f in dataclasses.fields(TeacherMetadata)]), value=json_values, data=st.data())
def test_any_json_in_any_field_is_read_or_refused(teacher_file, field, value, data):
    path = teacher_file.with_name("fuzzed")
    path.write_bytes(teacher_file.read_bytes())
    metadata = METADATA
    if data.draw(st.booleans()):
        added = new(normalisation={"inventory": STATISTICS})
        metadata = dataclasses.replace(METADATA, **added)
        with_metadata(path, format_version=4, **added)
    inner = getattr(metadata, field)
    for outer in (inner, *inner.values()) if isinstance(inner, dict) else ():
        if isinstance(outer, dict) and outer and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(outer)))
            value = outer | {name: value} if outer is inner else inner | {"inventory": outer | {name: value}}
            break
    with_metadata(path, **{field: value})
    only_a_user_error_or_the_teacher(path, path.read_bytes())


SHAPES = {"torso": {"kernel": (3, 4), "bias": (4,)}, "scale": ()}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"torso": {"kernel": (3, 4)}, "scale": ()}, r"x: tensor 'torso/bias' \(4,\) is missing"),
        ({"torso": {"kernel": (3, 4), "bais": (4,)}, "scale": ()}, r"is missing; did you mean 'torso/bais'"),
        (SHAPES | {"head": (2,)}, r"x: tensor 'head' \(2,\) does not belong to the network"),
        ({"torso": {"kernel": (4, 3), "bias": (4,)}, "scale": ()}, r"'torso/kernel' has shape \(4, 3\), .* \(3, 4\)"),
        ({"torso": {"kernel": (3, 4), "bias": (4,)}, "scale": (1,)}, r"'scale' has shape \(1,\), .* needs \(\)"),
        ({"torso": (1,), "scale": ()}, r"'torso/bias' \(4,\) is missing"),
    ],
)
def test_parameters_of_another_network_are_named(params, message):
    def filled(tree):
        return {k: filled(v) if isinstance(v, dict) else np.zeros(v, np.float32) for k, v in tree.items()}

    check_params(filled(SHAPES), SHAPES, "x")
    with pytest.raises(UserError, match=message):
        check_params(filled(params), SHAPES, "x")


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8), ("float32", 24)])
def test_weights_are_read_back_as_they_were_rounded(tmp_path, dtype, bits):
    params = {"w": np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32), "b": np.zeros(3, np.float32)}
    save_teacher(tmp_path / "t", params, METADATA, dtype=dtype)
    read, metadata = read_teacher(tmp_path / "t")
    assert metadata == METADATA and read["w"].dtype == np.float32
    np.testing.assert_allclose(read["w"], params["w"], rtol=2.0**-bits)
    assert (read["w"] == params["w"]).all() == (dtype == "float32")
    expected_bytes = read["w"].size * {"float32": 4}.get(dtype, 2)
    assert expected_bytes < (tmp_path / "t").stat().st_size < expected_bytes + 3000
    # Saved again, they are the very same: there is nothing left to round.
    save_teacher(tmp_path / "again", read, METADATA, dtype=dtype)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()
    assert parts(tmp_path / "t")[0]["w"]["dtype"] == {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_flipped_bit_of_a_half_precision_weight_is_noticed(tmp_path, dtype):
    save_teacher(tmp_path / "t", {"w": np.ones(8)}, METADATA, dtype=dtype)
    data = bytearray((tmp_path / "t").read_bytes())
    data[-1] ^= 1
    (tmp_path / "t").write_bytes(bytes(data))
    assert refusal(tmp_path / "t").startswith("damaged: its weights are not those that were saved")


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        ("float16", [1.0, 65520.0], "w holds weights too large for float16; use another dtype"),
        ("float16", [0.0, 1e-9], "w would be all zeros in float16; use another dtype"),
        ("bfloat16", [3.4e38], "w holds weights too large for bfloat16; use another dtype"),
        ("float8", [1.0], "'float8' is not one of float32, float16, bfloat16"),
    ],
)
def test_weights_that_half_precision_does_not_hold_are_not_written(tmp_path, dtype, values, message):
    with pytest.raises(UserError) as refused:
        save_teacher(tmp_path / "t", {"w": np.array(values)}, METADATA, dtype=dtype)
    assert str(refused.value) == f"{tmp_path / 't'}: not written: {message}"
    assert not os.listdir(tmp_path)


def test_what_imported_networks_need_is_read_back(tmp_path):
    imported = dataclasses.replace(
        METADATA, activation="tanh", support=(-1.0, 0.5, 2.0), source_format="cleanrl", source_sha256="0a" * 32
    )
    save_teacher(tmp_path / "t", PARAMS, imported)
    assert read_teacher(tmp_path / "t")[1] == imported


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "gelu"}, "metadata: activation is 'gelu', not 'relu' or 'tanh'"),
        ({"activation": None}, "metadata: activation is None, not 'relu' or 'tanh'"),
        ({"support": [1.0]}, "metadata: support is [1.0], not a list of 2 to 1024 numbers that rise, or none"),
        ({"support": [1.0, 1.0]}, "metadata: support is [1.0, 1.0], not a list"),
        ({"support": [2.0, 1.0]}, "metadata: support is [2.0, 1.0], not a list"),
        ({"support": [0, 1e39]}, "metadata: support is [0, 1e+39], not a list"),
        ({"support": ["a", "b"]}, "metadata: support is ['a', 'b'], not a list"),
        ({"support": list(range(1025))}, "metadata: support is [0, 1, 2, 3, 4, 5, ...], not a list"),
        ({"source_format": "\n"}, r"metadata: source_format is '\n', not a short printable text"),
        ({"source_sha256": "0" * 63}, "metadata: source_sha256 is '000000000000...0000000000000', not 64 hex"),
        ({"source_sha257": ""}, "metadata: 'source_sha257' is not a field; did you mean 'source_sha256'?"),
    ],
)
def test_impossible_sources_and_heads_are_refused(teacher_file, changes, message):
    with_metadata(teacher_file, **changes)
    assert refusal(teacher_file).startswith(message)


def test_files_of_the_first_format_are_read_with_defaults(teacher_file):
    new = ("activation", "support", "source_format", "source_sha256")
    with_metadata(teacher_file, format_version=1, **dict.fromkeys(new, ...))
    params, metadata = read_teacher(teacher_file)
    assert_same_params(params, PARAMS)
    assert metadata == dataclasses.replace(METADATA, format_version=1)
    assert [getattr(metadata, name) for name in new] == ["relu", (), "", ""]
    # Written anew, a file says what its writer may have put into it.
    save_teacher(teacher_file, params, metadata, dtype="float16")
    assert read_teacher(teacher_file)[1].format_version == 2
