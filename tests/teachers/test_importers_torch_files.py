"""What PyTorch saves, read without it: its two formats, and files that are made to hurt."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from pd_jax.teachers.importers import torch_files
from pd_jax.teachers.importers.pickles import Made, Name
from pd_jax.teachers.importers.torch_files import read_torch
from pd_jax.teachers.metadata import Malformed

FORMATS = pytest.mark.parametrize("is_new", [True, False], ids=["zip", "before 1.6"])


def saved(value: Any, is_new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=is_new)
    return buffer.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        read_torch(data)
    message = str(refused.value)
    assert "\n" not in message and message.isprintable()
    return message


@FORMATS
def test_tensors_of_every_type_and_layout_are_read_as_pytorch_reads_them(is_new):
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
    tensors = {
        "plain": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1, 1:, ::2],
        "shared": base,
        "scalar": torch.tensor(2.5),
        "empty": torch.ones(0, 3),
        "parameter": torch.nn.Parameter(base + 1),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "ints": torch.arange(5),
        "bools": torch.tensor([True, False]),
    }
    tensors |= {str(dtype): base.to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)}
    read = read_torch(saved(collections.OrderedDict(tensors), is_new))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wanted = tensor.detach().float().numpy() if tensor.is_floating_point() else tensor.numpy()
        np.testing.assert_array_equal(read[name], wanted)
        assert read[name].dtype == wanted.dtype and read[name].shape == wanted.shape


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


@FORMATS
def test_objects_are_noted_and_nothing_is_run(is_new, tmp_path):
    value = {"weights": {"w": torch.ones(2)}, "x": Payload(tmp_path / "ran"), "kind": torch.nn.Tanh, "args": (1, "a")}
    read = read_torch(saved(value, is_new))
    np.testing.assert_array_equal(read["weights"]["w"], [1, 1])
    assert read["kind"] == Name("torch.nn.modules.activation.Tanh") and read["args"] == (1, "a")
    assert isinstance(read["x"], Made) and read["x"].function in ("builtins.exec", "__builtin__.exec")
    assert not os.path.exists(tmp_path / "ran")
    torch.load(io.BytesIO(saved(value, is_new)), weights_only=False)
    assert os.path.exists(tmp_path / "ran"), "the payload is no dummy"


def test_every_plain_value_is_read_from_every_protocol():
    value = [None, True, False, 0, 255, 65535, -7, 2**40, -(2**70), 1.5, "text", "ü" * 300, b"bytes", (), (1,), (1, 2)]
    value += [(1, 2, 3), (1, 2, 3, 4), [], [[1]], {}, {"a": {"b": 1}, 3: 4}, bytearray(b"x")]
    for protocol in (2, 3, 4, 5):
        buffer = io.BytesIO()
        torch.save(value, buffer, pickle_protocol=protocol)
        read = read_torch(buffer.getvalue())
        assert len(read) == len(value)
        for ours, theirs in zip(read, value, strict=True):
            # Before protocol 3 and 5, bytes and bytearrays are made by functions.
            assert ours == theirs or (isinstance(ours, Made) and isinstance(theirs, bytes | bytearray))


def test_a_program_of_torchscript_is_refused_with_what_to_do(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    assert refusal((tmp_path / "m.pt").read_bytes()).startswith("is a TorchScript program; save the weights alone")


def archive(program: bytes, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", program)
        for name, content in members.items():
            file.writestr(f"a/{name.replace('_', '/')}", content)
    return buffer.getvalue()


def rebuilt(shape: Any = (2,), strides: Any = (1,), offset: Any = 0, storage: str = "FloatStorage") -> bytes:
    """A pickle of ``{"w": tensor}``, put together by hand."""
    persistent = (
        b"(X\x07\x00\x00\x00storagectorch\n" + storage.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    )
    values = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, shape, strides))
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + values + b"\x89NtR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


def test_the_pickles_of_these_tests_are_good_ones():
    np.testing.assert_array_equal(read_torch(archive(rebuilt(), data_0=np.float32([3, 4]).tobytes()))["w"], [3, 4])


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (rebuilt(shape=(3,)), "holds a tensor without the numbers that its shape announces"),
        (rebuilt(shape=(2**30, 2**30), strides=(0, 0)), "holds a tensor without the numbers that its shape announces"),
        (rebuilt(strides=(2,)), "holds a tensor without the numbers that its shape announces"),
        (rebuilt(offset=1), "holds a tensor without the numbers that its shape announces"),
        (rebuilt(offset=-1), "holds a tensor of an impossible shape"),
        (rebuilt(strides=(-1,)), "holds a tensor of an impossible shape"),
        (rebuilt(shape=(True,)), "holds a tensor of an impossible shape"),
        (rebuilt(strides=(1, 1)), "holds a tensor of an impossible shape"),
        (rebuilt(shape=(1,) * 9, strides=(1,) * 9), "holds a tensor of an impossible shape"),
        (rebuilt(shape=None), "not a file of PyTorch's, or a damaged one"),
        (rebuilt(storage="ComplexFloatStorage"), "holds a tensor of the type 'ComplexFloatStorage', which is not read"),
        (b"", "not a file of PyTorch's, or"),
        (b"\x80\x02", "not a file of PyTorch's, or"),
        (b"\x80\x02.", "not a file of PyTorch's, or a damaged one"),
        (b"\x80\x02h\x05.", "not a file of PyTorch's, or a damaged one"),
        (b"\x80\x02Q.", "not a file of PyTorch's, or a damaged one"),
        (b"\x80\x02NQ.", "not a file of PyTorch's, or a damaged one"),
        (b"\x80\x02t.", "not a file of PyTorch's, or a damaged one"),
        (b"\x80\x02(ios\nsystem\n.", "is a pickle with the instruction INST, which no file of weights has"),
        (b"\x80\x02\x82\x01.", "is a pickle with the instruction EXT1, which no file of weights has"),
        (b"I" + b"9" * 100_000 + b"\n.", "not a file of PyTorch's, or a damaged one"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "not a file of PyTorch's, or a damaged one"),
    ],
)
def test_programs_that_do_not_fit_together_are_refused(program, complaint):
    assert refusal(archive(program, data_0=np.float32([3, 4]).tobytes())).startswith(complaint)


def test_what_is_missing_or_of_another_machine_is_refused():
    assert refusal(archive(rebuilt())).startswith("is cut short, or damaged")
    assert refusal(archive(rebuilt(), data_0=bytes(8), byteorder=b"big")).startswith("was saved on a machine with")
    assert refusal(b"PK").startswith("not a zip archive, or a damaged one")
    with io.BytesIO() as buffer, zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x", b"")
        file.close()
        assert refusal(buffer.getvalue()).startswith("not a file of PyTorch's: it holds no 'data.pkl'")


def test_tensors_that_share_a_few_numbers_cannot_fill_the_memory():
    tensors = {str(index): torch.ones(1) for index in range(3)}
    shared = torch.ones(2**20)
    tensors |= {f"s{index}": shared for index in range(200)}
    assert refusal(saved(tensors)) == "would unpack to more numbers than any agent has"


def test_dicts_that_are_in_one_another_many_times_over_are_not_followed(monkeypatch):
    monkeypatch.setattr(torch_files, "_MAX_ENTRIES", 2000)
    tree: Any = torch.ones(1)
    for _ in range(4):
        tree = {f"n{index}": tree for index in range(100)}
    assert refusal(saved(tree)) == "holds more names than any agent's weights"


@FORMATS
def test_every_truncation_and_flipped_byte_is_refused_or_read(is_new):
    whole = saved({"a": torch.randn(3, 4), "b": {"c": torch.ones(2)}, "d": torch.nn.ReLU}, is_new)
    rng = np.random.default_rng(0)
    for length in range(0, len(whole), 11):
        refusal(whole[:length])
    for _ in range(500):
        data = bytearray(whole)
        data[rng.integers(0, len(data))] ^= int(rng.integers(1, 256))
        try:
            read_torch(bytes(data))
        except Malformed as problem:
            assert "\n" not in str(problem)
