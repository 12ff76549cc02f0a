"""What ``torch.save`` writes, in its present format (a zip archive) and in that before PyTorch 1.6, without PyTorch.

Both hold pickles, which `pd_jax.teachers.importers.pickles` reads as data. Tensors become arrays.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from pd_jax.teachers.formats import TORCH_BEFORE_1_6
from pd_jax.teachers.importers import archives
from pd_jax.teachers.importers.pickles import PickleMachine, interpret
from pd_jax.teachers.metadata import Malformed

# A network's own is a few kB; with a policy's settings, tens.
_MAX_PICKLE_BYTES = 2**24
_MAX_STORAGE_BYTES = 2**28
_MAX_DIMENSIONS = 8
# All tensors together, which may share what they are stored in.
_MAX_NUMBERS = 2**27
# Dicts may be in others many times over.
_MAX_DEPTH = 4
_MAX_ENTRIES = 2**20
_PROTOCOL_VERSION = 1001
_DTYPES: Mapping[str, Any] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("bool"),
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: Any


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_torch_archive(names: Any) -> bool:
    """Whether these are the members of a zip archive of ``torch.save``."""
    return any(name == "data.pkl" or name.endswith("/data.pkl") for name in names)


def read_torch(data: bytes) -> Any:
    """Reads a file whole.

    Returns:
      Dicts, lists, tuples and plain values; tensors as arrays, of float32 where they are floats; :class:`Name` and
      :class:`Made` for what would be objects.

    Raises:
      Malformed: it is no such file, is damaged, or announces more than it holds.
    """
    if data.startswith(TORCH_BEFORE_1_6):
        return _read_legacy(io.BytesIO(data))
    return _read_archive(io.BytesIO(data))


def _read_archive(file: BinaryIO) -> Any:
    names = archives.member_names(file)
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Malformed("not a file of PyTorch's: it holds no 'data.pkl', or several")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in names:
        raise Malformed("is a TorchScript program; save the weights alone: torch.save(module.state_dict(), FILE)")
    stored = {name: _MAX_STORAGE_BYTES for name in names if name.startswith(f"{prefix}data/")}
    members = archives.read_members(file, {pickles[0]: _MAX_PICKLE_BYTES, f"{prefix}byteorder": 16} | stored)
    if members.get(f"{prefix}byteorder", b"little") != b"little":
        raise Malformed("was saved on a machine with another order of bytes")
    tree = _interpret(io.BytesIO(members[pickles[0]]))
    return _Arrays(lambda key: members.get(f"{prefix}data/{key}")).resolve(tree)


def _read_legacy(file: BinaryIO) -> Any:
    """A magic number, a version, the machine, the object, the keys of its storages: pickles; and then the storages."""
    _interpret(file)
    if _interpret(file) != _PROTOCOL_VERSION:
        raise Malformed("is of an unknown version of PyTorch's old format")
    machine = _interpret(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Malformed("was saved on a machine with another order of bytes")
    sizes: dict[str, int] = {}
    tree = _interpret(file, sizes)
    keys = _interpret(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Malformed("is damaged: it does not list what it stores")
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        content = file.read(max(0, min(count * sizes.get(key, 0), _MAX_STORAGE_BYTES)))
        if key not in sizes or len(content) != count * sizes[key]:
            raise Malformed("is cut short, or damaged: it does not hold the numbers that it announces")
        storages[key] = content
    return _Arrays(storages.get).resolve(tree)


class _Arrays:
    """Puts arrays in the place of tensors."""

    def __init__(self, storage: Callable[[str], bytes | None]) -> None:
        self._storage = storage
        self._numbers = 0
        self._entries = 0

    def resolve(self, tree: Any, depth: int = 0) -> Any:
        """Of dicts, which is where weights are; tensors deeper in other things stay what they are."""
        if isinstance(tree, _Tensor):
            return self._array(tree)
        if isinstance(tree, dict) and depth < _MAX_DEPTH:
            self._entries += len(tree)
            if self._entries > _MAX_ENTRIES:
                raise Malformed("holds more names than any agent's weights")
            return {name: self.resolve(value, depth + 1) for name, value in tree.items()}
        return tree

    def _array(self, tensor: _Tensor) -> np.ndarray:
        dtype, shape, strides = tensor.storage.dtype, tensor.shape, tensor.strides
        content = self._storage(tensor.storage.key)
        if content is None:
            raise Malformed("is cut short, or damaged: it does not hold the numbers that it announces")
        held, wanted = len(content) // dtype.itemsize, math.prod(shape)
        last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # A stride of 0 lets a few bytes pass for any shape.
        if wanted > held or (wanted and not 0 <= tensor.offset <= last < held):
            raise Malformed("holds a tensor without the numbers that its shape announces")
        self._numbers += wanted
        if self._numbers > _MAX_NUMBERS:
            raise Malformed("would unpack to more numbers than any agent has")
        flat = np.frombuffer(content, dtype, count=held)[tensor.offset :]
        view = np.lib.stride_tricks.as_strided(flat, shape, [stride * dtype.itemsize for stride in strides])
        with np.errstate(over="ignore"):
            return np.array(view, np.float32 if dtype.kind in "fV" else dtype, order="C")


class _TorchMachine(PickleMachine):
    """Notes tensors, and the storages that they are parts of; ``sizes`` takes the bytes of a number of each storage, by
    its key."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self._sizes = sizes

    def call(self, path: str, arguments: Any) -> Any:
        if path == "collections.OrderedDict":
            return {}
        if path == "torch._utils._rebuild_tensor_v2":
            return _tensor(*arguments[:4])
        return arguments[0] if path == "torch._utils._rebuild_parameter" else super().call(path, arguments)

    def persistent(self, identity: Any) -> Any:
        """``("storage", its class, key, device, numbers, ...)``; before 1.6 also ``("module", its class, ...)``."""
        kind, name, key, *_rest = identity
        if kind == "module":
            return name
        storage = name.path.rpartition(".")[2]
        if kind != "storage" or not isinstance(key, str) or storage not in _DTYPES:
            raise Malformed(f"holds a tensor of the type {storage[:40]!r}, which is not read")
        if _rest[2:] and _rest[2] is not None:
            raise Malformed("holds storages inside one another; save the weights anew")
        dtype = _DTYPES[storage]
        self._sizes[key] = dtype.itemsize
        return _Storage(key, dtype)


def _interpret(file: BinaryIO, sizes: dict[str, int] | None = None) -> Any:
    """Follows one pickle to its end; ``sizes`` as the machine takes them."""
    return interpret(file, _TorchMachine(sizes if sizes is not None else {}), "a file of PyTorch's")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    whole = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not whole or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise Malformed("holds a tensor of an impossible shape")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))
