"""Torsos: from observations to the features that the games of a network share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.networks.convolutions import matmul_convolution, native_convolution

ConvolutionMethod = Literal["auto", "matmul", "native"]


@dataclasses.dataclass(frozen=True)
class TorsoSpec:
    """Layer sizes that the games of a network share (Rusu et al. 2016, appendix A, table 4)."""

    channels: tuple[int, ...]
    hidden: int


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType({"relu": nn.relu, "tanh": jnp.tanh})
"""What an ``mlp`` may apply to its hidden layers, by name."""
_KERNEL_SIZES = (8, 4, 3)
_STRIDES = (4, 2, 1)
# Examples that a CPU takes through the convolutions at once: their activations fit into the cache of a core, while the
# other cores work on the next ones. Fewer than two such parts are faster as one. XLA begins all of them together, and
# many leave the caches waiting for one another's activations: without a gradient two at a time, with one at most eight.
# A gradient keeps what the next layers need of a part; without one, narrow layers leave room for twice as many.
_CPU_PART = 16
_CPU_NARROW = 16
_CPU_PARTS = 8


def _he_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """He initialisation, drawn as a matrix: XLA takes 2 s to compile a random number generator over four axes."""
    kernel: Array = nn.initializers.he_normal()(key, (math.prod(shape[:-1]), shape[-1]), dtype)
    return kernel.reshape(shape)


def _method(method: ConvolutionMethod) -> ConvolutionMethod:
    """The formulation that ``auto`` stands for on this platform."""
    if method == "auto":
        return "matmul" if jax.default_backend() == "cpu" else "native"
    return method


class Convolution(nn.Module):
    """A VALID 2-D convolution whose formulation follows the platform; its parameters do not."""

    features: int
    size: int
    stride: int
    input_scale: float = 1.0
    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``[N, H, W, C]`` to ``[N, h, w, features]``."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        # Scaling the kernel instead of the frames saves a pass over 28,224 pixels a sample.
        kernel = (kernel * self.input_scale).astype(self.dtype)
        convolve = matmul_convolution if _method(self.method) == "matmul" else native_convolution
        return convolve(x, kernel, self.stride) + bias.astype(self.dtype)


class AtariTorso(nn.Module):
    """Three convolutions and one dense layer, ReLU after each (Rusu et al. 2016, appendix A; Mnih et al. 2015).

    With ``layer_norm`` each layer is normalised over its features before the ReLU, as PQN trains (Gallici et al. 2024).
    """

    spec: TorsoSpec
    layer_norm: bool = False
    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32
    parts: int | None = None
    """That a batch goes through the convolutions in; None is what suits the platform. Results are the same but for
    rounding."""

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps uint8 ``[N, 84, 84, 4]`` (oldest frame first) to features ``[N, hidden]``."""
        x = self._in_groups(observations)
        x = nn.Dense(self.spec.hidden, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name="fc1")(x)
        if self.layer_norm:
            x = nn.LayerNorm(dtype=self.dtype, name="norm4")(x)
        return nn.relu(x)

    def _in_groups(self, observations: Array) -> Array:
        """Maps observations to the last convolution's features ``[N, features]``, in groups of parts on a CPU."""
        count, part = len(observations), _CPU_PART * (2 if self.spec.channels[0] <= _CPU_NARROW else 1)
        if self.parts is not None or _method(self.method) != "matmul" or count <= _CPU_PART:
            return self._in_parts(observations)
        group = next((size for size in (2 * part, part) if count % size == 0), count)

        def next_group(torso: AtariTorso, _: None, planes: Array) -> tuple[None, Array]:
            return None, torso._in_parts(planes.transpose(0, 2, 3, 1), part)

        def in_turn(torso: AtariTorso, observations: Array) -> Array:
            if group == count:
                return torso._in_parts(observations, part)
            # With frames in front, as they come: see `pd_jax.networks.convolutions`.
            planes = observations.transpose(0, 3, 1, 2)
            scan = nn.scan(next_group, variable_broadcast="params", split_rngs={"params": False})
            _, features = scan(torso, None, planes.reshape(-1, group, *planes.shape[1:]))
            return features.reshape(count, -1)

        # What a gradient needs would have to be kept of every group, which takes longer than is won.
        return nn.custom_vjp(
            in_turn,
            forward_fn=lambda torso, observations: nn.vjp(AtariTorso._in_parts, torso, observations),
            backward_fn=lambda pull_back, gradient: pull_back(gradient),
        )(self, observations)

    def _in_parts(self, observations: Array, part: int = _CPU_PART) -> Array:
        """As :meth:`_in_groups`, of one group, in parts of at least so many examples."""
        convolve, parts = self._convolutions(), self.parts
        if parts is None:
            parts = min(len(observations) // part, _CPU_PARTS) if _method(self.method) == "matmul" else 1
        size = max(-(-len(observations) // max(parts, 1)), 1)
        starts = range(0, max(len(observations), 1), size)
        features = [convolve(observations[start : start + size]) for start in starts]
        return jnp.concatenate(features) if len(features) > 1 else features[0]

    def _convolutions(self) -> Callable[[Array], Array]:
        """All of them, as ``uint8 [N, 84, 84, 4] -> [N, features]``."""
        layers: list[Callable[[Array], Array]] = []
        for index, features in enumerate(self.spec.channels):
            layers.append(
                Convolution(
                    features,
                    _KERNEL_SIZES[index],
                    _STRIDES[index],
                    input_scale=1.0 / 255.0 if index == 0 else 1.0,
                    method=self.method,
                    dtype=self.dtype,
                    name=f"conv{index + 1}",
                )
            )
            if self.layer_norm:
                layers.append(nn.LayerNorm(dtype=self.dtype, name=f"norm{index + 1}"))
            layers.append(nn.relu)

        def convolve(x: Array) -> Array:
            for layer in layers:
                x = layer(x)
            return x.reshape(len(x), math.prod(x.shape[1:]))

        return convolve


class MLPTorso(nn.Module):
    """Dense layers for vector observations, each followed by the activation; with none of them, the vector itself."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    layer_norm: bool = False
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps ``[N, D]`` to features ``[N, hidden_sizes[-1]]``."""
        x = observations.astype(self.dtype)
        for index, features in enumerate(self.hidden_sizes):
            x = nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"fc{index + 1}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype, name=f"norm{index + 1}")(x)
            x = ACTIVATIONS[self.activation](x)
        return x
