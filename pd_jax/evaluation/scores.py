"""A score: the mean return of whole games, and how sure it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.errors import UserError
from pd_jax.evaluation.statistics import bootstrap_ci, finite_returns
from pd_jax.system.text import show
from pd_jax.system.values import count, number


@dataclasses.dataclass(frozen=True)
class Score:
    """The mean return of whole games.

    Attributes:
      mean: of undiscounted, unclipped returns.
      standard_error: of the mean, None where it is not known: one game says nothing about its spread.
      low, high: its 95 % interval, None likewise; of two pooled seeds the range of theirs.
      episodes: games played.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    episodes: int

    @classmethod
    def of(cls, returns: Sequence[float] | np.ndarray, *, seed: int = 0) -> Score:
        """The score of some games; its interval is a percentile bootstrap.

        Args:
          returns: ``[episodes]``, at least one.
          seed: of the bootstrap.

        Raises:
          ValueError: no returns, or one that is not finite.
        """
        array = finite_returns(returns)
        if array.size == 1:
            return cls(float(array[0]), None, None, None, 1)
        error = float(array.std(ddof=1) / math.sqrt(array.size))
        return cls(float(array.mean()), error, *bootstrap_ci(array, seed=seed), array.size)

    @property
    def ci95(self) -> list[float | None]:
        """The interval as files have it."""
        return [self.low, self.high]

    def to_json(self) -> dict[str, Any]:
        """As in a teacher's metadata: ``mean``, ``standard_error``, ``ci95`` and ``episodes``."""
        return {
            "mean": self.mean,
            "standard_error": self.standard_error,
            "ci95": self.ci95,
            "episodes": self.episodes,
        }

    def point(self) -> dict[str, Any]:
        """As a point of a learning curve has it: without the interval."""
        return {"mean": self.mean, "standard_error": self.standard_error, "episodes": self.episodes}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], where: str = "") -> Score:
        """What :meth:`to_json` made.

        Args:
          entry: the mapping.
          where: what messages begin with.

        Raises:
          UserError: a value is missing, has another type or is impossible.
        """
        mean = number(entry, "mean", where)
        if mean is None:
            raise UserError(f"{where}mean: null is not a number")
        return cls(mean, *_spread(entry, "standard_error", "ci95", where), _episodes(entry, "episodes", where))

    def entries(self, who: str) -> dict[str, Any]:
        """As in a summary: ``WHO_score``, ``WHO_standard_error`` and ``WHO_ci95``."""
        return {f"{who}_score": self.mean, f"{who}_standard_error": self.standard_error, f"{who}_ci95": self.ci95}

    @classmethod
    def from_entries(cls, entry: Mapping[str, Any], who: str, where: str = "") -> Score | None:
        """The score of ``teacher`` or ``student`` in a game's entry of a summary; None if it did not play.

        Raises:
          UserError: a value has another type, or is impossible.
        """
        key = f"{who}_score"
        if key not in entry:
            return None
        mean = number(entry, key, where)
        if mean is None:
            raise UserError(f"{where}{key}: null is not a number")
        spread = _spread(entry, f"{who}_standard_error", f"{who}_ci95", where)
        episodes = f"{who}_episodes" if f"{who}_episodes" in entry else "episodes"
        return cls(mean, *spread, _episodes(entry, episodes, where))


def _spread(
    entry: Mapping[str, Any], error_key: str, interval_key: str, where: str
) -> tuple[float | None, float | None, float | None]:
    """Standard error and interval."""
    ends = entry.get(interval_key)
    if ends is None:
        ends = (None, None)
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise UserError(f"{where}{interval_key}: {show(ends)} is not an interval, a list of two numbers")
    low, high = (number({interval_key: end}, interval_key, where) for end in ends)
    if (low is None) != (high is None) or (low is not None and high is not None and not low <= high):
        raise UserError(f"{where}{interval_key}: {show(ends[0])} to {show(ends[1])} is not an interval")
    error = number(entry, error_key, where)
    if error is not None and error < 0:
        raise UserError(f"{where}{error_key}: {show(error)} is negative")
    return error, low, high


def _episodes(entry: Mapping[str, Any], key: str, where: str) -> int:
    played = count(entry, key, where)
    if not played:
        raise UserError(f"{where}{key}: {show(played)} is not a number of games")
    return played
