"""The last actions of a lane as numbers that a network sees: those that were played, whoever chose them.

The newest comes first. Of a task that chooses among actions each is one-hot, of a continuous task its components in
units of half their range, from -1 to 1. An action from before the episode is all zeros.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.environments.tasks import Task
from pd_jax.networks.continuous import action_range


def encode(task: Task, actions: Any) -> Array:
    """Actions as numbers.

    Args:
      task: whose they are.
      actions: int ``[...]``, or of a continuous task float32 ``[..., num_actions]``.

    Returns:
      float32 ``[..., num_actions]``.
    """
    if not task.is_continuous:
        return jax.nn.one_hot(actions, task.num_actions, dtype=jnp.float32)
    low, high = action_range(task)
    return (jnp.asarray(actions, jnp.float32) - (high + low) / 2) / ((high - low) / 2)


def encode_all(task: Task, actions: Any, is_there: Any) -> Array:
    """Several actions, one after another.

    Args:
      task: whose they are.
      actions: as for :func:`encode`, ``[..., n]`` or ``[..., n, num_actions]``, the newest first.
      is_there: bool ``[..., n]``, False where the episode has no such action yet.

    Returns:
      float32 ``[..., n * num_actions]``.
    """
    encoded = jnp.where(is_there[..., None], encode(task, actions), 0.0)
    return encoded.reshape(*encoded.shape[:-2], -1)


def shift_in(task: Task, recent: Any, actions: Any) -> Array:
    """The last actions after another one was played.

    Args:
      task: whose they are.
      recent: float32 ``[L, n * num_actions]``.
      actions: that were played, ``[L]`` or ``[L, num_actions]``.

    Returns:
      float32 ``[L, n * num_actions]``.
    """
    kept = recent[:, : recent.shape[1] - task.num_actions]
    return jnp.concatenate([encode(task, actions), kept], axis=1)
