"""A torso and its heads as one network."""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax
from jax import Array

from pd_jax.networks.heads import MultiGameHead


class PolicyNetwork(nn.Module):
    """A torso and a head: ``init(key, observations)`` and ``apply(variables, observations)``.

    Attributes:
      torso: a linen module, ``[N, ...]`` to features ``[N, F]``.
      head: a linen module, features to float32 ``[N, actions]``.
    """

    torso: nn.Module
    head: nn.Module

    def __call__(self, observations: Array) -> Array:
        """Maps a batch of observations to float32 ``[N, actions]``."""
        return self.head(self.torso(observations))


class MultiGameNetwork(nn.Module):
    """A torso that all games share, and a head for each.

    ``init(key, observations)`` and ``apply(variables, observations)`` for all games at once, or
    ``apply(variables, observations, game, method="one_game")``.

    Attributes:
      torso: a linen module, ``[N, ...]`` to features ``[N, F]``.
      head: of all games.
    """

    torso: nn.Module
    head: MultiGameHead

    @property
    def num_actions(self) -> tuple[int, ...]:
        """Size of every game's action set."""
        return self.head.num_actions

    def __call__(self, observations: Array) -> Array:
        """Maps ``[G, B, ...]`` to float32 ``[G, B, A]``, A the widest action set; ``-inf`` where there is no action.

        Raises:
          AssertionError: there are not as many games as heads.
        """
        chex.assert_axis_dimension(observations, 0, len(self.num_actions))
        # One large batch: convolutions mapped over games would be grouped ones, which are slow everywhere.
        features = self.torso(observations.reshape(-1, *observations.shape[2:]))
        return self.head(features.reshape(*observations.shape[:2], -1))

    def one_game(self, observations: Array, game: int | Array) -> Array:
        """Maps one game's ``[B, ...]`` to float32 ``[B, A]``; ``game`` is an int or an int32 scalar."""
        return self.head(self.torso(observations), game)


def count_params(params: Any) -> int:
    """Number of scalars in a pytree of parameters.

    Args:
      params: arrays, or shapes such as those of `jax.eval_shape`.

    Returns:
      the number.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))
