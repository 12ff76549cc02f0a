"""Frozen statistics of observations, by which a network normalises what it sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Maps ``x`` to ``(x - mean) / sqrt(variance + epsilon)``, between ``-clip`` and ``clip``.

    This is what Stable-Baselines3's ``VecNormalize`` and Gymnasium's ``NormalizeObservation`` do, and clip does what
    only the first does.

    Attributes:
      mean, variance: one number for each of an observation's, or one for all.
      epsilon: >= 0.
      clip: > 0; None leaves all values as they are.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    epsilon: float
    clip: float | None = None

    @classmethod
    def of(cls, statistics: Mapping[str, Any]) -> Normalisation:
        """From the ``normalisation`` of a teacher's metadata, of one observation that is a vector."""
        mean, variance = (tuple(map(float, np.ravel(statistics[name]))) for name in ("mean", "variance"))
        clip = statistics.get("clip")
        return cls(mean, variance, float(statistics["epsilon"]), None if clip is None else float(clip))

    def __call__(self, observations: Array) -> Array:
        """Normalises float ``[..., D]``, in float32."""
        # With the observations' rank, as JAX may be told to promote none.
        rank = (1,) * (observations.ndim - 1)
        mean = np.reshape(self.mean, (*rank, -1))
        high = mean.astype(np.float32)
        low = (mean - high).astype(np.float32)
        deviation = np.sqrt(np.reshape(self.variance, (*rank, -1)) + self.epsilon).astype(np.float32)
        # The mean in two steps: one that is large beside the deviation does not fit into float32. Without the barrier
        # XLA adds both to one constant again where all entries are equal.
        x = lax.optimization_barrier(observations.astype(jnp.float32) - high) - low
        x = x / deviation
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)
