"""The DQN's torso with padded convolutions, as agents that are imported from Dopamine have it; students do not."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pd_jax.networks.convolutions import ConvolutionMethod
from pd_jax.networks.torsos import Convolution

PADDED_FLAT = (11, 11, 64)
"""What the last convolution leaves, height first; without padding it is 7, 7, 64."""
PADDED_HIDDEN = 512
_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


class PaddedTorso(nn.Module):
    """Three convolutions over zero-padded inputs (Flax's ``"SAME"``), one dense layer, ReLU after each.

    Attributes:
      method: formulation of the convolutions.
      dtype: of the computation; parameters are float32.
    """

    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps uint8 ``[N, 84, 84, 4]`` (oldest frame first) to features ``[N, 512]``."""
        x = observations
        for index, (channels, size, stride) in enumerate(_LAYERS):
            scale = 1.0 / 255.0 if index == 0 else 1.0
            margins = [(0, 0), *(same_margin(places, size, stride) for places in x.shape[1:3]), (0, 0)]
            convolution = Convolution(
                channels, size, stride, scale, method=self.method, dtype=self.dtype, name=f"conv{index + 1}"
            )
            x = nn.relu(convolution(jnp.pad(x, margins)))
        return nn.relu(nn.Dense(PADDED_HIDDEN, dtype=self.dtype, name="fc1")(x.reshape(x.shape[0], -1)))


def same_margin(places: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after: as many as give ``places / stride`` windows, rounded up, the odd one after."""
    total = max((-(-places // stride) - 1) * stride + size - places, 0)
    return total // 2, total - total // 2
