"""Further observations and frozen statistics, as the files of recordings and of teachers describe them."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pd_jax.errors import nearest

MAIN = "observation"
"""The name of the observation that every recording and every teacher has; no further one can have it."""
MAX_DIMENSION = 2**16
_MAX_OBSERVATIONS = 64
_MAX_RANK = 8
# Numbers of one observation: a stack of four colour frames of 1080p holds 25 million.
_MAX_SIZE = 2**25
# Numbers in a list of statistics. They are text: 2^18 take some 5 MB.
_MAX_STATISTICS = 2**18

Check = tuple[str, Callable[[Any], bool]]
"""What a value is to be, in words, and whether it is."""


def is_label(value: Any) -> bool:
    """Whether it is a short text without control characters: labels end up in terminals, tables and file names."""
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def is_float32(value: Any) -> bool:
    """Whether it is a finite number that float32 holds."""
    # Not math.isfinite, which raises OverflowError for an integer beyond float64.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2.0**127


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MAX_RANK:
        return False
    whole = all(type(length) is int and 1 <= length <= MAX_DIMENSION for length in value)
    return whole and math.prod(value) <= _MAX_SIZE


LABEL: Check = ("a short printable text", is_label)
SHAPE: Check = (f"a list of 1 to {_MAX_RANK} whole numbers from 1 to {MAX_DIMENSION}, of a sane product", _is_shape)
DTYPE: Check = ("'uint8' or 'float32'", lambda value: value in ("uint8", "float32"))
HOW_APPLIED: Mapping[str, Check] = {
    "epsilon": ("a number >= 0", lambda value: is_float32(value) and value >= 0),
    "clip": ("a number above 0", lambda value: is_float32(value) and value > 0),
}
"""What statistics of a teacher's observations may say of how they are applied: they are, where there is an epsilon."""
_COUNT: Check = (
    "a number above 0 and below 2^63",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**63,
)


def fault_in_fields(value: Any, required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> str:
    """Says what is wrong with an object that may have these fields and no others; ``""`` if nothing is."""
    if not isinstance(value, dict):
        return f" is {reprlib.repr(value)}, not an object"
    known = {**required, **(optional or {})}
    for name in sorted(value.keys() - known.keys()):
        return f": {reprlib.repr(name)} is not a field{nearest(name, known)}"
    for name, (wanted, holds) in known.items():
        if name not in value and name in required:
            return f": {name} is missing"
        if name in value and not holds(value[name]):
            return f": {name} is {reprlib.repr(value[name])}, not {wanted}"
    return ""


def fault_in_observations(
    value: Any, required: Mapping[str, Check], optional: Mapping[str, Check] | None = None
) -> str:
    """Says what is wrong with further observations; ``""`` if nothing is.

    Args:
      value: their specifications by name, as read from JSON.
      required: fields that a specification has, ``shape`` among them.
      optional: fields that it may have.
    """
    if not isinstance(value, dict) or len(value) > _MAX_OBSERVATIONS:
        return f"observations is {reprlib.repr(value)}, not an object of at most {_MAX_OBSERVATIONS} fields"
    for name, specification in value.items():
        if not is_label(name):
            return f"observations: {reprlib.repr(name)} is not a short printable name"
        if name == MAIN:
            return f"observations: {MAIN!r} is the name of the main one"
        if fault := fault_in_fields(specification, required, optional):
            return f"observations: {name}{fault}"
    return ""


def fault_in_normalisation(
    value: Any, shapes: Mapping[str, Sequence[int]], optional: Mapping[str, Check] | None = None
) -> str:
    """Says what is wrong with frozen statistics; ``""`` if nothing is.

    Args:
      value: ``mean``, ``variance`` and ``count`` by the name of the observation, as read from JSON.
      shapes: of all observations by name, the main one among them.
      optional: fields that statistics may have beside these three.
    """
    if not isinstance(value, dict):
        return f"normalisation is {reprlib.repr(value)}, not an object"
    for name, statistics in value.items():
        if name not in shapes:
            return f"normalisation: {reprlib.repr(name)} is not an observation{nearest(name, shapes)}"
        if fault := fault_in_statistics(statistics, shapes[name], optional):
            return f"normalisation: {name}{fault}"
    return ""


def fault_in_statistics(value: Any, shape: Sequence[int], optional: Mapping[str, Check] | None = None) -> str:
    """Says what is wrong with the statistics of one observation of this shape; ``""`` if nothing is."""
    return fault_in_fields(value, _statistics_of(shape), optional)


def unapplied(observations: Mapping[str, Any], normalisation: Mapping[str, Any]) -> str:
    """Says what this version reads and cannot apply, for a message; ``""`` if there is nothing of the kind."""
    parts = []
    if observations:
        parts.append(f"the further observations {reprlib.repr(sorted(observations))}")
    if normalisation:
        parts.append(f"frozen normalisation of {reprlib.repr(sorted(normalisation))}")
    return " and ".join(parts)


def _statistics_of(shape: Sequence[int]) -> dict[str, Check]:
    wanted = f"or lists of them in the shape {reprlib.repr(list(shape))}"
    return {
        "mean": (f"a finite number, {wanted}", lambda value: _fills(value, shape, is_float32)),
        "variance": (
            f"a finite number >= 0, {wanted}",
            lambda value: _fills(value, shape, lambda number: is_float32(number) and number >= 0),
        ),
        "count": _COUNT,
    }


def _fills(value: Any, shape: Sequence[int], holds: Callable[[Any], bool]) -> bool:
    """Whether it is one number for all entries, or nested lists with one for each."""
    if holds(value):
        return True
    if len(shape) > _MAX_RANK or math.prod(shape) > _MAX_STATISTICS:
        return False
    level = [value]
    for length in shape:
        if not all(isinstance(item, list | tuple) and len(item) == length for item in level):
            return False
        level = [inner for item in level for inner in item]
    return all(map(holds, level))
