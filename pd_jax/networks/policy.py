"""A torso and its heads as one network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.networks.heads import MultiGameHead
from pd_jax.networks.memory import Memory
from pd_jax.networks.mixed import JointTorso
from pd_jax.system.kept import kept

T = TypeVar("T")


class PolicyNetwork(nn.Module):
    """A torso and a head: ``init(key, observations)`` and ``apply(variables, observations)``.

    Attributes:
      torso: a linen module, ``[N, ...]`` to features ``[N, F]``.
      head: a linen module, features to float32 ``[N, actions]``.
      memory: between the two; None has none. A network with memory is applied by :meth:`remember`.
    """

    torso: nn.Module
    head: nn.Module
    memory: Memory | None = None

    def __call__(self, observations: Array) -> Array:
        """Maps a batch of observations to float32 ``[N, actions]``; with memory, each opens an episode."""
        if self.memory is None:
            return self.head(self.torso(observations))
        return self.head(_remember_once(self.torso(observations), self.memory))

    def remember(self, observations: Array, is_first: Array, state: Array) -> tuple[Array, Array]:
        """Goes through sequences.

        Args:
          observations: of ``N`` lanes and ``T`` steps, ``[N, T, ...]``.
          is_first: bool ``[N, T]``, where an episode opens.
          state: float32 ``[N, state_size]``, of before the first step.

        Returns:
          float32 ``[N, T, actions]``, and the state after the last step.
        """
        features, state = _recall(self.torso, self.memory, observations, is_first, state)
        return self.head(features.reshape(-1, features.shape[-1])).reshape(*features.shape[:2], -1), state


class MultiGameNetwork(nn.Module):
    """A torso that all games share, and a head for each.

    ``init(key, observations)`` and ``apply(variables, observations)`` for all games at once, or
    ``apply(variables, observations, game, method="one_game")``.

    Attributes:
      torso: a linen module, ``[N, ...]`` to features ``[N, F]``.
      head: of all games.
      memory: between the two, which all games share; None has none.
    """

    torso: nn.Module
    head: MultiGameHead
    memory: Memory | None = None

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
        features = self._of_games(observations.reshape(-1, *observations.shape[2:]))
        if self.memory is not None:
            features = _remember_once(features, self.memory)
        return self.head(features.reshape(*observations.shape[:2], -1))

    def one_game(self, observations: Array, game: int | Array) -> Array:
        """Maps one game's ``[B, ...]`` to float32 ``[B, A]``; ``game`` is an int or an int32 scalar."""
        features = self._of_game(game)(observations)
        return self.head(features if self.memory is None else _remember_once(features, self.memory), game)

    def remember(self, observations: Array, is_first: Array, state: Array) -> tuple[Array, Array]:
        """Goes through sequences of every game; as for one game, with a game axis ``[G, ...]`` in front of all."""
        games, lanes, steps = observations.shape[:3]
        chex.assert_axis_dimension(observations, 0, len(self.num_actions))
        together = observations.reshape(games * lanes, *observations.shape[2:])
        opens, state = is_first.reshape(games * lanes, steps), state.reshape(games * lanes, -1)
        features, state = _recall(self._of_games, self.memory, together, opens, state)
        outputs = self.head(features.reshape(games, lanes * steps, -1))
        return outputs.reshape(games, lanes, steps, -1), state.reshape(games, lanes, -1)

    def one_game_remember(
        self, observations: Array, is_first: Array, state: Array, game: int | Array
    ) -> tuple[Array, Array]:
        """Goes through sequences of one game, as :meth:`PolicyNetwork.remember`."""
        features, state = _recall(self._of_game(game), self.memory, observations, is_first, state)
        outputs = self.head(features.reshape(-1, features.shape[-1]), game)
        return outputs.reshape(*features.shape[:2], -1), state

    def _of_games(self, observations: Array) -> Array:
        """The torso's features ``[G B, F]`` of all games, which are there one after another."""
        if not isinstance(self.torso, JointTorso):
            return self.torso(observations)
        features = self.torso.of_games(observations.reshape(len(self.num_actions), -1, observations.shape[-1]))
        return features.reshape(-1, features.shape[-1])

    def _of_game(self, game: int | Array) -> Callable[[Array], Array]:
        """The torso for one game; one of several parts knows its games by number, and takes no traced one."""
        if not isinstance(self.torso, JointTorso):
            return self.torso
        return functools.partial(self.torso, game=int(game))


def _recall(
    torso: Callable[[Array], Array], memory: Memory | None, observations: Array, is_first: Array, state: Array
) -> tuple[Array, Array]:
    """Features ``[N, T, H]`` of what was seen so far, and the state after the last step."""
    assert memory is not None
    # One large batch for the torso: only the memory goes step by step.
    features = torso(observations.reshape(-1, *observations.shape[2:]))
    by_step = jnp.swapaxes(features.reshape(*observations.shape[:2], -1), 0, 1)
    features, state = memory(by_step, is_first.T, state)
    return jnp.swapaxes(features, 0, 1), state


def _remember_once(features: Array, memory: Memory) -> Array:
    """What the memory gives of features ``[N, F]`` that open episodes."""
    count = len(features)
    outputs, _ = memory(features[None], jnp.ones((1, count), bool), jnp.zeros((count, memory.state_size)))
    return outputs[0]


def count_params(params: Any) -> int:
    """Number of scalars in a pytree of parameters.

    Args:
      params: arrays, or shapes such as those of `jax.eval_shape`.

    Returns:
      the number.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@kept(64)
def shared(network: T) -> T:
    """The first of equal networks. Its ``apply``, by which JAX finds what it has compiled, is no other's equal: methods
    of two objects never are."""
    return network
