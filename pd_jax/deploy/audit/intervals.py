"""Shares and means over states, with intervals that know that the states of one game are alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

LEVEL = 0.95
_RESAMPLES = 1000
_FEWEST_GAMES = 5
_Z = 1.959963984540054
"""The normal quantile of a 95 % interval."""


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (1927).

    Args:
      successes: of the trials.
      trials: at least 1.
    """
    share, squared = successes / trials, _Z**2
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = _Z / (1 + squared / trials) * math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


class Games:
    """The games that states are of: what is drawn again and again for an interval, since states of one are alike.

    Args:
      games: int ``[N]``.
      seed: of the draws.
    """

    def __init__(self, games: np.ndarray, seed: int = 0) -> None:
        _, self.index = np.unique(games, return_inverse=True)
        self.count = int(self.index.max()) + 1 if len(games) else 0
        generator = np.random.default_rng(seed)
        draws = generator.multinomial(self.count, np.full(self.count, 1 / max(self.count, 1)), size=_RESAMPLES)
        self._weights = draws.astype(np.float64)

    def sums(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Float64 ``[games]``: the sum of the values of the states in a mask."""
        return np.bincount(self.index[mask], weights=values[mask].astype(np.float64), minlength=self.count)

    def share(self, values: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """The share of states in a mask for which a bool holds, and its interval.

        The interval is the hull of Wilson's and the bootstrap's over games: the one takes all states for independent,
        the other has no width where all games agree.
        """
        trials = int(mask.sum())
        if not trials:
            return {"value": None, "ci95": [None, None]}
        successes = float(values[mask].sum())
        low, high = wilson(successes, trials)
        if (ends := self._bootstrap(values, mask)) is not None:
            low, high = min(low, ends[0]), max(high, ends[1])
        return {"value": successes / trials, "ci95": [low, high]}

    def mean(self, values: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """The mean over the states in a mask, and its interval by the bootstrap over games, if these are enough."""
        if not mask.any():
            return {"value": None, "ci95": [None, None]}
        ends = self._bootstrap(values, mask)
        return {"value": float(values[mask].mean()), "ci95": [None, None] if ends is None else list(ends)}

    def difference(self, values: np.ndarray, mask: np.ndarray, rest: np.ndarray) -> dict[str, Any]:
        """The mean over the states in a mask minus that over those in another, and its interval likewise."""
        if not mask.any() or not rest.any():
            return {"value": None, "ci95": [None, None]}
        value = float(values[mask].mean() - values[rest].mean())
        if self._of_games(mask) < _FEWEST_GAMES:
            return {"value": value, "ci95": [None, None]}
        drawn = self._drawn(values, mask) - self._drawn(values, rest)
        return {"value": value, "ci95": _ends(drawn[np.isfinite(drawn)])}

    def _of_games(self, mask: np.ndarray) -> int:
        return len(np.unique(self.index[mask]))

    def _drawn(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        totals, counts = self.sums(values, mask), self.sums(np.ones(len(values)), mask)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn: np.ndarray = (self._weights @ totals) / (self._weights @ counts)
        return drawn

    def _bootstrap(self, values: np.ndarray, mask: np.ndarray) -> tuple[float, float] | None:
        if self._of_games(mask) < _FEWEST_GAMES:
            return None
        drawn = self._drawn(values, mask)
        low, high = _ends(drawn[np.isfinite(drawn)])
        return low, high


def conditional_tail(returns: np.ndarray, share: float = 0.1) -> float:
    """The mean of the worst returns: CVaR (Rockafellar and Uryasev 2000) of whole games.

    Args:
      returns: ``[games]``, at least one.
      share: of the games that are the worst, rounded up to whole ones.
    """
    worst = max(1, math.ceil(share * len(returns) - 1e-9))
    return float(np.sort(returns)[:worst].mean())


def bootstrap(
    statistic: Callable[..., float], *samples: np.ndarray, seed: int = 0, resamples: int = 2000
) -> list[float | None]:
    """The 95 % percentile interval of a statistic of independent samples.

    Args:
      statistic: of as many arrays.
      samples: each ``[n]``; one with fewer than two values leaves no interval.
      seed: of the draws.
      resamples: how many.

    Returns:
      lower and upper end, or None for both.
    """
    if any(len(sample) < 2 for sample in samples):
        return [None, None]
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(*(sample[generator.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(resamples)
    ]
    finite = np.array(drawn)[np.isfinite(drawn)]
    return [None, None] if not len(finite) else list(_ends(finite))


def _ends(drawn: np.ndarray) -> list[float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]
