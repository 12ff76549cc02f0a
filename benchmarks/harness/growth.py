"""How cost grows with batch, lanes, games and devices: no faster than linearly, if all is well."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness.rows import Row

_STAGES = {"update": "batch", "inference": "batch", "games": "games", "students": "students", "devices": "devices"}
_STAGES |= {"envpool": "lanes", "teacher": "lanes", "rollout": "lanes"}


@dataclasses.dataclass(frozen=True)
class Growth:
    """One series of rows that differ in one number alone.

    Attributes:
      stage: theirs.
      axis: the number that differs.
      setting: what they have in common.
      sizes: the numbers, ascending.
      rates: median rates of items (samples, steps), of which a call has in proportion to its size.
      exponent: of the power of the size that the seconds of a call follow, by least squares; 1 is linear.
      worst_step: the highest ratio, between neighbours, of the seconds of an item; up to 1 no step is more than linear.
    """

    stage: str
    axis: str
    setting: dict[str, Any]
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    exponent: float
    worst_step: float

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        return dataclasses.asdict(self)


def find_growth(rows: Sequence[Row]) -> list[Growth]:
    """Every series of at least two rows among those of the stages that have one."""
    series: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
    for row in rows:
        axis = _STAGES.get(row.stage)
        size = row.setting.get(axis, "") if axis else ""
        if axis is None or not isinstance(size, int):
            continue
        # On D devices the minibatch is D times as large.
        dropped = (axis, "batch") if axis == "devices" else (axis,)
        rest = tuple((name, value) for name, value in row.setting.items() if name not in dropped)
        series.setdefault((row.stage, axis, rest), []).append((size, row.ours.median))
    return [
        _growth(stage, axis, dict(rest), sorted(points))
        for (stage, axis, rest), points in series.items()
        if len(points) > 1
    ]


def _growth(stage: str, axis: str, setting: dict[str, Any], points: list[tuple[int, float]]) -> Growth:
    sizes, rates = map(tuple, zip(*points, strict=True))
    slope = np.polyfit(np.log(sizes), np.log(rates), 1)[0]
    worst = max(before / after for before, after in zip(rates, rates[1:], strict=False))
    return Growth(stage, axis, setting, sizes, rates, float(1.0 - slope), float(worst))
