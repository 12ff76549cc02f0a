"""A console's memory as bits: what a network of dense layers sees of bytes that tell places, flags and counters."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.networks.normalisation import Normalisation

BITS = 8


def bits_of(observations: Array) -> Array:
    """The bits of bytes that are told as numbers from 0 to 1, as -1 and 1.

    One byte of a game may hold a place to a pixel, and whether a ball hits depends on the difference of two: of numbers
    between 0 and 1 that is a step of 1/255, for which a dense layer's weights have to grow. Each bit is an input of its
    own here.

    Args:
      observations: float ``[..., D]``, bytes times 1/255. What lies between two bytes is the nearer one, what lies
        outside of 0 and 1 the first or the last.

    Returns:
      float32 ``[..., 8 D]``, of each byte its highest bit first.
    """
    numbers = jnp.clip(jnp.rint(observations.astype(jnp.float32) * 255.0), 0.0, 255.0).astype(jnp.uint8)
    shifts = np.arange(BITS - 1, -1, -1, dtype=np.uint8)
    bits = (numbers[..., None] >> shifts.reshape((1,) * observations.ndim + (-1,))) & np.uint8(1)
    signs = 2.0 * bits.astype(jnp.float32) - 1.0
    return signs.reshape(*observations.shape[:-1], BITS * observations.shape[-1])


def factors_of_bits(normalisation: Normalisation, size: int) -> np.ndarray:
    """What each byte's bits are multiplied by, float32 ``[size]``: 0 where it never moved in the play that is known.

    Bits that stand still are so many biases, which learn together and drown the others; those that are left are larger
    by as much as they are fewer, so that the first layer sees as much as initialisation expects.

    Args:
      normalisation: the statistics of some play.
      size: D, bytes of an observation.
    """
    moves = np.broadcast_to(np.asarray(normalisation.variance) > 0.0, size)
    return np.where(moves, np.sqrt(size / max(int(moves.sum()), 1)), 0.0).astype(np.float32)
