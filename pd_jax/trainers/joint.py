"""One network that learns several games at once: what the algorithms that do so share.

The network is a student's: a torso, and a head for each game. It learns from rewards, as a teacher does (Multi-DQN of
Rusu et al. 2016, section 5.3), so that there is something to compare a distilled student with.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.networks.student import Student


def game_keys(key: Array, num_games: int) -> list[Array]:
    """A key for each game."""
    return [jax.random.fold_in(key, game) for game in range(num_games)]


def mean_q(student: Student, q_values: Array) -> Array:
    """Means ``[G]`` of ``[G, B, A]`` over the actions that each game has."""
    mask = jnp.asarray(student.mask)[:, None]
    return jnp.where(mask, q_values, 0.0).sum(axis=(1, 2)) / (mask.sum(axis=(1, 2)) * q_values.shape[1])
