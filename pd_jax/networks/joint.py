"""One network that learns several games at once from rewards, and each of its games alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pd_jax.config.games import check_games, check_network
from pd_jax.environments.tasks import Task
from pd_jax.networks.partition import PartSizes
from pd_jax.networks.registry import check_own_torso, make_network
from pd_jax.networks.student import GamePolicy, Student


@dataclasses.dataclass(frozen=True)
class GameNetwork:
    """A network of several games in the place of one game's linen module.

    Attributes:
      apply: ``(variables, observations [N, ...]) -> float32 [N, actions]``, with that game's observations and actions.
    """

    apply: GamePolicy

    def with_sizes(self, sizes: PartSizes) -> GameNetwork:
        """The same network, whose large batches a CPU divides into parts of other sizes."""
        return GameNetwork(dataclasses.replace(self.apply, student=self.apply.student.with_sizes(sizes)))


@dataclasses.dataclass(frozen=True)
class PlayedNetwork:
    """A student with a state, with senses of its own or of several torsos, in the place of a linen module.

    Attributes:
      apply: as play takes it: a `pd_jax.networks.lane_policy.LanePolicy`, or a function of the game's observations.
    """

    apply: Any

    def with_sizes(self, sizes: PartSizes) -> PlayedNetwork:
        """Itself: it plays a few lanes at a time."""
        return self


def make_joint_network(name: str, tasks: Sequence[Task], *, head_hidden: int | None = None, **options: Any) -> Student:
    """A network that several games share, as a student's.

    Args:
      name: as for `pd_jax.networks.registry.make_network`.
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
    student = Student(make_network(name, [task.num_actions for task in tasks], **options), tuple(tasks))
    check_own_torso(name, student.network.torso, student.observation_shape, student.observation_dtype)
    return student
