"""Mean and variance of a stream of numbers, which a training normalises what it sees and earns by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
from jax import Array

EPSILON = 1e-8
"""Added to the variance, as in Gymnasium and Stable-Baselines3."""
# That of a start that is as good as nothing: as in Gymnasium.
_FIRST_COUNT = 1e-4


@flax.struct.dataclass
class RunningStatistics:
    """Of all that was seen so far.

    Attributes:
      mean, variance: float32 ``[...]``; the variance is that of a whole population.
      count: float32 scalar, how many there were.
    """

    mean: Array
    variance: Array
    count: Array

    @classmethod
    def fresh(cls, shape: tuple[int, ...]) -> RunningStatistics:
        """Mean 0 and variance 1, which whatever comes first replaces."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.float32(_FIRST_COUNT))

    @classmethod
    def from_metadata(cls, statistics: Mapping[str, Any]) -> RunningStatistics:
        """Undoes :meth:`to_metadata`."""
        return cls(*(jnp.asarray(statistics[name], jnp.float32) for name in ("mean", "variance", "count")))

    def update(self, values: Array, weight: Array) -> RunningStatistics:
        """The statistics with a batch added (Chan, Golub and LeVeque 1979).

        Args:
          values: float32 ``[N, ...]``.
          weight: float32 ``[N]``, 0 for what does not count.
        """
        of_values = weight.reshape(-1, *(1,) * (values.ndim - 1))
        count = weight.sum()
        some = jnp.maximum(count, 1.0)
        mean = (of_values * values).sum(axis=0) / some
        variance = (of_values * (values - mean) ** 2).sum(axis=0) / some
        total = self.count + count
        difference = mean - self.mean
        squares = self.variance * self.count + variance * count + difference**2 * (self.count * count / total)
        return RunningStatistics(self.mean + difference * (count / total), squares / total, total)

    def to_metadata(self, clip: float | None) -> dict[str, Any]:
        """As the ``normalisation`` of a teacher's metadata has them, of one observation."""
        told: dict[str, Any] = {
            "mean": [float(value) for value in self.mean],
            "variance": [float(value) for value in self.variance],
            "count": float(self.count),
            "epsilon": EPSILON,
        }
        return told if clip is None else told | {"clip": clip}


def normalise(values: Array, statistics: RunningStatistics, clip: float | None) -> Array:
    """``(values - mean) / sqrt(variance + epsilon)``, between ``-clip`` and ``clip``."""
    scaled = (values - statistics.mean) / jnp.sqrt(statistics.variance + EPSILON)
    return scaled if clip is None else jnp.clip(scaled, -clip, clip)
