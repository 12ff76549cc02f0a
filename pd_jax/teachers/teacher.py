"""A teacher in memory: its network, weights and metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.networks import partition
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.joint import GameNetwork, PlayedNetwork
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.partition import PartSizes
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.checks import build_network
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.types import PolicyApply


class Teacher(GreedyPolicy):
    """A policy network that labels observations with Q-values (or logits).

    Args:
      metadata: what it is.
      params: nested dict of float32 arrays that fit the network the metadata names.
      source: the file it came from.
      sha256: of that file.
      network: takes the parameters, in the place of the network the metadata names.

    Attributes:
      network: the linen module, or another object with its ``apply(teacher.variables, observations)``.
      variables: ``{"params": ...}`` on the default device.
    """

    def __init__(self, metadata: TeacherMetadata, params: Any, source: str, sha256: str, network: Any = None) -> None:
        self.metadata = metadata
        self.source = source
        self.sha256 = sha256
        self.network = build_network(metadata) if network is None else network
        self.variables = {"params": jax.tree.map(jnp.asarray, params)}
        task = get_task(metadata.game)
        # The tanh of a deterministic teacher is its network's own.
        is_squashed = metadata.squashed and metadata.output == "gaussian"
        self._task = dataclasses.replace(task, squashed=True) if is_squashed else task

    def __call__(self, observations: Array | np.ndarray) -> Array:
        """Q-values (or logits) of a batch: :meth:`outputs`.

        Args:
          observations: uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``.

        Returns:
          float32 ``[N, actions]``.

        Raises:
          ObservationsError: another shape or dtype; a UserError and a ValueError.
        """
        return self.outputs(observations)

    @property
    def name(self) -> str:
        """As its metadata has it."""
        return self.metadata.name

    @property
    def task(self) -> Task:
        """The game it plays."""
        return self._task

    @property
    def members(self) -> tuple[Teacher, ...]:
        """Itself; of a committee, the teachers that are in it."""
        return (self,)

    @property
    def apply(self) -> PolicyApply:
        """The network's: ``(variables, observations [N, ...]) -> float32 [N, actions]``."""
        apply: PolicyApply = self.network.apply
        return apply

    @property
    def carries(self) -> str:
        """What its state is for, in words: of a run's student that has one; ``""`` of others."""
        return "carries a state from step to step" if isinstance(self.network.apply, LanePolicy) else ""

    def outputs(self, observations: Array | np.ndarray) -> Array:
        """As of every policy; a teacher with a state is asked in play alone."""
        if self.carries:
            raise UserError(
                f"{self.name} {self.carries}, and is asked in play alone; load_student of its run takes one"
            )
        return super().outputs(observations)

    @property
    def gives_logits(self) -> bool:
        """Whether the outputs are a policy's instead of Q-values."""
        return self.metadata.output != "q"

    @property
    def num_outputs(self) -> int:
        """O: as many as there are actions, or of a Gaussian twice as many as an action has components."""
        return self.metadata.num_outputs

    def with_sizes(self, sizes: PartSizes) -> Teacher:
        """The same teacher, whose large batches a CPU divides into parts of other sizes; itself where nothing
        differs."""
        network = self.network
        is_own = isinstance(network, GameNetwork | PlayedNetwork)
        other = network.with_sizes(sizes) if is_own else partition.with_sizes(network, sizes)
        if other == network:
            return self
        return Teacher(self.metadata, self.variables["params"], self.source, self.sha256, other)


def bundled_names() -> tuple[str, ...]:
    """Names of the teachers that come with the package.

    Returns:
      what `load` and ``--teacher`` take.
    """
    return tuple(bundled_files())


def count_teachers_params(teachers: Iterable[Teacher]) -> int:
    """Number of scalars of all teachers together; a network that several games share is one teacher."""
    each = [member for teacher in teachers for member in teacher.members]
    return sum({member.sha256: member.num_params for member in each}.values())
