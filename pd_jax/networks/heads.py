"""Output heads: from a torso's features to Q-values or logits, of one game or of several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.networks.quantisation import dense, range_of, round_inputs, round_weights
from pd_jax.networks.torsos import ACTIVATIONS

_NORM_EPSILON = 1e-6


def action_mask(num_actions: Sequence[int]) -> np.ndarray:
    """Which actions of the widest action set each game has: bool ``[G, A]``.

    Args:
      num_actions: size of every game's own action set; the widest is A.
    """
    return np.arange(max(num_actions)) < np.asarray(num_actions)[:, None]


class SingleHead(nn.Module):
    """One game's output layer, behind a hidden layer (``fc2``) if ``hidden`` is not 0.

    Attributes:
      num_actions: outputs.
      hidden: units of ``fc2``.
      layer_norm: normalise ``fc2`` before its ReLU.
      dtype: of the computation; parameters and outputs are float32.
      quantised: compute as 8-bit integers will, see `pd_jax.networks.quantisation`.
      signed: whether features may be negative, which matters to integers.
    """

    num_actions: int
    hidden: int = 0
    layer_norm: bool = False
    dtype: Any = jnp.float32
    quantised: bool = False
    signed: bool = False

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps ``[N, hidden]`` to float32 Q-values or logits ``[N, num_actions]``."""
        x, options = features, {"quantised": self.quantised, "dtype": self.dtype}
        if self.hidden:
            he_normal = nn.initializers.he_normal()
            x = dense(self.hidden, signed=self.signed, kernel_init=he_normal, name="fc2", **options)(x)
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
            x = nn.relu(x)
        signed = self.signed and not self.hidden
        outputs: Array = dense(self.num_actions, signed=signed, name="output", **options)(x)
        return outputs.astype(jnp.float32)


class DeepHead(nn.Module):
    """One game's output layer behind several hidden layers, ``fc2`` and on, each followed by the activation.

    Attributes:
      num_actions: outputs.
      hidden_sizes: widths of the hidden layers.
      activation: one of `pd_jax.networks.torsos.ACTIVATIONS`.
    """

    num_actions: int
    hidden_sizes: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps ``[N, features]`` to float32 Q-values or logits ``[N, num_actions]``."""
        x = features
        for index, units in enumerate(self.hidden_sizes):
            x = ACTIVATIONS[self.activation](nn.Dense(units, name=f"fc{index + 2}")(x))
        return nn.Dense(self.num_actions, name="output")(x).astype(jnp.float32)


class CategoricalHead(nn.Module):
    """The output layer of a categorical distributional agent (C51, Bellemare et al. 2017), reduced to expected values.

    Each action has a probability for every atom of a fixed support; its Q-value is the mean of that distribution.
    """

    num_actions: int
    support: tuple[float, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps ``[N, hidden]`` to float32 Q-values ``[N, num_actions]``."""
        atoms = len(self.support)
        logits = nn.Dense(self.num_actions * atoms, dtype=self.dtype, name="output")(features).astype(jnp.float32)
        probabilities = nn.softmax(logits.reshape(-1, self.num_actions, atoms))
        # A product and a sum, not a matrix product: those may be rounded to bfloat16 on an accelerator.
        return jnp.sum(probabilities * jnp.asarray(self.support, jnp.float32), axis=-1)


class MultiGameHead(nn.Module):
    """A head for every game: a hidden layer (``fc2``) and an output layer as wide as the game's own action set.

    The hidden layers are stacked, ``[G, features, hidden]``; each output layer has its own size, so that no parameter
    stands for an action that does not exist. They are padded only where they are multiplied, in one batched product.

    Attributes:
      num_actions: size of every game's action set.
      hidden: units of ``fc2``; 0 leaves it out.
      layer_norm: normalise ``fc2`` before its ReLU, with a scale and a bias for every game.
      dtype: of the computation; parameters and outputs are float32.
      quantised, signed: as of :class:`SingleHead`; each game has ranges of its own.
    """

    num_actions: tuple[int, ...]
    hidden: int = 128
    layer_norm: bool = False
    dtype: Any = jnp.float32
    quantised: bool = False
    signed: bool = False

    @nn.compact
    def __call__(self, features: Array, game: int | Array | None = None) -> Array:
        """Q-values or logits of all games, or of one.

        Args:
          features: ``[G, B, features]``, or ``[B, features]`` of one game.
          game: None for all games; an int or an int32 scalar for one.

        Returns:
          float32 ``[G, B, A]`` or ``[B, A]``, A the widest action set; ``-inf`` where the game has no such action.
        """
        x = features
        if self.hidden:
            stacked = _StackedDense(
                len(self.num_actions), self.hidden, self.dtype, self.quantised, self.signed, name="fc2"
            )
            x = stacked(x, game)
            if self.layer_norm:
                x = _StackedLayerNorm(len(self.num_actions), self.dtype, name="norm")(x, game)
            x = nn.relu(x)
        width = max(self.num_actions)
        kernels, biases, ranges = [], [], []
        for index, actions in enumerate(self.num_actions):
            layer = _OutputParameters(actions, self.quantised, name=f"output{index}")
            own = x[index] if self.quantised and game is None else x
            kernel, bias, own_range = layer(own, told=game is None)
            kernels.append(jnp.pad(kernel, ((0, 0), (0, width - actions))))
            biases.append(jnp.pad(bias, (0, width - actions)))
            if own_range is not None:
                ranges.append(own_range)
        if self.quantised:
            x = _rounded(x, jnp.stack(ranges), game, signed=self.signed and not self.hidden)
        outputs = _affine(x, jnp.stack(kernels), jnp.stack(biases), game, self.dtype).astype(jnp.float32)
        mask = _of_game(jnp.asarray(action_mask(self.num_actions)), game)
        return jnp.where(mask[..., None, :], outputs, -jnp.inf)


class _StackedDense(nn.Module):
    """Dense layers of several games: ``kernel`` ``[G, in, out]``, ``bias`` ``[G, out]``."""

    num_games: int
    features: int
    dtype: Any
    quantised: bool
    signed: bool

    @nn.compact
    def __call__(self, x: Array, game: int | Array | None) -> Array:
        shape = (self.num_games, x.shape[-1], self.features)
        kernel: Array = self.param("kernel", nn.initializers.he_normal(batch_axis=0), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_games, self.features), jnp.float32)
        if self.quantised:
            # Inputs of one game say nothing of those of others.
            input_range = range_of(self, x, (self.num_games,), (1, 2) if game is None else ())
            x, kernel = _rounded(x, input_range, game, signed=self.signed), jax.vmap(round_weights)(kernel)
        return _affine(x, kernel, bias, game, self.dtype)


class _StackedLayerNorm(nn.Module):
    """Normalisation over the last axis, with every game's own scale and bias ``[G, features]``."""

    num_games: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, game: int | Array | None) -> Array:
        shape = (self.num_games, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        normalised = centred * lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
        scaled = normalised * _of_game(scale, game)[..., None, :] + _of_game(bias, game)[..., None, :]
        return scaled.astype(self.dtype)


class _OutputParameters(nn.Module):
    """One game's output layer as ``nn.Dense`` has it: ``kernel`` ``[in, actions]``, ``bias`` ``[actions]``."""

    num_actions: int
    quantised: bool

    @nn.compact
    def __call__(self, x: Array, told: bool) -> tuple[Array, Array, Array | None]:
        """The kernel, rounded if so wanted, the bias, and the range of the inputs ``x``, if it is ``told`` of them."""
        shape = (x.shape[-1], self.num_actions)
        kernel: Array = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias: Array = self.param("bias", nn.initializers.zeros_init(), (self.num_actions,), jnp.float32)
        if not self.quantised:
            return kernel, bias, None
        return round_weights(kernel), bias, range_of(self, x, axes=None if told else ())


def _of_game(stacked: Array, game: int | Array | None) -> Array:
    """``stacked[game]``, or all of it."""
    return stacked if game is None else stacked[game]


def _rounded(x: Array, input_range: Array, game: int | Array | None, *, signed: bool) -> Array:
    """Inputs ``[G, B, in]`` by every game's range ``[G]``, or ``[B, in]`` by that of one."""
    return round_inputs(x, _of_game(input_range, game)[..., None, None], signed=signed)


def _affine(x: Array, kernel: Array, bias: Array, game: int | Array | None, dtype: Any) -> Array:
    """``x @ kernel + bias`` for ``[G, B, in]`` and stacked parameters, or for ``[B, in]`` and those of one game."""
    kernel, bias = (_of_game(parameter, game).astype(dtype) for parameter in (kernel, bias))
    return jnp.einsum("...bi,...io->...bo", x.astype(dtype), kernel) + bias[..., None, :]
