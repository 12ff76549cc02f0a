"""Values out of JSON and YAML that anyone may have written, checked one by one.

Every function takes the mapping, the key, and ``where``: what messages begin with, such as
``"runs/pong/summary.json: games.pong."``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pd_jax.errors import UserError
from pd_jax.system.text import printable, show

# Squares of scores and their sums stay finite.
_LARGEST = 1e100


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
