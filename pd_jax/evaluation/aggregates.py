"""What several seeds and games say together, by the definitions of rliable (Agarwal et al. 2021, arXiv:2108.13264).

Scores are a matrix ``[seeds, games]`` of shares, in which 0 is a random player and 1 the reference: the teacher, or a
human. A seed's row is one run of each game; rows of different games have nothing to do with one another, which is why
games are resampled apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Aggregate = Callable[[np.ndarray], np.ndarray]
"""Maps ``[..., seeds, games]`` to ``[...]``."""

_TRIMMED = 0.25


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all runs: the lowest and the highest quarter, rounded down, are left out.

    Args:
      scores: ``[..., seeds, games]``.
    """
    runs = np.sort(_flat(scores), axis=-1)
    left_out = int(_TRIMMED * runs.shape[-1])
    return runs[..., left_out : runs.shape[-1] - left_out].mean(axis=-1)


def optimality_gap(scores: np.ndarray, reference: float = 1.0) -> np.ndarray:
    """How far runs fall short of the reference in the mean; what is above it does not make up for what is below.

    Args:
      scores: ``[..., seeds, games]``.
      reference: the score that is wanted.
    """
    return reference - np.minimum(_flat(scores), reference).mean(axis=-1)


def median_of_games(scores: np.ndarray) -> np.ndarray:
    """The median over games of the means over seeds.

    Args:
      scores: ``[..., seeds, games]``.
    """
    return np.median(np.asarray(scores, np.float64).mean(axis=-2), axis=-1)


def mean_of_runs(scores: np.ndarray) -> np.ndarray:
    """The mean of all runs.

    Args:
      scores: ``[..., seeds, games]``.
    """
    return _flat(scores).mean(axis=-1)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs whose score is above each threshold.

    Args:
      scores: ``[..., seeds, games]``.
      thresholds: ``[T]``.

    Returns:
      ``[..., T]``, falling from 1 to 0.
    """
    return (_flat(scores)[..., None] > np.asarray(thresholds)).mean(axis=-2)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """How likely a run of ours is better than one of theirs, in a game drawn at random; equal runs count half.

    It is Mann and Whitney's U over the number of pairs, in the mean over games.

    Args:
      ours: ``[..., seeds, games]``.
      theirs: ``[..., seeds, games]`` of the same games; the number of seeds may be another.
    """
    x, y = np.asarray(ours, np.float64)[..., :, None, :], np.asarray(theirs, np.float64)[..., None, :, :]
    return ((x > y) + 0.5 * (x == y)).mean(axis=(-3, -2, -1))


def stratified_bootstrap(
    aggregate: Callable[..., np.ndarray],
    *scores: np.ndarray,
    seed: int = 0,
    resamples: int = 2_000,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of an aggregate: seeds are drawn anew in every game apart.

    With few seeds it is too narrow, as every bootstrap: three of them have but ten samples.

    Args:
      aggregate: of one such array as ``scores``, or of several.
      scores: ``[seeds, games]`` each.
      seed: of the resampling.
      resamples: how many are drawn.
      level: the share of them inside the interval.

    Returns:
      its lower and its upper ends, of the shape that the aggregate has.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for matrix in (np.asarray(each, np.float64) for each in scores):
        seeds, games = matrix.shape
        chosen = generator.integers(seeds, size=(resamples, seeds, games))
        drawn.append(matrix[chosen, np.arange(games)])
    low, high = np.quantile(aggregate(*drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _flat(scores: np.ndarray) -> np.ndarray:
    array = np.asarray(scores, np.float64)
    return array.reshape(*array.shape[:-2], -1)
