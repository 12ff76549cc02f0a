"""When training blows up: say so, before a broken state takes the place of a good checkpoint."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.errors import UserError


class DivergenceError(UserError):
    """A loss or a weight is NaN or infinite."""


def check_loss(loss: float, when: str, remedy: str) -> None:
    """Raises a DivergenceError if a loss is NaN or infinite.

    Args:
      loss: of the updates before ``when``.
      when: such as ``"update 1,000"``.
      remedy: what would be right.
    """
    if not math.isfinite(loss):
        raise DivergenceError(f"the loss became {loss} by {when}; the checkpoints before it are sound: {remedy}")


def check_weights(variables: Any, when: str, remedy: str) -> None:
    """Raises a DivergenceError if a weight is NaN or infinite: no loss shows yet what the last update did.

    Args:
      variables: a pytree of arrays.
      when: such as ``"update 1,000"``.
      remedy: what would be right.
    """
    if not _all_finite(variables):
        raise DivergenceError(
            f"the weights became NaN or infinite by {when}; the checkpoints before it are sound: {remedy}"
        )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
