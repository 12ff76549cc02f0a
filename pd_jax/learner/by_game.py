"""Gradients of each game apart, and how they lie to one another in the layers that the games share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.learner.gradients import MeanLoss, mean_gradients
from pd_jax.types import Batch


def gradients_by_game(
    variables: Any, loss_of: Callable[[Array], MeanLoss], batch: Batch, games: Sequence[int], *, parts: int
) -> tuple[Any, dict[str, Array]]:
    """Gradients and measures of several games, one game after another: the program is that of one game.

    Args:
      variables: the gradients are with respect to.
      loss_of: gives the loss of the game at a place, an int32 scalar; its measures are ``[G]``, of which that game's is
        taken.
      batch: ``[G, B, ...]``.
      games: places of those that are wanted, n of them.
      parts: that each game's gradients are taken in.

    Returns:
      gradients ``[n, ...]``, and measures float32 ``[n]``: means over this device's examples.
    """
    places = jnp.array(games)

    def of_game(one: tuple[Array, Batch]) -> tuple[Any, dict[str, Array]]:
        game, examples = one
        gradients, measures = mean_gradients(
            variables, loss_of(game), examples, axis=0, parts=parts, fetch=lambda part: part
        )
        return gradients, {name: value[game] for name, value in measures.items()}

    own = jax.tree.map(lambda leaf: leaf[places], batch)
    result: tuple[Any, dict[str, Array]] = lax.map(of_game, (places, own))
    return result


def shared_layers(variables: Any) -> tuple[str, ...]:
    """Names of the layers of the torso, from the first to the last.

    Args:
      variables: of a student of several games: ``{"params": {"torso": ..., "head": ...}}``.
    """

    def place(name: str) -> tuple[str, int]:
        letters, digits = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
        return letters, int(digits or 0)

    # Normalisations stand beside the layers that they follow, and convolutions come before what is dense.
    return tuple(sorted((name for name in variables["params"].get("torso", {}) if "norm" not in name), key=place))


def products(gradients: Any) -> Array:
    """Inner products of n gradients, float32 ``[n, n]``, of a pytree of ``[n, ...]``."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)]
    return sum(
        (jnp.matmul(leaf, leaf.T, precision=lax.Precision.HIGHEST) for leaf in flat[1:]),
        start=jnp.matmul(flat[0], flat[0].T, precision=lax.Precision.HIGHEST),
    )


def cosines(inner: Array) -> tuple[Array, Array]:
    """Cosines between gradients, and their norms.

    Args:
      inner: their products, float32 ``[..., n, n]``.

    Returns:
      float32 ``[..., n, n]`` and ``[..., n]``; a gradient that is 0 has no direction, and its cosines are NaN.
    """
    norms = jnp.sqrt(jnp.diagonal(inner, axis1=-2, axis2=-1))
    sizes = norms[..., :, None] * norms[..., None, :]
    return jnp.where(sizes > 0.0, jnp.clip(inner / jnp.where(sizes > 0.0, sizes, 1.0), -1.0, 1.0), jnp.nan), norms
