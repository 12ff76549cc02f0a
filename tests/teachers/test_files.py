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

from pd_jax.cli import main
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.checks import build_network
from pd_jax.teachers.files import check_params, fingerprint, params_fingerprint, read_teacher, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata, to_fields
from support.commands import refusal as refusal_of_command
from support.commands import write_teacher

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
    write_parts(teacher_file, header | {"__metadata__": {"pd_jax": '{"format_version": 6}'}}, tensors)
    assert refusal(teacher_file) == (
        "is in teacher format 6, newer than the format 5 that this pd_jax reads: upgrade pd_jax"
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


NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda n: n != "observation"
)
FINITE = st.floats(-1e30, 1e30)


@st.composite
def normalised(draw, shape):
    """Statistics of an observation, in numbers or in lists of its shape."""

    def filled(values):
        lists = np.asarray(draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
        return lists.reshape(shape).tolist()

    mean = draw(FINITE) if draw(st.booleans()) else filled(FINITE)
    variance = draw(st.floats(0, 1e30)) if draw(st.booleans()) else filled(st.floats(0, 1e30))
    return {"mean": mean, "variance": variance, "count": draw(st.integers(1, 2**63 - 1) | st.floats(1e-4, 1e18))}


@st.composite
def of_version_4(draw):
    """Changes to the metadata that take version 4, and those that happen not to."""
    shapes = draw(st.dictionaries(NAMES, st.lists(st.integers(1, 3), min_size=1, max_size=3), max_size=3))
    observations = {name: {"kind": "vector", "shape": shape, "dtype": "float32"} for name, shape in shapes.items()}
    for specification in observations.values():
        specification.update(draw(st.sampled_from([{}, {"frame_stack": 4}, {"grey": False, "scaling": "1/255"}])))
    shapes = shapes | {"observation": [4]}
    of = draw(st.lists(st.sampled_from(sorted(shapes)), unique=True))
    return {
        "observation": {"kind": "vector", "shape": [4], "dtype": "float32"},
        "observations": observations,
        "normalisation": {name: draw(normalised(shapes[name])) for name in of},
        "evaluation": METADATA.evaluation | draw(st.sampled_from([{}, {"protocol": "no-op starts"}])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=of_version_4())
def test_what_version_4_holds_is_read_back_and_other_teachers_stay_in_version_2(tmp_path, changes):
    metadata = dataclasses.replace(METADATA, **changes)
    save_teacher(tmp_path / "t", PARAMS, metadata)
    params, read = read_teacher(tmp_path / "t")
    assert_same_params(params, PARAMS)
    is_new = changes["observations"] or changes["normalisation"] or "protocol" in changes["evaluation"]
    assert read == dataclasses.replace(metadata, format_version=4 if is_new else 2)
    once = (tmp_path / "t").read_bytes()
    save_teacher(tmp_path / "t", params, read)
    assert (tmp_path / "t").read_bytes() == once


def test_a_plain_teacher_has_the_fields_that_it_had_in_version_2():
    # As files were written before there was version 4, in their order.
    fields = (
        "format_version name game env_id network layer_norm hidden_sizes activation support num_actions action_names "
        "observation output algorithm env_steps seed training_config evaluation learning_curve how_made "
        "source_format source_sha256 licence created pd_jax_version"
    )
    assert list(to_fields([METADATA])) == fields.split()


APPLIED = {"observation": {"mean": 0.5, "variance": [1.0] * 4, "count": 9, "epsilon": 1e-8, "clip": 10.0}}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalisation": APPLIED},
        {"normalisation": {"observation": {"mean": 0, "variance": 1, "count": 1, "epsilon": 0}}},
        {"network": "dqn", "hidden": 256},
        {"network": "dqn", "head_sizes": (32, 16), "activation": "tanh"},
        *({"activation": name} for name in ("elu", "leaky_relu", "silu", "gelu")),
    ],
)
def test_what_version_5_holds_is_read_back_and_is_none_of_version_4(tmp_path, changes):
    observation = {"observation": {"kind": "vector", "shape": [4], "dtype": "float32"}}
    metadata = dataclasses.replace(METADATA, **(observation | changes))
    save_teacher(tmp_path / "t", PARAMS, metadata)
    assert read_teacher(tmp_path / "t")[1] == dataclasses.replace(metadata, format_version=5)
    assert metadata.untrainable != "" and METADATA.untrainable == ""
    with_metadata(tmp_path / "t", format_version=4)
    with pytest.raises(UserError, match=r"is not a field|not 'relu' or 'tanh'"):
        read_teacher(tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalisation": {"observation": APPLIED["observation"] | {"clip": -1}}}, "clip is -1, not a number above 0"),
        (
            {"normalisation": {"observation": APPLIED["observation"] | {"epsilon": None}}},
            "epsilon is None, not a number",
        ),
        ({"hidden": 0}, "hidden is 0, not a whole number"),
        ({"head_sizes": [0]}, "head_sizes is [0], not a list of whole numbers"),
        ({"activation": "mish"}, "activation is 'mish', not one of relu, tanh, elu"),
        ({"observation": {"kind": "vector", "shape": [3], "dtype": "float32"}}, "variance is [1.0, 1.0, 1.0, 1.0]"),
    ],
)
def test_wrong_fields_of_version_5_are_named(tmp_path, changes, message):
    observation = {"kind": "vector", "shape": [4], "dtype": "float32"}
    save_teacher(tmp_path / "t", PARAMS, dataclasses.replace(METADATA, observation=observation, normalisation=APPLIED))
    with_metadata(tmp_path / "t", **changes)
    assert message in refusal(tmp_path / "t")


INVENTORY = {"kind": "vector", "shape": [2], "dtype": "float32"}
STATISTICS = {"mean": [0.0, 1.0], "variance": 1.0, "count": 100}


def new(observations=None, normalisation=None, **changes) -> dict:
    further = {"inventory": INVENTORY} if observations is None else observations
    return {"observations": further, "normalisation": normalisation or {}} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (new(observatoins={}), "metadata: 'observatoins' is not a field; did you mean 'observation"),
        (new([]), "metadata: observations is [], not an object of at most 64 fields"),
        (new({str(i): INVENTORY for i in range(65)}), "metadata: observations is {'0': "),
        (new({"": INVENTORY}), "metadata: observations: '' is not a short printable name"),
        (new({"\x1b[2J": INVENTORY}), r"metadata: observations: '\x1b[2J' is not a short printable name"),
        (new({"observation": INVENTORY}), "metadata: observations: 'observation' is the name of the main one"),
        (new({"map": 3}), "metadata: observations: map is 3, not an object"),
        (new({"map": {"kind": "atari", "dtype": "uint8"}}), "metadata: observations: map: shape is missing"),
        (
            new({"map": INVENTORY | {"shpae": [3]}}),
            "metadata: observations: map: 'shpae' is not a field; did you mean 's",
        ),
        (new({"map": INVENTORY | {"kind": "text"}}), "metadata: observations: map: kind is 'text', not 'atari' or"),
        (new({"map": INVENTORY | {"dtype": []}}), "metadata: observations: map: dtype is [], not 'uint8' or 'float32'"),
        (new({"map": INVENTORY | {"shape": []}}), "metadata: observations: map: shape is [], not a list of 1 to 8"),
        (new({"map": INVENTORY | {"shape": [True]}}), "metadata: observations: map: shape is [True], not a list of 1"),
        (new({"map": INVENTORY | {"shape": [2] * 9}}), "metadata: observations: map: shape is [2, 2, 2, 2, 2, 2, ...]"),
        (new({"map": INVENTORY | {"shape": [60000] * 2}}), "metadata: observations: map: shape is [60000, 60000], not"),
        (new({"map": INVENTORY | {"frame_stack": 0}}), "metadata: observations: map: frame_stack is 0, not a whole"),
        (new({"map": INVENTORY | {"scaling": "\n"}}), r"metadata: observations: map: scaling is '\n', not a short"),
        (new(normalisation=[3]), "metadata: normalisation is [3], not an object"),
        (
            new(normalisation={"inventroy": STATISTICS}),
            "metadata: normalisation: 'inventroy' is not an observation; did you mean 'inventory'?",
        ),
        (new(normalisation={"inventory": 1}), "metadata: normalisation: inventory is 1, not an object"),
        (
            new(normalisation={"inventory": STATISTICS | {"std": 1}}),
            "metadata: normalisation: inventory: 'std' is not a field",
        ),
        (new(normalisation={"inventory": {"mean": 0}}), "metadata: normalisation: inventory: variance is missing"),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": [0.0]}}),
            "metadata: normalisation: inventory: mean is [0.0], not a finite number, or lists of them in the shape [2]",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": [[0.0, 0.0]]}}),
            "metadata: normalisation: inventory: mean is [[0.0, 0.0]], not",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": [0, True]}}),
            "metadata: normalisation: inventory: mean is [0, True], not",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"mean": 1e39}}),
            "metadata: normalisation: inventory: mean is 1e+39, not a finite number",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"variance": [1, -1]}}),
            "metadata: normalisation: inventory: variance is [1, -1], not a finite number >= 0, or lists",
        ),
        (
            new(normalisation={"inventory": STATISTICS | {"count": 0}}),
            "metadata: normalisation: inventory: count is 0, not a number above 0 and below 2^63",
        ),
        (
            new(normalisation={"observation": STATISTICS}),
            "metadata: normalisation: observation: mean is [0.0, 1.0], not a finite number, or lists of them in the "
            "shape [84, 84, 4]",
        ),
        (
            new(evaluation=METADATA.evaluation | {"protocol": ""}),
            "metadata: evaluation: protocol is '', not a short printable text",
        ),
        (
            new(evaluation=METADATA.evaluation | {"protocl": "no-op starts"}),
            "metadata: evaluation: 'protocl' is not a field; did you mean 'protocol'?",
        ),
    ],
)
def test_wrong_fields_of_version_4_are_named_and_not_written(teacher_file, tmp_path, changes, message):
    with_metadata(teacher_file, format_version=4, **changes)
    assert refusal(teacher_file).startswith(message)
    if changes.keys() <= {field.name for field in dataclasses.fields(TeacherMetadata)}:
        with pytest.raises(ValueError) as caught:
            save_teacher(tmp_path / "new", PARAMS, dataclasses.replace(METADATA, **changes))
        assert str(caught.value).startswith(message)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("field", ["observations", "normalisation"])
@pytest.mark.parametrize("nothing", [None, [], 0, ""])
def test_nothing_of_another_type_is_not_taken_for_no_observations(tmp_path, field, nothing):
    with pytest.raises(ValueError, match=f"metadata: {field} is "):
        save_teacher(tmp_path / "t", PARAMS, dataclasses.replace(METADATA, **{field: nothing}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("field", ["observations", "normalisation"])
def test_fields_of_version_4_are_none_of_the_versions_before(teacher_file, version, field):
    with_metadata(teacher_file, format_version=version, **{field: {}})
    assert refusal(teacher_file).startswith(f"metadata: {field!r} is not a field")


def test_the_versions_before_let_an_evaluation_say_more(teacher_file):
    evaluation = METADATA.evaluation | {"protocol": {"starts": "no-op"}}
    with_metadata(teacher_file, evaluation=evaluation)
    assert read_teacher(teacher_file)[1].evaluation == evaluation


def test_statistics_that_no_reader_would_take_are_not_written(tmp_path):
    shape = [2**9, 2**9]
    many = np.full(shape, 1.2345678901234567).tolist()
    names = ("a", "b", "c")
    metadata = dataclasses.replace(
        METADATA,
        observations={name: INVENTORY | {"shape": shape} for name in names},
        normalisation={name: {"mean": many, "variance": many, "count": 1} for name in names},
    )
    with pytest.raises(ValueError, match="metadata: takes more than 16777216 bytes"):
        save_teacher(tmp_path / "t", PARAMS, metadata)
    wide = [2**9, 2**9 + 1]
    metadata = dataclasses.replace(
        METADATA,
        observations={"a": INVENTORY | {"shape": wide}},
        normalisation={"a": {"mean": np.zeros(wide).tolist(), "variance": 1, "count": 1}},
    )
    with pytest.raises(ValueError, match="normalisation: a: mean is "):
        save_teacher(tmp_path / "t", PARAMS, metadata)
    assert not os.listdir(tmp_path)


NEEDS = [
    ({"observations": {"inventory": INVENTORY}}, "the further observations ['inventory']"),
    (
        {"normalisation": {"observation": {"mean": 0, "variance": 1, "count": 9}}},
        "frozen normalisation of ['observation']",
    ),
    (
        {"observations": {"inventory": INVENTORY}, "normalisation": {"inventory": STATISTICS}},
        "the further observations ['inventory'] and frozen normalisation of ['inventory']",
    ),
]


@pytest.mark.parametrize(("changes", "needs"), NEEDS)
def test_a_teacher_that_needs_what_cannot_be_applied_is_shown_and_not_used(tmp_path, capfd, changes, needs):
    path = write_teacher(tmp_path / "t.safetensors", "cartpole", **changes)
    message = f"needs {needs}, which this pd_jax cannot apply: upgrade pd_jax"
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(UserError) as caught:
        build_network(read_teacher(path)[1])
    assert str(caught.value) == message
    for argv in (["evaluate", "--teacher", str(path)], ["teachers", "show", str(path), "--states", "10"]):
        assert refusal_of_command(capfd, *argv).endswith(message)
    assert main(["teachers", "show", str(path)]) == 0
    shown = capfd.readouterr().out
    assert ("inventory" in shown) == ("inventory" in needs)
    assert ("of 9 observations" in shown or "of 100 observations" in shown) == ("normalisation" in needs)


def test_a_protocol_is_shown_and_keeps_no_teacher_from_use(tmp_path, capfd):
    path = write_teacher(
        tmp_path / "t.safetensors", "cartpole", evaluation=METADATA.evaluation | {"protocol": "human starts"}
    )
    assert load(path).metadata.format_version == 4
    assert main(["teachers", "show", str(path)]) == 0
    assert "over 30 episodes under human starts; ε = 0.05" in capfd.readouterr().out
