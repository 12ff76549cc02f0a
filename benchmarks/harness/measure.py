"""Timing that is fair on a machine whose speed drifts: competitors take turns, and are compared turn by turn."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar("Name", bound=Hashable)
Work = Callable[[], object]
"""One timed call. What it returns is waited for: JAX returns before it has computed anything."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median of the turns, and the lowest and the highest of them."""

    median: float
    lowest: float
    highest: float
    turns: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spread:
        """What :func:`dataclasses.asdict` has made of a spread."""
        return cls(**values)


def take_turns(works: Mapping[Name, Work], turns: int) -> dict[Name, list[float]]:
    """Seconds of each call in each turn, after one call of each that is not counted and compiles.

    Whoever begins a turn is another one each time, so that nobody always follows the same neighbour, whose threads may
    still be spinning and whose data still fill the caches.
    """
    names = list(works)
    for name in names:
        seconds_of(works[name])
    seconds: dict[Name, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_of(works[name]))
    return seconds


def seconds_of(work: Work) -> float:
    """Wall seconds of one call, until its results are there."""
    started = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - started


def rates(items: float, seconds: Sequence[float]) -> list[float]:
    """Items a second in every turn."""
    return [items / value for value in seconds]


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Quotients turn by turn: drift between turns cancels, which it does not in a quotient of medians."""
    return [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]


def together(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Rates, turn by turn, of doing both for every item on cores that they share: ``1 / (1 / a + 1 / b)``."""
    return [1.0 / (1.0 / a + 1.0 / b) for a, b in zip(first, second, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of the values do not exceed, interpolated linearly."""
    return float(np.percentile(np.asarray(values), percent))
