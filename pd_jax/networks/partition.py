"""Parts that a CPU takes large batches in: through the convolutions, and for gradients.

The activations of a part fit into the caches of the cores. Results are those of the whole batch but for rounding, and
on accelerators nothing is divided.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pd_jax.networks.convolutions import formulation_on
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.networks.torsos import AtariTorso
from pd_jax.system.devices import target_platform

# Examples that a CPU takes through the convolutions at once: their activations fit into the cache of a core, while the
# other cores work on the next ones. Fewer than two such parts are faster as one. XLA begins all of them together, and
# many leave the caches waiting for one another's activations: without a gradient two at a time, with one at most eight.
# A gradient keeps what the next layers need of a part; without one, narrow layers leave room for twice as many.
_PART = 16
_NARROW = 16
_MOST_PARTS = 8
# What a gradient keeps of more examples than so many outgrows the caches that the cores share: then so many at a time,
# but no fewer than what keeps two cores busy.
_GRADIENT_PART = 64


class PartitionedTorso(AtariTorso):
    """The same torso, whose batches go through the convolutions in parts on a CPU.

    Attributes:
      parts: that a batch is divided into; None is what suits the platform.
    """

    parts: int | None = None

    def convolutions(self, observations: Array) -> Array:
        """As those of the torso, in groups of parts."""
        count = len(observations)
        if self.parts is not None:
            return self._in_parts(observations, self.parts)
        if count <= _PART or formulation_on(target_platform(), self.method) != "matmul":
            return super().convolutions(observations)
        part = 2 * _PART if self.spec.channels[0] <= _NARROW else _PART
        group = next((size for size in (2 * part, part) if count % size == 0), count)

        def next_group(torso: PartitionedTorso, _: None, planes: Array) -> tuple[None, Array]:
            return None, torso._in_parts(planes.transpose(0, 2, 3, 1), _parts_of(group, part))

        def in_turn(torso: PartitionedTorso, observations: Array) -> Array:
            if group == count:
                return torso._in_parts(observations, _parts_of(count, part))
            # With frames in front, as they come: see `pd_jax.networks.convolutions`.
            planes = observations.transpose(0, 3, 1, 2)
            scan = nn.scan(next_group, variable_broadcast="params", split_rngs={"params": False})
            _, features = scan(torso, None, planes.reshape(-1, group, *planes.shape[1:]))
            return features.reshape(count, -1)

        def for_gradient(torso: PartitionedTorso, observations: Array) -> Array:
            return torso._in_parts(observations, _parts_of(count, _PART))

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


def _parts_of(count: int, part: int) -> int:
    """How many parts of at least so many examples a batch is divided into."""
    return max(min(count // part, _MOST_PARTS), 1)


def gradient_parts(network: Any, batch_size: int, num_games: int = 1, *, platform: str) -> int:
    """Parts of one size that the gradients of a minibatch are best taken in, one after another.

    Args:
      network: a linen module, whose gradients are taken.
      batch_size: examples of each game.
      num_games: that are learnt from at once.
      platform: of the devices that take them.
    """
    torso, examples = getattr(network, "torso", None), batch_size * num_games
    if not isinstance(torso, PartitionedTorso) or examples <= _GRADIENT_PART:
        return 1
    if formulation_on(platform, torso.method) != "matmul":
        return 1
    least = -(-examples // _GRADIENT_PART)
    parts = next((count for count in range(least, batch_size) if batch_size % count == 0), batch_size)
    # Of numbers with few divisors the parts would be too small to pay.
    return parts if examples // parts >= 2 * _PART else 1


def in_one_part(network: PolicyNetwork | MultiGameNetwork) -> PolicyNetwork | MultiGameNetwork:
    """The same network, whose batches are not divided: what all parts of a batch take at once is what this takes."""
    if not isinstance(network.torso, PartitionedTorso):
        return network
    return network.clone(torso=network.torso.clone(parts=1))
