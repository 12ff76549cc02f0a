"""One network that learns several games at once: what the algorithms that do so share.

The network is a student's: a torso, and a head for each game. It learns from rewards, as a teacher does (Multi-DQN of
Rusu et al. 2016, section 5.3), so that there is something to compare a distilled student with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.config import check_games, check_network
from pd_jax.networks import make_network
from pd_jax.students import GamePolicy, Student
from pd_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class GameNetwork:
    """A network of several games in the place of one game's linen module.

    Attributes:
      apply: ``(variables, observations [N, ...]) -> float32 [N, actions]``, with that game's observations and actions.
    """

    apply: GamePolicy


def make_joint_network(name: str, tasks: Sequence[Task], *, head_hidden: int | None = None, **options: Any) -> Student:
    """A network that several games share, as a student's.

    Args:
      name: as for `pd_jax.networks.make_network`.
      tasks: the games, in the order of the heads.
      head_hidden: units of the hidden layer of each head; None is that function's own number.
      **options: that function's.

    Raises:
      UserError: the network cannot be made, or cannot see what all of the games show.
    """
    check_games(tasks)
    for task in tasks:
        check_network(name, task)
    if head_hidden is not None:
        options["head_hidden"] = head_hidden
    return Student(make_network(name, [task.num_actions for task in tasks], **options), tuple(tasks))


def game_keys(key: Array, num_games: int) -> list[Array]:
    """A key for each game."""
    return [jax.random.fold_in(key, game) for game in range(num_games)]


def mean_q(student: Student, q_values: Array) -> Array:
    """Means ``[G]`` of ``[G, B, A]`` over the actions that each game has."""
    mask = jnp.asarray(student.mask)[:, None]
    return jnp.where(mask, q_values, 0.0).sum(axis=(1, 2)) / (mask.sum(axis=(1, 2)) * q_values.shape[1])
