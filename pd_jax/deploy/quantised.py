"""A policy's layers in 8-bit integers: which integers, what ranges they stand for, and their arithmetic in NumPy.

What is multiplied is quantised, and nothing else:

- Weights are int8, symmetric, with a scale for each output: its largest weight is 127.
- What comes out of a ReLU is 0 to 255, in units of its range / 255. Frames are the bytes that they are.
- A vector's features, each in units of its own range / 127, are -127 to 127, and so is what may be negative elsewhere.
- Biases are int32, in units of the product of both scales, and so are sums.

What stands between, LayerNorm and activations other than ReLU, is computed in float32, and so are the outputs. Files in
integers are written from these steps; :meth:`QuantisedNetwork.outputs` is what each of them has to compute.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import special

from pd_jax.deploy.layers import (
    NORM_EPSILON,
    Activation,
    Convolution,
    Dense,
    Expectation,
    Flatten,
    Layer,
    LayerNorm,
    Normalise,
)
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError

_LARGEST_BIAS = 2.0**30
"""Units: half of what int32 holds is left for sums."""
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Quantise:
    """Floats as units: ``rint(x * factors)``, between 0 and 255, or between -127 and 127.

    Attributes:
      factors: float32 ``[1]``, or ``[D]`` for the features of a vector.
      is_signed: whether units may be negative.
    """

    factors: np.ndarray
    is_signed: bool


@dataclasses.dataclass(frozen=True)
class Integers:
    """A convolution or a dense layer: int32 sums of units times weights, and what is made of them.

    Attributes:
      weights: int8, ``[size, size, in, out]`` or ``[in, out]``.
      bias: int32 ``[out]``, in units of ``input_scale * weight_scales``.
      weight_scales: float32 ``[out]``.
      input_scale: what a unit of the input stands for.
      is_signed: whether units of the input may be negative.
      units_scale: what a unit of the next layer's input stands for, which is what comes out after a ReLU, 0 to 255;
        None if float32 comes out.
      factors: float32 ``[out]``, by which sums are multiplied: then they are units, before they are rounded, or floats.
      stride, padding: of a convolution.
    """

    weights: np.ndarray
    bias: np.ndarray
    weight_scales: np.ndarray
    input_scale: float
    is_signed: bool
    units_scale: float | None
    factors: np.ndarray
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


Step = Quantise | Integers | Normalise | LayerNorm | Activation | Flatten | Expectation


@dataclasses.dataclass(frozen=True)
class QuantisedNetwork:
    """The steps from observations as they come to outputs ``[N, actions]``.

    Attributes:
      steps: one after another. The first of frames is of integers: frames are units.
      ranges: of the inputs of the layers that are quantised, in their order, but for frames: one number each, or one
        for each feature.
    """

    steps: tuple[Step, ...]
    ranges: tuple[Any, ...]

    def outputs(self, observations: np.ndarray) -> np.ndarray:
        """What every file of these integers answers, but for the rounding of floats: float32 ``[N, actions]``.

        Args:
          observations: uint8 ``[N, 84, 84, 4]`` or float32 ``[N, D]``.
        """
        return np.concatenate([self.trace(part)[-1] for part in _parts(observations)])

    def trace(self, observations: np.ndarray) -> list[np.ndarray]:
        """What each step makes of a batch, the last of them the outputs; units are uint8 or int8."""
        made: list[np.ndarray] = []
        x = np.asarray(observations)
        for step in self.steps:
            x = _after(step, x)
            made.append(x)
        return made


def check_quantisable(layers: Sequence[Layer], task: Task) -> None:
    """Raises a UserError if integers have no form for a layer."""
    for layer in layers:
        if not isinstance(layer, Convolution | Dense | Flatten | LayerNorm | Normalise | Activation | Expectation):
            raise UserError(f"precision: int8 has no {type(layer).__name__} layers; float32 has")
    if not any(isinstance(layer, Convolution | Dense) for layer in layers):
        raise UserError(f"precision: there is nothing to quantise in the policy of {task.name}")


def calibrated(layers: Sequence[Layer], task: Task, observations: np.ndarray, percentile: float) -> tuple[Layer, ...]:
    """The same layers, each with the range of its inputs on some observations.

    Args:
      layers: see `pd_jax.deploy.layers.layers_of`.
      task: what they play.
      observations: ``[N, ...]`` of play.
      percentile: of the absolute values of a layer's inputs that is its range, 100 for the largest. Features of
        observations always have their largest.

    Raises:
      UserError: layers that integers have no form for.
    """
    check_quantisable(layers, task)
    found: list[Layer] = []
    parts = list(_parts(observations))
    is_first = True
    for layer in layers:
        if isinstance(layer, Convolution | Dense):
            if is_first and task.kind == "vector":
                ranges = np.max([np.abs(part).max(axis=0) for part in parts], axis=0)
                layer = dataclasses.replace(layer, input_range=_positive(ranges))
            elif not is_first:
                values = np.concatenate([np.abs(part).reshape(-1) for part in parts])
                layer = dataclasses.replace(
                    layer, input_range=np.asarray(np.percentile(values, percentile), np.float32)
                )
            is_first = False
        found.append(layer)
        parts = [apply_layer(layer, part) for part in parts]
    return tuple(found)


def is_trained(layers: Iterable[Layer]) -> bool:
    """Whether the layers were trained with fake quantisation, and so know the ranges of their inputs."""
    return any(isinstance(layer, Convolution | Dense) and layer.input_range is not None for layer in layers)


def quantised(layers: Sequence[Layer], task: Task) -> QuantisedNetwork:
    """The layers in integers.

    Args:
      layers: with the ranges of their inputs, from :func:`calibrated` or from training with fake quantisation.
      task: what they play.

    Raises:
      UserError: layers that integers have no form for, or a range is missing or no number.
    """
    check_quantisable(layers, task)
    places = [index for index, layer in enumerate(layers) if isinstance(layer, Convolution | Dense)]
    scales: dict[int, float] = {}
    ranges: list[Any] = []
    for place in places:
        layer: Any = layers[place]
        if place == places[0] and task.kind == "atari":
            scales[place] = 1.0
            continue
        high = _range(layer.input_range, place == places[0], len(layer.kernel), places.index(place) + 1)
        ranges.append(high.tolist())
        # Ranges of features go into the kernel, so that their units are all alike.
        scales[place] = (
            1.0 if place == places[0] else float(np.float32(high / (127 if _signed(layers, place) else 255)))
        )
    steps: list[Step] = []
    skipped: set[int] = set()
    for index, layer in enumerate(layers):
        if index in skipped:
            continue
        if not isinstance(layer, Convolution | Dense):
            steps.append(layer)
            continue
        signed, kernel = _signed(layers, index), np.asarray(layer.kernel, np.float64)
        if index == places[0] and task.kind == "vector":
            features = np.asarray(ranges[0], np.float64)
            steps.append(Quantise((127 / features).astype(np.float32), True))
            kernel = kernel * (features / 127)[:, None]
        elif index == places[0]:
            signed = False
        elif not _follows_integers(steps):
            steps.append(Quantise(np.array([1 / scales[index]], np.float32), signed))
        following, between = _following(layers, index)
        skipped |= between
        units = scales[following] if following is not None else None
        steps.append(_integers(layer, kernel, scales[index], signed, units))
        if any(isinstance(layers[place], Flatten) for place in between):
            steps.append(Flatten())
    return QuantisedNetwork(tuple(steps), tuple(ranges))


def apply_layer(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What a layer makes of a batch, in float32.

    Args:
      layer: any but those of IMPALA.
      x: ``[N, ...]``.
    """
    match layer:
        case Convolution():
            sums = _patches(x.astype(np.float32), len(layer.kernel), layer.stride, layer.padding)
            return np.asarray(sums @ layer.kernel.reshape(-1, layer.kernel.shape[-1]) + layer.bias, np.float32)
        case Dense():
            return np.asarray(x @ layer.kernel + layer.bias, np.float32)
        case Flatten():
            return x.reshape(len(x), -1)
        case LayerNorm():
            return _norm(x, layer)
        case Normalise():
            changed = ((x - layer.mean) - layer.mean_rest) / layer.deviation
            return changed if layer.clip is None else np.clip(changed, -layer.clip, layer.clip)
        case Activation():
            return _ACTIVATIONS[layer.name](x).astype(np.float32)
        case Expectation():
            weights = special.softmax(x.reshape(len(x), -1, len(layer.support)), axis=-1)
            return np.asarray((weights * layer.support).sum(axis=-1), np.float32)
    raise TypeError(f"{type(layer).__name__} is no such layer")


_ACTIVATIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "leaky_relu": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: np.float32(0.5) * x * (1 + special.erf(x * np.float32(math.sqrt(0.5)))),
}


def _parts(observations: np.ndarray) -> Iterable[np.ndarray]:
    return (observations[at : at + _AT_ONCE] for at in range(0, len(observations), _AT_ONCE))


def _range(given: Any, is_first: bool, features: int, number: int) -> np.ndarray:
    """Positive float32 ``[]``, or ``[features]`` of the first layer of a vector's network."""
    high = None if given is None else np.asarray(given, np.float32)
    if high is not None and is_first and not high.ndim:
        high = np.full(features, high)
    shape = (features,) if is_first else ()
    if high is None or high.shape != shape or not (np.isfinite(high) & (high > 0)).all():
        said = "missing" if high is None else f"{high.tolist()!r}"
        raise UserError(f"precision: int8: the range of the inputs of layer {number} is {said[:100]}")
    return high


def _positive(high: Any) -> np.ndarray:
    """Ranges as float32; what was never seen to be anything but 0 is taken to be up to 1."""
    return np.where(np.asarray(high) > 0, high, 1.0).astype(np.float32)


def _signed(layers: Sequence[Layer], place: int) -> bool:
    """Whether the inputs of a layer may be negative: they are not behind a ReLU."""
    before = [layer for layer in layers[:place] if not isinstance(layer, Flatten)]
    return not (before and before[-1] == Activation("relu"))


def _following(layers: Sequence[Layer], place: int) -> tuple[int | None, set[int]]:
    """The layer whose units come out of one if only a ReLU stands between, and what is between."""
    between: set[int] = set()
    for index in range(place + 1, len(layers)):
        layer = layers[index]
        if isinstance(layer, Convolution | Dense):
            return (index, between) if any(layers[at] == Activation("relu") for at in between) else (None, set())
        if layer != Activation("relu") and not isinstance(layer, Flatten):
            break
        between.add(index)
    return None, set()


def _follows_integers(steps: Sequence[Step]) -> bool:
    """Whether units come already."""
    last = next((step for step in reversed(steps) if not isinstance(step, Flatten)), None)
    return isinstance(last, Integers) and last.units_scale is not None


def _integers(
    layer: Convolution | Dense, kernel: np.ndarray, input_scale: float, is_signed: bool, units_scale: float | None
) -> Integers:
    flat, bias = kernel.reshape(-1, kernel.shape[-1]), np.asarray(layer.bias, np.float64)
    if not (np.isfinite(flat).all() and np.isfinite(bias).all()):
        raise UserError("precision: int8: a weight is not a finite number")
    if len(flat) * 255 * 127 >= _LARGEST_BIAS:
        raise UserError(f"precision: int8: sums over {len(flat):,} inputs are too large for int32")
    # Where weights are all but 0 their scale is such that the bias can be said.
    scales = np.maximum(np.abs(flat).max(axis=0) / 127, np.abs(bias) / (input_scale * _LARGEST_BIAS))
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    both = np.float64(np.float32(input_scale)) * scales
    return Integers(
        weights=np.clip(np.rint(kernel / scales), -127, 127).astype(np.int8),
        bias=np.rint(bias / both).astype(np.int32),
        weight_scales=scales,
        input_scale=input_scale,
        is_signed=is_signed,
        units_scale=units_scale,
        factors=(both if units_scale is None else both / np.float64(np.float32(units_scale))).astype(np.float32),
        stride=layer.stride if isinstance(layer, Convolution) else 1,
        padding=layer.padding if isinstance(layer, Convolution) else (0, 0),
    )


def _after(step: Step, x: np.ndarray) -> np.ndarray:
    match step:
        case Quantise():
            low, high = (-127, 127) if step.is_signed else (0, 255)
            # What is no number is the lowest, as in C.
            units = np.rint(np.fmin(np.fmax(x * step.factors, low), high))
            return units.astype(np.int8 if step.is_signed else np.uint8)
        case Integers():
            weights = step.weights.reshape(-1, len(step.bias)).astype(np.float64)
            if step.weights.ndim == 4:
                x = _patches(x, len(step.weights), step.stride, step.padding)
            # Whole numbers below 2^53, which float64 multiplies faster than NumPy does integers, to the same.
            sums = (x.astype(np.float64) @ weights).astype(np.int64) + step.bias
            scaled = sums.astype(np.float32) * step.factors
            if step.units_scale is None:
                return scaled
            return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return apply_layer(step, x)


def _patches(x: np.ndarray, size: int, stride: int, padding: tuple[int, int]) -> np.ndarray:
    """What each place of a convolution sees: ``[N, H, W, C]`` to ``[N, h, w, size * size * C]``."""
    x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)


def _norm(x: np.ndarray, layer: LayerNorm) -> np.ndarray:
    """Summed in the order in which C does: from the first feature to the last, in float32."""
    count = np.float32(x.shape[-1])
    mean = np.cumsum(x, axis=-1, dtype=np.float32)[..., -1:] / count
    centred = x - mean
    variance = np.cumsum(centred * centred, axis=-1, dtype=np.float32)[..., -1:] / count
    factor = np.float32(1.0) / np.sqrt(variance + np.float32(NORM_EPSILON))
    return np.asarray(centred * factor * layer.scale + layer.bias, np.float32)
