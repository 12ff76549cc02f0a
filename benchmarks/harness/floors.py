"""What a stage costs at the very least: its operations and bytes, over what this machine was seen to do of each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.measure import seconds_of
from pd_jax.networks.policy import MultiGameNetwork

CONVOLUTION_STRIDES: Mapping[str, int] = {"conv1": 4, "conv2": 2, "conv3": 1}
_TURNS = 5


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one item, such as a sample or a step.

    Attributes:
      flops: floating-point operations; a multiply-add is two.
      bytes: that have to be read or written at least once.
      dtype: that the operations are done in.
    """

    flops: float = 0.0
    bytes: float = 0.0
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least that an item takes, and how much of what it takes that is.

    Attributes:
      flops, bytes: of an item.
      seconds: the longer of what the operations and what the bytes take at the machine's ceilings.
      flops_share: rate of operations over the ceiling (MFU).
      bytes_share: rate of bytes over the ceiling.
    """

    flops: float
    bytes: float
    seconds: float
    flops_share: float
    bytes_share: float


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What the device that JAX uses by default was seen to do, the best of a few tries each.

    Attributes:
      flops: operations a second in a large matrix product, by dtype.
      bytes: bytes a second, read and written, in adding 1 to a large array in place.
    """

    flops: Mapping[str, float]
    bytes: float

    def floor(self, cost: Cost, seconds: float) -> Floor:
        """The floor of an item that takes ``seconds``."""
        by_flops, by_bytes = cost.flops / self.flops[cost.dtype], cost.bytes / self.bytes
        least = max(by_flops, by_bytes)
        return Floor(cost.flops, cost.bytes, least, by_flops / seconds, by_bytes / seconds)

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        return {"flops": dict(self.flops), "bytes": self.bytes}


def measure_ceilings(matrix_size: int, array_bytes: int, dtypes: Sequence[str] = ("float32", "bfloat16")) -> Ceilings:
    """Times a square matrix product of each dtype, and a pass over an array.

    Args:
      matrix_size: rows of the square matrices.
      array_bytes: of the array; it should exceed the caches.
      dtypes: of the matrices.
    """
    flops = {}
    for dtype in dtypes:
        # Numbers as weights have them: on denormals or NaN processors may be slower, on zeros their clocks faster.
        values = np.random.default_rng(0).normal(size=(matrix_size, matrix_size))
        matrix = jnp.asarray(values, dtype)
        product = jax.jit(jnp.matmul)
        flops[dtype] = 2.0 * matrix_size**3 / _best(lambda product=product, matrix=matrix: product(matrix, matrix))
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.arange(array_bytes // 4, dtype=jnp.uint32)

    def pass_over() -> object:
        nonlocal array
        array = add(array)
        return array

    return Ceilings(flops, 2.0 * array.nbytes / _best(pass_over))


def _best(work: Any) -> float:
    return min([seconds_of(work) for _ in range(1 + _TURNS)][1:])


def forward_flops(network: Any, observation_shape: tuple[int, ...], dtype: str = "uint8") -> float:
    """Operations of one sample's way through a network's convolutions and dense layers, the rest being negligible.

    Args:
      network: a linen module of :func:`pd_jax.networks.registry.make_network`, for one game or several. Of several
        games, the mean over the games: a sample goes through its own game's head.
      observation_shape: of one sample, with a leading game axis for networks of several games.
      dtype: of the observations.
    """
    return sum(layer_flops(network, observation_shape, dtype).values())


def training_flops(network: Any, observation_shape: tuple[int, ...], dtype: str = "uint8") -> float:
    """As :func:`forward_flops`, of one sample's share of an update.

    The backward pass takes as many operations again for the gradients of the weights, and for those of the layers'
    inputs; of the frames themselves none is needed, so the first layer is passed twice, not thrice.
    """
    layers = layer_flops(network, observation_shape, dtype)
    first = next(layers[name] for name in ("conv1", "fc1", "output") if name in layers)
    return 3.0 * sum(layers.values()) - first


def layer_flops(network: Any, observation_shape: tuple[int, ...], dtype: str = "uint8") -> dict[str, float]:
    """As :func:`forward_flops`, by layer; several games' heads (``output0`` and so on) together as their mean."""
    games = observation_shape[:1] if isinstance(network, MultiGameNetwork) else ()
    example = jnp.zeros((*games, 1, *observation_shape[len(games) :]), dtype)
    params = jax.eval_shape(network.init, jax.random.key(0), example)["params"]
    kernels = {
        path[-2].key: leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    }
    heads = [name for name in kernels if re.fullmatch(r"output\d+", name)]
    flops = {}
    height, width = observation_shape[-3:-1] if "conv1" in kernels else (0, 0)
    for name, shape in kernels.items():
        if name in CONVOLUTION_STRIDES:
            height, width = ((side - shape[0]) // CONVOLUTION_STRIDES[name] + 1 for side in (height, width))
            flops[name] = 2.0 * height * width * math.prod(shape)
        else:
            # Stacked kernels [G, in, out] are those of several games.
            flops[name] = 2.0 * math.prod(shape[-2:])
    mean_head = {"output": sum(flops.pop(name) for name in heads) / len(heads)} if heads else {}
    return flops | mean_head


def frame_bytes(observation_shape: tuple[int, ...], dtype: str = "uint8") -> float:
    """Bytes of one observation, which the network has to read."""
    return float(math.prod(observation_shape) * np.dtype(dtype).itemsize)
