"""Logs of decisions, one JSON line for each: what a machine in the field writes, and `pd_jax.deploy.monitor` reads.

A line has ``outputs`` (numbers; ``NaN`` is read too), and perhaps ``action`` (the greedy one by default), ``is_first``
(false by default), ``features``, ``teacher_action``, and ``policy``, the SHA-256 of its parameters. NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from pd_jax.deploy.signals import Decisions
from pd_jax.deploy.thresholds import Thresholds
from pd_jax.errors import UserError

_MAX_LINE = 2**20


class CutShort(Exception):
    """A log ended in the middle of its last line; all before was whole. ``str()`` says where."""


def logged_decisions(lines: IO[str], where: str, thresholds: Thresholds) -> Iterator[Decisions]:
    """The decisions of a log, as they come.

    Args:
      lines: the log.
      where: what messages call it.
      thresholds: of the policy whose log it is.

    Raises:
      UserError: a line is none of a decision, or of another policy's; what came before was yielded.
      CutShort: after the last whole line, if another was begun.
    """
    number = 0
    while line := lines.readline(_MAX_LINE):
        number += 1
        if not line.strip():
            continue
        at = f"{where}: line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            if not line.endswith("\n") and len(line) < _MAX_LINE:
                raise CutShort(f"{at}: the log ends in the middle of it; all before was counted") from None
            raise UserError(f"{at}: is not JSON") from None
        try:
            yield _decision(entry, at, thresholds)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{at}: {error}") from None


def _decision(entry: Any, at: str, thresholds: Thresholds) -> Decisions:
    if not isinstance(entry, dict) or "outputs" not in entry:
        raise UserError(f"{at}: has no outputs")
    if "policy" in entry:
        thresholds.check_policy(str(entry["policy"]), "the log's", at)
    outputs = _vector(entry["outputs"], "outputs")
    features = entry.get("features")
    default = int(np.nan_to_num(outputs).argmax())
    teacher = entry.get("teacher_action")
    decisions = Decisions(
        outputs,
        np.array([_whole(entry.get("action", default), "action")]),
        np.array([_truth(entry.get("is_first", False), "is_first")]),
        np.ones(1, bool),
        None if features is None else _vector(features, "features"),
        None,
        None if teacher is None else np.array([_whole(teacher, "teacher_action")]),
    )
    try:
        thresholds.model.check(decisions)
    except UserError as error:
        raise UserError(f"{at}: {error}") from None
    return decisions


def _vector(value: Any, name: str) -> np.ndarray:
    numbers = [np.nan if each is None else each for each in value] if isinstance(value, list) else []
    if not numbers or not all(type(each) in (int, float) for each in numbers):
        raise ValueError(f"{name} is no list of numbers")
    return np.array([numbers], np.float64)


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or abs(value) > 2**31:
        raise ValueError(f"{name} is no whole number")
    return value


def _truth(value: Any, name: str) -> bool:
    if value not in (True, False):
        raise ValueError(f"{name} is neither true nor false")
    return bool(value)
