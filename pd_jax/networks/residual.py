"""The residual torso of IMPALA (Espeholt et al. 2018), as agents that are imported have it; students do not."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

RESIDUAL_CHANNELS = (16, 32, 32)
"""Of the three blocks."""
RESIDUAL_FLAT = (11, 11, 32)
"""What the last of them leaves, height first."""
RESIDUAL_HIDDEN = 256
Pooling = Literal["torch", "flax"]
"""Where the windows of a block's pooling lie, 3 wide at every second place: PyTorch's ``padding=1`` begins one before
the first place; Flax's ``"SAME"`` begins at it, where the number of places is even."""


class ResidualTorso(nn.Module):
    """Three blocks of a convolution, pooling and two residual layers; a dense layer (Espeholt et al. 2018, figure 3).

    Attributes:
      pooling: where its windows lie.
      dtype: of the computation; parameters are float32.
    """

    pooling: Pooling
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps uint8 ``[N, 84, 84, 4]`` (oldest frame first) to features ``[N, 256]``."""
        x = observations.astype(self.dtype) / 255.0
        for index, channels in enumerate(RESIDUAL_CHANNELS):
            x = _Block(channels, self.pooling, self.dtype, name=f"block{index + 1}")(x)
        x = nn.relu(x).reshape(x.shape[0], -1)
        return nn.relu(nn.Dense(RESIDUAL_HIDDEN, dtype=self.dtype, name="fc1")(x))


class _Block(nn.Module):
    """From ``[N, H, W, C]`` to ``[N, H / 2, W / 2, channels]``, rounded up."""

    channels: int
    pooling: Pooling
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self._convolution("conv", x)
        padding = ((1, 1), (1, 1)) if self.pooling == "torch" else "SAME"
        x = nn.max_pool(x, (3, 3), (2, 2), padding)
        for layer in ("residual1", "residual2"):
            inner = self._convolution(f"{layer}_conv1", nn.relu(x))
            x = x + self._convolution(f"{layer}_conv2", nn.relu(inner))
        return x

    def _convolution(self, name: str, x: Array) -> Array:
        convolved: Array = nn.Conv(self.channels, (3, 3), padding=1, dtype=self.dtype, name=name)(x)
        return convolved
