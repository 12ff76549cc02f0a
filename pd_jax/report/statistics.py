"""How scores of several seeds become one, scores a percentage, and percentages of several games a geometric mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import geometric_mean, percent_of_teacher


@dataclasses.dataclass(frozen=True)
class Percent:
    """A percentage of the teacher's score, None where that means nothing, and its 95 % interval where it is known."""

    value: float | None
    low: float | None = None
    high: float | None = None


def pool_seeds(scores: Sequence[Score]) -> Score:
    """The mean over students of different seeds.

    Its standard error and interval (Student's t, for they are few) come from the spread between the seeds' means, in
    which the chance of their games is contained. A single seed keeps its own, which know of that chance alone. Of two
    seeds t would give 12.7 standard errors to either side, which says nothing: they have their range instead.

    Args:
      scores: one per seed, at least one.
    """
    if len(scores) == 1:
        return scores[0]
    means = np.array([score.mean for score in scores])
    error = float(means.std(ddof=1) / math.sqrt(means.size))
    mean = float(means.mean())
    if means.size == 2:
        return Score(mean, error, float(means.min()), float(means.max()), sum(score.episodes for score in scores))
    half = float(stdtrit(means.size - 1, 0.975)) * error
    return Score(mean, error, mean - half, mean + half, sum(score.episodes for score in scores))


def pool_games(scores: Sequence[Score]) -> Score:
    """The mean over evaluations of one policy on different starts, between which there is nothing but chance.

    Args:
      scores: one per evaluation, at least one.
    """
    if len(scores) == 1:
        return scores[0]
    mean = float(np.mean([score.mean for score in scores]))
    episodes = sum(score.episodes for score in scores)
    errors = [score.standard_error for score in scores if score.standard_error is not None]
    halves = [half for half in map(_half_width, scores) if half is not None]
    if min(len(errors), len(halves)) < len(scores):
        return Score(mean, None, None, None, episodes)
    error, half = math.hypot(*errors) / len(scores), math.hypot(*halves) / len(scores)
    return Score(mean, error, mean - half, mean + half, episodes)


def percent_with_interval(student: Score, teacher: Score | None, random: float = 0.0) -> Percent:
    """``100 (student - random) / (teacher - random)``, its interval from both scores' to first order.

    There is no percentage without a teacher, or of one that is no better than ``random``.
    """
    value = percent_of_teacher(student.mean, teacher.mean, random) if teacher is not None else None
    if teacher is None or value is None:
        return Percent(None)
    ours, theirs = _half_width(student), _half_width(teacher)
    if ours is None or theirs is None:
        return Percent(value)
    half = math.hypot(100 * ours, value * theirs) / (teacher.mean - random)
    return Percent(value, value - half, value + half)


def geometric(percents: Sequence[Percent], floor: float | None = None) -> Percent:
    """The geometric mean, and its interval to first order in the logarithms where these exist.

    Args:
      percents: one per game.
      floor: what smaller values are raised to; without it, a value that is not positive leaves no mean.
    """
    mean = geometric_mean([percent.value for percent in percents], floor)
    if not mean:
        return Percent(None)
    is_raised = floor is not None and any(percent.value is not None and percent.value < floor for percent in percents)
    if len(percents) == 1 and not is_raised:
        return percents[0]
    widths = []
    for percent in percents:
        if percent.value is None or percent.low is None or percent.high is None or percent.low <= 0 or is_raised:
            return Percent(mean)
        widths.append((percent.high - percent.low) / 2 / percent.value)
    factor = math.exp(math.hypot(*widths) / len(widths))
    return Percent(mean, mean / factor, mean * factor)


def _half_width(score: Score) -> float | None:
    return None if score.low is None or score.high is None else (score.high - score.low) / 2
