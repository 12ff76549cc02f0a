"""Torsos: from observations to the features that the games of a network share.

`pd_jax.networks.partition` has a CPU take large batches through :class:`AtariTorso` part by part, which changes nothing
of what is computed; the networks that have names use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.networks.bits import BITS, bits_of, factors_of_bits
from pd_jax.networks.convolutions import ConvolutionMethod, convolve
from pd_jax.networks.normalisation import Normalisation
from pd_jax.networks.quantisation import dense, range_of, round_inputs, round_weights

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "relu": nn.relu,
        "tanh": jnp.tanh,
        "elu": nn.elu,
        "leaky_relu": nn.leaky_relu,
        "silu": nn.silu,
        # As PyTorch computes it by default; Flax approximates with tanh.
        "gelu": partial(nn.gelu, approximate=False),
    }
)
"""What an ``mlp`` may apply to its hidden layers, by name; each with the constants that PyTorch and Flax share."""


@dataclasses.dataclass(frozen=True)
class TorsoSpec:
    """Layer sizes that the games of a network share, three of them of convolutions (Rusu et al. 2016, table 4)."""

    channels: tuple[int, ...]
    hidden: int


class AtariTorso(nn.Module):
    """Three convolutions and one dense layer, ReLU after each (Rusu et al. 2016, appendix A; Mnih et al. 2015).

    Attributes:
      spec: the sizes of its layers.
      layer_norm: normalise each layer over its features before the ReLU, as PQN trains (Gallici et al. 2024).
      method: formulation of the convolutions.
      dtype: of the computation; parameters are float32.
      quantised: compute as 8-bit integers will, see `pd_jax.networks.quantisation`.
    """

    spec: TorsoSpec
    layer_norm: bool = False
    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32
    quantised: bool = False

    def setup(self) -> None:
        """Names the layers; ``norm1`` to ``norm4`` have parameters only where they are used."""
        channels = self.spec.channels
        options = {"method": self.method, "dtype": self.dtype, "quantised": self.quantised}
        self.conv1 = Convolution(channels[0], size=8, stride=4, input_scale=1.0 / 255.0, **options)
        self.conv2 = Convolution(channels[1], size=4, stride=2, **options)
        self.conv3 = Convolution(channels[2], size=3, stride=1, **options)
        he_normal = nn.initializers.he_normal()
        self.fc1 = dense(self.spec.hidden, quantised=self.quantised, dtype=self.dtype, kernel_init=he_normal)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dtype=self.dtype) for _ in range(4))

    def __call__(self, observations: Array) -> Array:
        """Maps uint8 ``[N, 84, 84, 4]`` (oldest first; or fewer and smaller frames) to features ``[N, hidden]``."""
        x = self.convolutions(observations)
        return self._activate(self.fc1(x), self.norm4)

    def convolutions(self, observations: Array) -> Array:
        """Maps the same to the last convolution's features ``[N, 7 * 7 * channels]``."""
        x = self._activate(self.conv1(observations), self.norm1)
        x = self._activate(self.conv2(x), self.norm2)
        x = self._activate(self.conv3(x), self.norm3)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def _activate(self, x: Array, norm: nn.LayerNorm) -> Array:
        return nn.relu(norm(x) if self.layer_norm else x)


class Convolution(nn.Module):
    """A VALID 2-D convolution whose formulation follows the platform; its parameters do not.

    Where it is ``quantised``, it computes as 8-bit integers will. Its inputs are frames, or follow a ReLU.
    """

    features: int
    size: int
    stride: int
    input_scale: float = 1.0
    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32
    quantised: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``[N, H, W, C]`` to ``[N, h, w, features]``."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        # Scaling the kernel instead of the frames saves a pass over 28,224 pixels a sample.
        kernel = (kernel * self.input_scale).astype(self.dtype)
        if self.quantised:
            kernel = round_weights(kernel)
            if x.dtype != jnp.uint8:
                x = round_inputs(x, range_of(self, x), signed=False)
        return convolve(x, kernel, self.stride, self.method) + bias.astype(self.dtype)


class MLPTorso(nn.Module):
    """Dense layers for vector observations, each followed by the activation; with none of them, the vector itself.

    Attributes:
      hidden_sizes: widths of the layers.
      layer_norm: normalise each layer over its features before the activation.
      activation: one of `ACTIVATIONS`.
      dtype: of the computation; parameters are float32.
      normalisation: of the observations, before the first layer; None takes them as they are.
      quantised: compute as 8-bit integers will, see `pd_jax.networks.quantisation`.
      bits: see the bits of bytes, see `pd_jax.networks.bits`; of ``normalisation`` it takes then which of them move.
    """

    hidden_sizes: tuple[int, ...] = (128, 128)
    layer_norm: bool = False
    activation: str = "relu"
    dtype: Any = jnp.float32
    normalisation: Normalisation | None = None
    quantised: bool = False
    bits: bool = False

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps ``[N, D]`` to features ``[N, hidden_sizes[-1]]``."""
        if self.bits:
            x = bits_of(observations)
            if self.normalisation is not None:
                x = x * np.repeat(factors_of_bits(self.normalisation, observations.shape[-1]), BITS)[None]
        else:
            x = observations if self.normalisation is None else self.normalisation(observations)
        x = x.astype(self.dtype)
        for index, features in enumerate(self.hidden_sizes):
            layer = dense(
                features,
                quantised=self.quantised,
                dtype=self.dtype,
                # Each feature of an observation has its own unit; later layers follow an activation.
                by_feature=index == 0,
                signed=index == 0 or self.activation != "relu",
                kernel_init=nn.initializers.he_normal(),
                name=f"fc{index + 1}",
            )
            x = layer(x)
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype, name=f"norm{index + 1}")(x)
            x = ACTIVATIONS[self.activation](x)
        return x


def _he_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """He initialisation, drawn as a matrix: XLA takes 2 s to compile a random number generator over four axes."""
    kernel: Array = nn.initializers.he_normal()(key, (math.prod(shape[:-1]), shape[-1]), dtype)
    return kernel.reshape(shape)
