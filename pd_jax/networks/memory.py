"""Memory: a recurrent layer between torso and head, over sequences of steps and step by step.

The layers are those of PyTorch: `torch.nn.GRU` and `torch.nn.LSTM` of one layer compute the same from the same weights
(`tests/networks/test_memory.py`). The state is one vector for each lane, whatever the layer: of a GRU its output, of an
LSTM its output and then its cell. It is 0 where an episode opens.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

MEMORIES = ("gru", "lstm")
"""The layers that there are, by name."""


def state_size(kind: str, size: int) -> int:
    """Numbers in the state of one lane.

    Args:
      kind: one of ``MEMORIES``.
      size: units of the layer.
    """
    return 2 * size if kind == "lstm" else size


class Memory(nn.Module):
    """A recurrent layer whose state is set back where an episode opens.

    GRU (Cho et al. 2014, in the form of PyTorch and cuDNN, whose reset gate comes after the product)::

        r = σ(W_r x + b_r + U_r h);  z = σ(W_z x + b_z + U_z h)
        n = tanh(W_n x + b_n + r ⊙ (U_n h + c));  h' = (1 - z) ⊙ n + z ⊙ h

    LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)::

        i, f, o = σ(W x + b + U h), each with its own;  g = tanh(W_g x + b_g + U_g h)
        c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c')

    Parameters: ``input`` with ``kernel`` ``[F, k H]`` and ``bias`` ``[k H]``, the gates side by side in the order
    r, z, n (k = 3) or i, f, g, o (k = 4); ``recurrent`` with ``kernel`` ``[H, k H]`` and, of a GRU, ``bias`` ``[H]``,
    which is c.

    Attributes:
      kind: one of ``MEMORIES``.
      size: H.
      dtype: of the products; parameters and the state are float32.
    """

    kind: str
    size: int
    dtype: Any = jnp.float32

    @property
    def state_size(self) -> int:
        """Numbers in the state of one lane."""
        return state_size(self.kind, self.size)

    def setup(self) -> None:
        """Names the two halves of the layer."""
        gates = 3 if self.kind == "gru" else 4
        self.input = nn.Dense(
            gates * self.size,
            dtype=self.dtype,
            bias_init=nn.initializers.zeros_init() if self.kind == "gru" else _remembering,
        )
        self.recurrent = _Recurrent(gates, self.size, has_bias=self.kind == "gru")

    def __call__(self, features: Array, is_first: Array, state: Array) -> tuple[Array, Array]:
        """Goes through ``T`` steps of ``N`` lanes.

        What does not depend on the state is one product for all steps.

        Args:
          features: ``[T, N, F]``.
          is_first: bool ``[T, N]``, where an episode opens: the state from before counts no more.
          state: float32 ``[N, state_size]``, of before the first step.

        Returns:
          outputs float32 ``[T, N, H]``, and the state after the last step.
        """
        gates = self.input(features).astype(jnp.float32)
        kernel, bias = self.recurrent()
        kept = jnp.where(is_first, 0.0, 1.0)[..., None]
        cell = _gru if self.kind == "gru" else _lstm

        def step(state: Array, seen: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, kept = seen
            state = state * kept
            hidden = state[:, : self.size]
            product = jnp.matmul(hidden.astype(self.dtype), kernel.astype(self.dtype)).astype(jnp.float32)
            state = cell(gates, product, bias, state)
            return state, state[:, : self.size]

        if len(features) == 1:
            state, outputs = step(state, (gates[0], kept[0]))
            return outputs[None], state
        state, outputs = lax.scan(step, state, (gates, kept))
        return outputs, state


class _Recurrent(nn.Module):
    """The parameters that the state is multiplied by."""

    gates: int
    size: int
    has_bias: bool

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", _orthogonal, (self.size, self.gates * self.size), jnp.float32)
        if not self.has_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.size,), jnp.float32)


def _gru(gates: Array, product: Array, bias: Array | None, state: Array) -> Array:
    """The next state ``[N, H]``, from what the inputs and the state add to the gates, ``[N, 3 H]`` each."""
    assert bias is not None
    from_input, from_state = jnp.split(gates, 3, axis=-1), jnp.split(product, 3, axis=-1)
    reset = nn.sigmoid(from_input[0] + from_state[0])
    update = nn.sigmoid(from_input[1] + from_state[1])
    candidate = jnp.tanh(from_input[2] + reset * (from_state[2] + bias))
    return (1.0 - update) * candidate + update * state


def _lstm(gates: Array, product: Array, bias: Array | None, state: Array) -> Array:
    """The next state ``[N, 2 H]``, from what the inputs and the state add to the gates, ``[N, 4 H]`` each."""
    enter, keep, candidate, leave = jnp.split(gates + product, 4, axis=-1)
    _, cell = jnp.split(state, 2, axis=-1)
    cell = nn.sigmoid(keep) * cell + nn.sigmoid(enter) * jnp.tanh(candidate)
    return jnp.concatenate([nn.sigmoid(leave) * jnp.tanh(cell), cell], axis=-1)


def _orthogonal(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """An orthogonal matrix for each gate, side by side: what is kept neither grows nor fades at first."""
    size, width = shape
    keys = jax.random.split(key, width // size)
    return jnp.concatenate([nn.initializers.orthogonal()(each, (size, size), dtype) for each in keys], axis=1)


def _remembering(key: Array, shape: tuple[int], dtype: Any) -> Array:
    """Biases of an LSTM: 1 in the forget gate, so that it keeps what it holds at first (Jozefowicz et al. 2015)."""
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1.0)
