"""Scores, their uncertainty, and what they are as a percentage of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Indices drawn at a time; keeps thousands of episodes within tens of megabytes.
_BOOTSTRAP_CHUNK = 2_000_000

FLOOR_PERCENT = 1.0
"""The least that a student counts for in a geometric mean of scores above random; at or below random, it has none."""


def bootstrap_ci(
    scores: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979).

    Args:
      scores: ``[episodes]`` returns, at least one.
      seed: of the resampling.
      resamples: how many means are drawn.
      level: the share of them inside the interval.

    Returns:
      Its lower and upper end; both are the score when all scores are the same.

    Raises:
      ValueError: no scores, or one that is not finite.
    """
    array = finite_returns(scores)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _BOOTSTRAP_CHUNK // array.size)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = array[rng.integers(array.size, size=(stop - start, array.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def percent_of_teacher(student: float, teacher: float, random: float = 0.0) -> float | None:
    """``100 (student - random) / (teacher - random)``; None where the teacher is no better than ``random``.

    With ``random`` 0 it is the paper's measure, which has no meaning for a teacher whose score is not positive.

    Args:
      student: its score.
      teacher: its score.
      random: the score of random play, or 0.

    Returns:
      per cent.
    """
    return 100.0 * (student - random) / (teacher - random) if teacher > random else None


def mean_percent(
    students: Mapping[str, float], teachers: Mapping[str, float], randoms: Mapping[str, float]
) -> float | None:
    """Mean over games of the student's score above random play, in % of the teacher's.

    An arithmetic mean, which unlike the geometric one is there from the first evaluation on, when a student may still
    play worse than random.

    Args:
      students: mean scores by game.
      teachers: likewise.
      randoms: likewise; 0 for games without one.

    Returns:
      None if no teacher is better than random play.
    """
    percentages = [percent_of_teacher(students[game], teachers[game], randoms.get(game, 0.0)) for game in students]
    known = [percent for percent in percentages if percent is not None]
    return float(np.mean(known)) if known else None


def geometric_mean(percentages: Sequence[float | None], floor: float | None = None) -> float | None:
    """The mean over games that the paper's tables have.

    Args:
      percentages: one per game.
      floor: what smaller values are raised to; without it, a negative one leaves no mean.

    Returns:
      the mean; None if there is nothing to average, or anything negative or undefined.
    """
    known = [value for value in percentages if value is not None]
    values = known if floor is None else [max(floor, value) for value in known]
    if len(known) < len(percentages) or not values or min(values) < 0:
        return None
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(np.asarray(values, float)))))


def floored_mean(percentages: Mapping[str, float | None]) -> dict[str, Any]:
    """The geometric mean over games of scores above random that all tables show, and what was raised for it.

    Args:
      percentages: of what the teacher's score lies above random, by game.

    Returns:
      ``geometric_mean_percent_normalised_floored``, in which no game counts for less than ``FLOOR_PERCENT``, and
      ``floored_games``, those that would.
    """
    return {
        "geometric_mean_percent_normalised_floored": geometric_mean(list(percentages.values()), FLOOR_PERCENT),
        "floored_games": [game for game, value in percentages.items() if value is not None and value < FLOOR_PERCENT],
    }


def floor_note(floored: Sequence[str]) -> str:
    """What tables say below themselves where they raised something for the mean.

    Args:
      floored: whatever was raised, at least one.
    """
    return f"{FLOOR_PERCENT:g} % stands for students no better than random, or hardly so ({'; '.join(floored)})"


def finite_returns(returns: Sequence[float] | np.ndarray) -> np.ndarray:
    """``[episodes]`` as float64. Raises a ValueError for none, or for one that is not finite."""
    array = np.asarray(returns, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError("scores must be a list of at least one finite number")
    return array
