"""Parts that a CPU takes a batch through the convolutions in."""

from __future__ import annotations

import flax.linen as nn

from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.networks.torsos import _CPU_PART, AtariTorso, _method

# What a gradient keeps of more examples than so many outgrows the caches that the cores share: then so many at a time,
# but no fewer than what keeps two cores busy.
_CPU_GRADIENT_PART = 64


def gradient_parts(network: nn.Module, batch_size: int, num_games: int = 1) -> int:
    """Parts of one size that the gradients of a minibatch are best taken in, one after another, on this platform.

    Args:
      network: whose gradients are taken.
      batch_size: examples of each game.
      num_games: that are learnt from at once.
    """
    torso, examples = getattr(network, "torso", None), batch_size * num_games
    if not isinstance(torso, AtariTorso) or _method(torso.method) != "matmul" or examples <= _CPU_GRADIENT_PART:
        return 1
    least = -(-examples // _CPU_GRADIENT_PART)
    parts = next((count for count in range(least, batch_size) if batch_size % count == 0), batch_size)
    # Of numbers with few divisors the parts would be too small to pay.
    return parts if examples // parts >= 2 * _CPU_PART else 1


def in_one_part(network: PolicyNetwork | MultiGameNetwork) -> PolicyNetwork | MultiGameNetwork:
    """The same network, whose batches are not divided: what all parts of a batch take at once is what this takes."""
    if not isinstance(network.torso, AtariTorso):
        return network
    return network.clone(torso=network.torso.clone(parts=1))
