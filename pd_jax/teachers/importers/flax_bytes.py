"""What ``flax.serialization.to_bytes`` writes, read from strangers: msgpack with arrays as extensions.

Flax's own reader trusts its input: it takes any dtype and any nesting. This one builds dicts by name, plain values and
arrays of numbers, and gives up before a small file becomes large in memory.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import ml_dtypes
import msgpack
import numpy as np

from pd_jax.teachers.metadata import Malformed

# Flax's extension types: an array, and a NumPy scalar, which it packs as an array.
_ARRAY, _SCALAR = 1, 3
_MAX_DIMENSIONS = 8
# An empty dict takes one byte in a file and 64 in memory.
_MAX_DICTS = 2000
_MAX_KEYS = 2000
_DTYPES: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16} | {
    name: np.dtype(name).newbyteorder("<")
    for name in "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
}


def restore(data: bytes) -> dict[str, Any]:
    """Reads a tree of nested dicts.

    Returns:
      The tree. Its leaves are None, bools, numbers, texts and arrays of numbers.

    Raises:
      Malformed: it is not such a tree, or announces more than the file holds.
    """
    dicts = 0

    def build(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        nonlocal dicts
        dicts += 1
        if dicts > _MAX_DICTS:
            raise Malformed(f"holds more than {_MAX_DICTS} dicts; a network has a few")
        tree = dict(pairs)
        if len(tree) < len(pairs) or not all(isinstance(name, str) for name in tree):
            raise Malformed("holds a name twice, or one that is no text")
        return tree

    try:
        tree = msgpack.unpackb(
            data,
            object_pairs_hook=build,
            ext_hook=_extension,
            raw=False,
            strict_map_key=True,
            # Flax turns lists into dicts, so there are none; those of a stranger may not nest.
            max_array_len=0,
            max_map_len=_MAX_KEYS,
        )
    # What msgpack raises is a ValueError or a class of its own; deep nesting is a RecursionError in some versions.
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(f"not a model of Flax, or a damaged one ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(tree, dict):
        raise Malformed("not a model of Flax: it holds no tree of parameters")
    return tree


def _extension(code: int, data: bytes) -> Any:
    if code not in (_ARRAY, _SCALAR):
        raise Malformed(f"holds a value of the unknown type {code}")
    array = _array(data)
    return array if code == _ARRAY or array.ndim else array.item()


def _array(data: bytes) -> np.ndarray:
    """An array that Flax packed as ``(shape, dtype's name, bytes)``."""
    parts = msgpack.unpackb(
        data, raw=True, use_list=True, max_array_len=_MAX_DIMENSIONS, max_map_len=0, ext_hook=_refuse
    )
    if not isinstance(parts, list) or len(parts) != 3:
        raise Malformed("holds an array without shape, type and numbers")
    shape, name, numbers = parts
    name = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    if name not in _DTYPES or not isinstance(numbers, bytes):
        raise Malformed(f"holds an array of the type {name[:40]!r}, which is no number's")
    dtype = _DTYPES[name]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise Malformed("holds an array of an impossible shape")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(numbers):
        raise Malformed(f"announces an array of shape {str(shape)[:80]} and holds {len(numbers):,} bytes of it")
    return np.frombuffer(numbers, dtype).reshape(shape)


def _refuse(code: int, data: bytes) -> NoReturn:
    raise Malformed("holds an array inside an array")
