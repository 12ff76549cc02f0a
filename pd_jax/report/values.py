"""Values out of JSON and YAML that anyone may have written, checked one by one.

Every function takes the mapping, the key, and ``where``: what messages begin with, such as
``"runs/pong/summary.json: games.pong."``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pd_jax.errors import UserError
from pd_jax.system.text import printable, show

# Squares of scores and their sums stay finite.
_LARGEST = 1e100


@dataclasses.dataclass(frozen=True)
class Score:
    """The mean return of whole games.

    Attributes:
      mean: of undiscounted, unclipped returns.
      standard_error: of the mean, None where it is not known (one game).
      low, high: its 95 % interval, None likewise; of two pooled seeds the range of theirs.
      episodes: games played.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    episodes: int


def read_score(entry: Mapping[str, Any], who: str, where: str) -> Score | None:
    """The score of ``teacher`` or ``student`` in a game's entry; None if it did not play.

    Raises:
      UserError: a value has another type, or is impossible.
    """
    key = f"{who}_score"
    if key not in entry:
        return None
    mean = number(entry, key, where)
    if mean is None:
        raise UserError(f"{where}{key}: null is not a number")
    ends = entry.get(f"{who}_ci95")
    if ends is None:
        ends = (None, None)
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise UserError(f"{where}{who}_ci95: {show(ends)} is not an interval, a list of two numbers")
    low, high = (number({f"{who}_ci95": end}, f"{who}_ci95", where) for end in ends)
    if (low is None) != (high is None) or (low is not None and high is not None and not low <= high):
        raise UserError(f"{where}{who}_ci95: {show(ends[0])} to {show(ends[1])} is not an interval")
    error = number(entry, f"{who}_standard_error", where)
    if error is not None and error < 0:
        raise UserError(f"{where}{who}_standard_error: {show(error)} is negative")
    episodes = f"{who}_episodes" if f"{who}_episodes" in entry else "episodes"
    played = count(entry, episodes, where)
    if not played:
        raise UserError(f"{where}{episodes}: {show(played)} is not a number of games")
    return Score(mean, error, low, high, played)


def number(mapping: Mapping[str, Any], key: str, where: str) -> float | None:
    """A finite number; None where there is none.

    Raises:
      UserError: it is something else.
    """
    value = mapping.get(key)
    if value is None:
        return None
    # Compared before it becomes a float: JSON's whole numbers have no largest one.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise UserError(f"{where}{key}: {show(value)} is not a finite number")
    return float(value)


def count(mapping: Mapping[str, Any], key: str, where: str) -> int | None:
    """A whole number from 0 on; None where there is none.

    Raises:
      UserError: it is something else.
    """
    value = mapping.get(key)
    if value is not None and (type(value) is not int or not 0 <= value < 2**63):
        raise UserError(f"{where}{key}: {show(value)} is not a whole number from 0 on")
    return value


def word(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """A name, made printable.

    Raises:
      UserError: it is something else, or missing.
    """
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}{key}: {show(value)} is not a name")
    return printable(value)


def section(mapping: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """A mapping, empty where there is none.

    Raises:
      UserError: it is something else.
    """
    value = mapping.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{where}{key}: {show(value)} is not a mapping")
    return value


def flat(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys, its lists as tuples: values that can be compared and counted."""
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = _hashable(value)
    return values


def show_setting(value: Any) -> str:
    """A setting's value in a table: ``128-128`` for a list."""
    if isinstance(value, list | tuple):
        return "-".join(map(show_setting, value))
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return printable(value) if isinstance(value, str) else show(value)


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return tuple(flat(value).items()) if isinstance(value, dict) else value
