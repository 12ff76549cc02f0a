"""Layers that learn as 8-bit integers will compute them: weights and inputs are rounded on the way, gradients are not.

Quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877): what a layer multiplies is rounded to the numbers
that an 8-bit file has, and the gradient goes through the rounding as if it were not there. A layer's ``input_range`` is
among its parameters, and is not learnt: it is found once by :func:`calibrate`, from the inputs that the layer has.

- Weights are signed, -127 to 127, with a scale for each output channel: its largest magnitude / 127.
- Inputs that come out of a ReLU are unsigned, 0 to 255, with the scale ``input_range`` / 255; others are signed, -127
  to 127, with ``input_range`` / 127. Numbers beyond the range are cut off.
- Each feature of a vector observation has its own range, by which the first layer's rows are multiplied before they
  are rounded. Frames are 8-bit numbers already.
- Biases, normalisation and outputs are float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

INPUT_RANGE = "input_range"
"""The parameter of a layer that holds how large its inputs are taken to be; 0 where that was never found."""
_SEEN = "inputs"
WEIGHT_LEVELS = 127
SIGNED_LEVELS = 127
UNSIGNED_LEVELS = 255


def round_weights(kernel: Array) -> Array:
    """Weights as 8-bit integers have them; gradients pass unchanged.

    Args:
      kernel: float32 ``[..., out]``.

    Returns:
      the same shape: multiples of each output channel's scale.
    """
    largest = jnp.abs(lax.stop_gradient(kernel)).max(axis=tuple(range(kernel.ndim - 1)))
    scale = _positive(largest) / WEIGHT_LEVELS
    return kernel + lax.stop_gradient(jnp.round(kernel / scale) * scale - kernel)


def round_inputs(x: Array, input_range: Array, *, signed: bool) -> Array:
    """A layer's inputs as 8-bit integers have them; gradients pass unchanged where nothing is cut off.

    Args:
      x: float32 ``[..., features]``.
      input_range: float32, of a shape that broadcasts against ``x``; no gradient flows into it. Where it is 0, it is
        not known yet, and inputs pass as they are.
      signed: whether inputs may be negative.
    """
    known = lax.stop_gradient(input_range)
    limit, levels = _positive(known), SIGNED_LEVELS if signed else UNSIGNED_LEVELS
    cut = jnp.clip(x, -limit if signed else 0.0, limit)
    rounded = cut + lax.stop_gradient(jnp.round(cut * (levels / limit)) * (limit / levels) - cut)
    return jnp.where(known > 0, rounded, x)


def _positive(limit: Array) -> Array:
    """A range that can be divided by: what was always 0 stays 0 by any."""
    return jnp.where(limit > 0, limit, 1.0)


def range_of(module: nn.Module, x: Array, shape: tuple[int, ...] = (), axes: tuple[int, ...] | None = None) -> Array:
    """The range of a layer's inputs, which is one of its parameters.

    Args:
      module: the layer, in a compact method.
      x: inputs, whose magnitudes :func:`calibrate` is told of.
      shape: of the range.
      axes: of ``x``, over which the largest is taken; what is left has the shape of the range. None takes all, and an
        empty tuple tells nothing.

    Returns:
      float32 ``shape``.
    """
    if axes != () and not module.is_initializing():
        module.sow(_SEEN, "largest", jnp.abs(x).max(axis=axes), reduce_fn=jnp.maximum, init_fn=lambda: jnp.zeros(shape))
    input_range: Array = module.param(INPUT_RANGE, nn.initializers.zeros_init(), shape, jnp.float32)
    return input_range


class QuantisedDense(nn.Module):
    """`flax.linen.Dense` with the same parameters and ``input_range``, computed as 8-bit integers will.

    Attributes:
      features: outputs.
      signed: whether inputs may be negative.
      by_feature: each input has a range of its own; for the layer that sees an observation.
      kernel_init: as of `flax.linen.Dense`.
    """

    features: int
    signed: bool = False
    by_feature: bool = False
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``[..., in]`` to float32 ``[..., features]``."""
        size = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (size, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        by_feature = {"shape": (size,), "axes": tuple(range(x.ndim - 1))}
        input_range = range_of(self, x, **(by_feature if self.by_feature else {}))
        x = round_inputs(x, input_range, signed=self.signed)
        if self.by_feature:
            limit = _positive(lax.stop_gradient(input_range))
            return (x / limit) @ round_weights(kernel * limit[:, None]) + bias
        return x @ round_weights(kernel) + bias


def dense(
    features: int, *, quantised: bool, dtype: Any, signed: bool = False, by_feature: bool = False, **named: Any
) -> Any:
    """A dense layer: `flax.linen.Dense`, or one that is computed as 8-bit integers will.

    Args:
      features: outputs.
      quantised: which of the two.
      dtype: of the computation; of the second it is float32.
      signed, by_feature: of the second, see :class:`QuantisedDense`.
      named: ``name`` and ``kernel_init``.
    """
    if quantised:
        return QuantisedDense(features, signed=signed, by_feature=by_feature, **named)
    return nn.Dense(features, dtype=dtype, **named)


def is_quantised(params: Any) -> bool:
    """Whether parameters are those of such layers."""
    return any(path[-1] == INPUT_RANGE for path in traverse.flatten_dict(params))


def without_ranges(params: Any) -> dict[str, Any]:
    """The parameters that the same network has without quantisation."""
    kept = {path: leaf for path, leaf in traverse.flatten_dict(params).items() if path[-1] != INPUT_RANGE}
    plain: dict[str, Any] = traverse.unflatten_dict(kept)
    return plain


def with_ranges(params: Any, template: Any) -> Any:
    """Parameters of a network without quantisation as those of the same network with it.

    Args:
      params: arrays; ranges that are there already stay.
      template: the wanted parameters, or their shapes.

    Returns:
      ``params`` with ranges of 0 where the template has some: no input is rounded until :func:`calibrate` found them.
    """
    there = traverse.flatten_dict(params)
    wanted = traverse.flatten_dict(template)
    zeros = {path: np.zeros(leaf.shape, np.float32) for path, leaf in wanted.items() if path[-1] == INPUT_RANGE}
    return traverse.unflatten_dict(zeros | there)


def calibrate(network: nn.Module, variables: Any, batches: Iterable[Any]) -> Any:
    """Finds the ranges of each layer's inputs from observations: the largest that it has, before they are rounded.

    Args:
      network: with quantisation.
      variables: its variables, with ranges of 0.
      batches: observations as the network takes them, at least one batch of them.

    Returns:
      variables with ranges above 0: 1 for an input that was always 0.
    """

    @jax.jit
    def inputs_of(observations: Any) -> Any:
        _, sown = network.apply(variables, observations, mutable=[_SEEN])
        return {path[:-1]: leaf for path, leaf in traverse.flatten_dict(sown[_SEEN]).items()}

    found: dict[Any, np.ndarray] = {}
    for observations in batches:
        for path, leaf in inputs_of(observations).items():
            found[path] = np.maximum(found.get(path, 0.0), np.asarray(leaf))
    params = traverse.flatten_dict(variables["params"])
    for path, largest in found.items():
        params[*path, INPUT_RANGE] = np.where(largest > 0, largest, 1.0).astype(np.float32)
    return {**variables, "params": traverse.unflatten_dict(params)}
