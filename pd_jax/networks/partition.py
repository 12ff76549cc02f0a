"""Parts that a CPU takes large batches in: through the convolutions, and for gradients.

The activations of a part fit into the caches of the cores. Results are those of the whole batch but for rounding, and
on accelerators nothing is divided.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pd_jax.config.sections import PartsConfig
from pd_jax.networks.convolutions import formulation_on
from pd_jax.networks.mixed import JointTorso
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork, shared
from pd_jax.networks.torsos import AtariTorso
from pd_jax.system.cores import cache_bytes, xla_threads
from pd_jax.system.devices import target_platform

# Networks whose first convolution has at most so many channels are narrow.
_NARROW_CHANNELS = 16
# Whose gradients are taken at once, by what second-level cache all cores have together.
_EXAMPLES_PER_MIB = 32
_MOST_PARTS = 32
_LARGE_CACHE = 2**21
# Parts are smaller than they could be, but no smaller than this, where cores would have none otherwise.
_LEAST_PART = 16


@dataclasses.dataclass(frozen=True)
class PartSizes:
    """How a CPU divides large batches. The order of sums follows from it, and so do the last bits of results.

    Attributes:
      convolution: examples that go through the convolutions at once on one core, for a gradient.
      inference: the same without a gradient, when nothing of a part is kept for long; in small batches fewer, so that
        each core has some.
      narrow: the same of narrow networks.
      at_once: parts that are begun together without a gradient, and what a gradient takes at least.
      most: parts that are begun together with a gradient.
      gradient: examples whose gradients are taken at once.
    """

    convolution: int = 16
    inference: int = 16
    narrow: int = 32
    at_once: int = 2
    most: int = 8
    gradient: int = 64


def machine_sizes() -> PartSizes:
    """The sizes that suit the caches and cores of this machine; always the same on machines that are alike in them.

    Measured on one and two cores (`benchmarks/studies/parts.py`): with 2 MiB of second-level cache each, gradients of
    128 examples instead of 64 are up to 7 % faster, and inference by wide networks in parts of 32 and not 16 by 12 %;
    with less, sizes stay what they were for all machines. Without a gradient as many parts as there are cores are best
    begun together. What more cores want is concluded from there. Parts are written out one by one in a program, so
    there are never very many.
    """
    cores, cache, sizes = xla_threads(), cache_bytes(2), PartSizes()
    if cache is None:
        return sizes
    at_once = min(cores, _MOST_PARTS)
    wanted = max(sizes.gradient, at_once * sizes.convolution, _EXAMPLES_PER_MIB * cores * cache // 2**20)
    parts = min(wanted // sizes.convolution, _MOST_PARTS)
    return dataclasses.replace(
        sizes,
        inference=2 * sizes.inference if cache >= _LARGE_CACHE else sizes.inference,
        at_once=at_once,
        most=max(sizes.most, parts),
        gradient=parts * sizes.convolution,
    )


def part_sizes(config: PartsConfig, otherwise: PartSizes | None = None) -> PartSizes:
    """The sizes that a configuration asks for.

    Args:
      config: the setting ``parts``.
      otherwise: what ``auto`` stands for; by default the sizes of this machine.
    """
    if otherwise is None:
        otherwise = machine_sizes()
    asked = {name: value for name, value in vars(config).items() if value != "auto"}
    return dataclasses.replace(otherwise, **asked)


class PartitionedTorso(AtariTorso):
    """The same torso, whose batches go through the convolutions in parts on a CPU.

    Attributes:
      parts: that a batch is divided into; None is what suits the platform.
      sizes: of such parts.
    """

    parts: int | None = None
    sizes: PartSizes = PartSizes()

    def convolutions(self, observations: Array) -> Array:
        """As those of the torso, in groups of parts."""
        if self.parts is not None:
            return self._in_parts(observations, self.parts)
        # First of all: a batch that is exported has a name instead of a number.
        if formulation_on(target_platform(), self.method) != "matmul":
            return super().convolutions(observations)
        count, sizes = len(observations), self.sizes
        if count <= min(sizes.convolution, sizes.inference, _LEAST_PART):
            return super().convolutions(observations)
        is_narrow = self.spec.channels[0] <= _NARROW_CHANNELS
        part, least = (sizes.narrow, sizes.narrow) if is_narrow else (sizes.inference, _LEAST_PART)
        groups = (part * together for together in range(sizes.at_once, 0, -1))
        group = next((size for size in groups if count % size == 0), count)
        parts = _parts_of(group, part, sizes.most, min(sizes.at_once, group // least))

        def next_group(torso: PartitionedTorso, _: None, planes: Array) -> tuple[None, Array]:
            return None, torso._in_parts(planes.transpose(0, 2, 3, 1), parts)

        def in_turn(torso: PartitionedTorso, observations: Array) -> Array:
            if group == count:
                return torso._in_parts(observations, parts)
            # With frames in front, as they come: see `pd_jax.networks.convolutions`.
            planes = observations.transpose(0, 3, 1, 2)
            scan = nn.scan(next_group, variable_broadcast="params", split_rngs={"params": False})
            _, features = scan(torso, None, planes.reshape(-1, group, *planes.shape[1:]))
            return features.reshape(count, -1)

        def for_gradient(torso: PartitionedTorso, observations: Array) -> Array:
            return torso._in_parts(observations, _parts_of(count, sizes.convolution, sizes.most))

        # What a gradient needs would have to be kept of every group, which takes longer than is won.
        return nn.custom_vjp(
            in_turn,
            forward_fn=lambda torso, observations: nn.vjp(for_gradient, torso, observations),
            backward_fn=lambda pull_back, gradient: pull_back(gradient),
        )(self, observations)

    def _in_parts(self, observations: Array, parts: int) -> Array:
        """In so many parts of one size, but for the last, which may be smaller."""
        size = max(-(-len(observations) // parts), 1)
        starts = range(0, max(len(observations), 1), size)
        features = [super(PartitionedTorso, self).convolutions(observations[start : start + size]) for start in starts]
        return jnp.concatenate(features) if len(features) > 1 else features[0]


def _parts_of(count: int, part: int, most: int, least: int = 1) -> int:
    """How many parts of at least so many examples a batch is divided into; of fewer, to be at least so many parts."""
    return max(min(max(count // part, least), most), 1)


def gradient_parts(network: Any, batch_size: int, num_games: int = 1, *, platform: str) -> int:
    """Parts of one size that the gradients of a minibatch are best taken in, one after another.

    Args:
      network: a linen module, whose gradients are taken.
      batch_size: examples of each game.
      num_games: that are learnt from at once.
      platform: of the devices that take them.
    """
    torso, examples = _divided(network), batch_size * num_games
    if not isinstance(torso, PartitionedTorso) or examples <= torso.sizes.gradient:
        return 1
    if formulation_on(platform, torso.method) != "matmul":
        return 1
    sizes = torso.sizes
    least = -(-examples // sizes.gradient)
    parts = next((count for count in range(least, batch_size) if batch_size % count == 0), batch_size)
    # Of numbers with few divisors the parts would be too small to pay.
    return parts if examples // parts >= sizes.at_once * sizes.convolution else 1


def with_sizes(network: Any, sizes: PartSizes) -> Any:
    """The same network, whose batches are divided into parts of other sizes; one that divides none as it is."""
    torso = _divided(network)
    if not isinstance(torso, PartitionedTorso) or torso.sizes == sizes:
        return network
    return shared(_with_divided(network, torso.clone(sizes=sizes)))


def in_one_part(network: PolicyNetwork | MultiGameNetwork) -> PolicyNetwork | MultiGameNetwork:
    """The same network, whose batches are not divided: what all parts of a batch take at once is what this takes."""
    torso = _divided(network)
    return _with_divided(network, torso.clone(parts=1)) if isinstance(torso, PartitionedTorso) else network


def _divided(network: Any) -> Any:
    """The torso of a network that may divide batches: its own, or that for frames among several."""
    torso = getattr(network, "torso", None)
    return torso.frames if isinstance(torso, JointTorso) else torso


def _with_divided(network: Any, torso: PartitionedTorso) -> Any:
    whole = network.torso
    return network.clone(torso=whole.clone(frames=torso) if isinstance(whole, JointTorso) else torso)
