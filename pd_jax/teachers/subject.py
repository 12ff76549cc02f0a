"""What ``pd-jax train-teacher`` trains: one game's network, or one that several games share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config import TrainTeacherConfig, check_network
from pd_jax.distributed import DeviceGroup
from pd_jax.envs import Environment
from pd_jax.memory import MemoryEstimate
from pd_jax.memory_parts import checkpoint_part, programs_part
from pd_jax.networks import count_params, make_network
from pd_jax.students import Student
from pd_jax.tasks import Task
from pd_jax.teachers import dqn, joint_dqn, joint_pqn, pqn
from pd_jax.teachers.algorithm import Algorithm, Iteration
from pd_jax.teachers.joint import GameNetwork, make_joint_network
from pd_jax.teachers.memory import learning_parts

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({"pqn": pqn, "dqn": dqn})
"""For one game, by name."""
JOINT_ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({"pqn": joint_pqn, "dqn": joint_dqn})
"""For several at once."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What learns, and how.

    Attributes:
      student: the network, with its games.
      algorithm: for one game, or for several at once.
      networks: what plays each game.
    """

    student: Student
    algorithm: Algorithm
    networks: tuple[Any, ...]

    @classmethod
    def make(cls, config: TrainTeacherConfig, tasks: tuple[Task, ...]) -> Subject:
        """Raises a UserError if there is no such network for these games."""
        if len(tasks) == 1:
            (task,) = tasks
            check_network(config.network, task)
            algorithm = ALGORITHMS[config.algorithm]
            network = make_network(
                config.network, task.num_actions, layer_norm=config.uses_layer_norm, hidden_sizes=config.mlp_hidden
            )
            return cls(Student(network, tasks), algorithm, (network,))
        algorithm = JOINT_ALGORITHMS[config.algorithm]
        student = make_joint_network(
            config.network,
            tasks,
            layer_norm=config.uses_layer_norm,
            hidden_sizes=config.mlp_hidden,
            channels=config.channels,
            hidden=config.hidden,
            head_hidden=config.head_hidden,
        )
        return cls(student, algorithm, tuple(GameNetwork(student.policy(game)) for game in range(len(tasks))))

    def memory(self, config: TrainTeacherConfig) -> MemoryEstimate:
        """What its training takes."""
        state = jax.eval_shape(lambda: self.init(config.learning, config.seed))
        learning = learning_parts(self.student, config.learning, state, "network", config.evaluation)
        parts = (*learning, checkpoint_part("network", state, count_params(state.variables)), programs_part())
        return MemoryEstimate(parts, DeviceGroup.local(1))

    def init(self, learning: Any, seed: int) -> Any:
        """The algorithm's fresh state."""
        leading = (self.student.num_games, 1) if self.is_joint else (1,)
        example = jnp.zeros((*leading, *self.student.observation_shape), self.student.observation_dtype)
        return self.algorithm.init(self._learner, example, learning, jax.random.key(seed))

    def start(self, environments: tuple[Environment, ...], learning: Any, seed: int) -> Any:
        """The algorithm's play at its beginning."""
        return self.algorithm.start(self._arena(environments), learning, jax.random.key(seed))

    def make_iteration(self, environments: tuple[Environment, ...], learning: Any) -> Iteration:
        """The algorithm's iteration."""
        return self.algorithm.make_iteration(self._learner, self._arena(environments), learning)

    @property
    def is_joint(self) -> bool:
        """Whether several games are learnt at once."""
        return len(self.networks) > 1

    @property
    def _learner(self) -> Any:
        return self.student if self.is_joint else self.student.network

    def _arena(self, environments: tuple[Environment, ...]) -> Any:
        return environments if self.is_joint else environments[0]
