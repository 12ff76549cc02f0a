"""What ``torch.save`` writes, in its present format (a zip archive) and in that before PyTorch 1.6, without PyTorch.

Both hold pickles, which are programs. Here their instructions are read and none of what they name is looked up or
called: containers and plain values are built, tensors become arrays, and whatever else there is becomes a :class:`Made`
that only says what it would have been.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from pd_jax.teachers.formats import TORCH_BEFORE_1_6
from pd_jax.teachers.importers import archives
from pd_jax.teachers.metadata import Malformed

# A network's own is a few kB; with a policy's settings, tens.
_MAX_PICKLE_BYTES = 2**24
_MAX_STORAGE_BYTES = 2**28
_MAX_DIMENSIONS = 8
# All tensors together, which may share what they are stored in.
_MAX_NUMBERS = 2**27
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
# What reading a damaged pickle comes across.
_DAMAGE = (ValueError, IndexError, TypeError, KeyError, OverflowError, UnicodeError, AttributeError, EOFError)


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, such as ``torch.nn.modules.activation.ReLU``."""

    path: str


@dataclasses.dataclass
class Made:
    """What a pickle would have made by calling something: that, its arguments, and the state it would have got."""

    function: str
    arguments: Any = ()
    state: Any = None


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

    def resolve(self, tree: Any, depth: int = 0) -> Any:
        """Of dicts, which is where weights are; tensors deeper in other things stay what they are."""
        if isinstance(tree, _Tensor):
            return self._array(tree)
        if isinstance(tree, dict) and depth < 4:
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


def _interpret(file: BinaryIO, sizes: dict[str, int] | None = None) -> Any:
    """Follows one pickle to its end; ``sizes`` takes the bytes of a number of each storage, by its key."""
    machine = _Machine(sizes if sizes is not None else {})
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except _DAMAGE as error:
        raise Malformed(f"not a file of PyTorch's, or a damaged one ({_one_line(error)})") from None
    raise Malformed("not a file of PyTorch's, or one that was cut short")


_MARK = object()
_VALUES = frozenset(
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Made("builtins.set"),
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})


class _Machine:
    """The stack and the memo of a pickle; of its instructions those that make something are only noted."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._sizes = sizes

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in _PUTS:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise Malformed(f"is a pickle with the instruction {name}, which no file of weights has; not followed")
            action(argument)

    def _marked(self) -> list[Any]:
        """What lies above the last mark; both leave the stack."""
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._set(items)

    def _frozenset(self, _: Any) -> None:
        self._marked()
        self.stack.append(Made("builtins.frozenset"))

    def _additems(self, _: Any) -> None:
        self._marked()

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, items: list[Any]) -> None:
        """Pairs go into a dict; what would be another object's, or has no plain key, is of no use here."""
        if isinstance(self.stack[-1], dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            self.stack[-1].update((key, value) for key, value in pairs if isinstance(key, str | int | float))

    def _global(self, argument: str) -> None:
        self.stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        path = function.path if isinstance(function, Name) else ""
        if path == "collections.OrderedDict":
            self.stack.append({})
        elif path == "torch._utils._rebuild_tensor_v2":
            self.stack.append(_tensor(*arguments[:4]))
        elif path == "torch._utils._rebuild_parameter":
            self.stack.append(arguments[0])
        else:
            self.stack.append(Made(path, arguments))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        """``("storage", its class, key, device, numbers, ...)``; before 1.6 also ``("module", its class, ...)``."""
        kind, name, key, *_rest = self.stack.pop()
        if kind == "module":
            self.stack.append(name)
            return
        storage = name.path.rpartition(".")[2]
        if kind != "storage" or not isinstance(key, str) or storage not in _DTYPES:
            raise Malformed(f"holds a tensor of the type {storage[:40]!r}, which is not read")
        if _rest[2:] and _rest[2] is not None:
            raise Malformed("holds storages inside one another; save the weights anew")
        dtype = _DTYPES[storage]
        self._sizes[key] = dtype.itemsize
        self.stack.append(_Storage(key, dtype))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    whole = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not whole or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise Malformed("holds a tensor of an impossible shape")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
