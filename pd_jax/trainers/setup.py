"""What ``pd-jax train-teacher`` trains: one game's network, or one that several games share."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.actors.stepping import stepping_options
from pd_jax.config.algorithms import PPOConfig
from pd_jax.config.games import MLPS, check_network
from pd_jax.config.guidance import GuidanceConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.ale import check_backend
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.networks.joint import GameNetwork, make_joint_network
from pd_jax.networks.partition import part_sizes, with_sizes
from pd_jax.networks.policy import count_params
from pd_jax.networks.registry import check_own_torso, make_network
from pd_jax.networks.student import Student
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.resources.parts import checkpoint_part, programs_part
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.parts import settle
from pd_jax.runs.start import goes_on, saved_steps
from pd_jax.runs.students import load_teacher
from pd_jax.runs.trackers import check_trackers
from pd_jax.system.devices import DeviceGroup
from pd_jax.system.progress import print_warning
from pd_jax.teachers import Teacher
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.teachers.tasks import check_is_one, check_protocol
from pd_jax.trainers import dqn, joint_dqn, joint_pqn, ppo, pqn
from pd_jax.trainers.algorithm import Algorithm, Iteration, shared_iteration
from pd_jax.trainers.guidance import make_guided
from pd_jax.trainers.guided_pqn import GuidedPQN
from pd_jax.trainers.memory import learning_parts, teacher_part
from pd_jax.trainers.teacher_writer import run_settings

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({"pqn": pqn, "dqn": dqn, "ppo": ppo})
"""For one game, by name."""
JOINT_ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({"pqn": joint_pqn, "dqn": joint_dqn})
"""For several at once."""


_MAY_CHANGE = frozenset(
    {f"{name}.{key}" for name in ALGORITHMS for key in ("total_steps", "learning_rate", "epsilon_end")}
    | {"evaluation", "init_from"}
)
"""What a resumed run may set anew: how long it goes on, how fast it learns and how it is scored."""


_MOSTLY_RANDOM = 0.5
"""Share of random actions from which on hardly anything is left of a start's own play."""


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """What learns, and how.

    Attributes:
      config: with the games' names, the layers' norm and the sizes of parts filled in.
      student: the network, with its games.
      algorithm: for one game, or for several at once.
      networks: what plays each game.
    """

    config: TrainTeacherConfig
    student: Student
    algorithm: Algorithm
    networks: tuple[Any, ...]

    @classmethod
    def make(cls, config: TrainTeacherConfig, tasks: tuple[Task, ...]) -> TrainingSetup:
        """Raises a UserError if there is no such network for these games."""
        if len(tasks) == 1:
            (task,) = tasks
            check_network(config.network, task)
            algorithm = ALGORITHMS[config.algorithm]
            if config.algorithm == "ppo":
                policy = ppo.make_policy(task, config.ppo, config.mlp_hidden)
                return cls(config, Student(policy.network, tasks), algorithm, (policy,))
            network = make_network(
                config.network, task.num_actions, layer_norm=config.uses_layer_norm, hidden_sizes=config.mlp_hidden
            )
            check_own_torso(config.network, network.torso, task.observation_shape, task.observation_dtype)
            network = with_sizes(network, part_sizes(config.parts))
            return cls(config, Student(network, tasks), algorithm, (network,))
        algorithm = JOINT_ALGORITHMS[config.algorithm]
        student = make_joint_network(
            config.network,
            tasks,
            layer_norm=config.uses_layer_norm,
            hidden_sizes=config.mlp_hidden,
            channels=config.channels,
            hidden=config.hidden,
            head_hidden=config.head_hidden,
        ).with_sizes(part_sizes(config.parts))
        networks = tuple(GameNetwork(student.policy(game)) for game in range(len(tasks)))
        return cls(config, student, algorithm, networks)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The games."""
        return self.student.tasks

    def memory(self) -> MemoryEstimate:
        """What its training takes."""
        state, config = jax.eval_shape(self.init), self.config
        learning = learning_parts(self.student, config.learning, state, "network", config.evaluation)
        if self.guided is not None:
            learning = (*learning, teacher_part(self.guided, config.pqn))
        parts = (*learning, checkpoint_part("network", state, count_params(state.variables)), programs_part())
        return MemoryEstimate(parts, DeviceGroup.local(1))

    def init(self) -> Any:
        """The algorithm's fresh state."""
        leading = (self.student.num_games, 1) if self.is_joint else (1,)
        example = jnp.zeros((*leading, *self.student.observation_shape), self.student.observation_dtype)
        return self.algorithm.init(self._learner, example, self.config.learning, jax.random.key(self.config.seed))

    def open_environments(self, seed: int) -> tuple[Environment, ...]:
        """The lanes of every game."""
        learning, env = self.config.learning, self.config.env
        options, stepping = env.environment_options(), stepping_options(env.stepping, backend=env.backend)
        return tuple(
            Environment(task, learning.num_lanes, seed, episodic_life=learning.episodic_life, **options, **stepping)
            for task in self.tasks
        )

    def start(self, environments: tuple[Environment, ...], seed: int) -> Any:
        """The algorithm's play at its beginning."""
        return self.algorithm.start(self._arena(environments), self.config.learning, jax.random.key(seed))

    def make_iteration(self, environments: tuple[Environment, ...]) -> Iteration:
        """The algorithm's iteration; of equal settings what was compiled is taken again."""
        if self.guided is not None:
            return self.algorithm.make_iteration(self._learner, self._arena(environments), self.config.learning)
        return shared_iteration(
            self.algorithm, self._learner, environments, self.config.learning, is_joint=self.is_joint
        )

    def updates_done(self, state: Any) -> int:
        """Updates behind a state."""
        return self.algorithm.updates_done(state, self.config.learning, len(self.tasks))

    def normalisation(self, variables: Any) -> dict[str, Any]:
        """What a teacher file is to say of the statistics among a policy's variables; ``{}`` if there are none."""
        policy = self.networks[0]
        return policy.normalisation(variables) if isinstance(policy, ppo.GaussianPolicy) else {}

    def variables_of(self, params: Any, metadata: TeacherMetadata) -> Any:
        """Undoes what writing a teacher file does."""
        variables: Any = {"params": jax.tree.map(jnp.asarray, params)}
        policy = self.networks[0]
        if isinstance(policy, ppo.GaussianPolicy):
            variables |= policy.statistics_of(metadata.normalisation, self.tasks[0])
        return variables

    @property
    def guided(self) -> GuidedPQN | None:
        """The algorithm, if a teacher guides it."""
        return self.algorithm if isinstance(self.algorithm, GuidedPQN) else None

    @property
    def is_joint(self) -> bool:
        """Whether several games are learnt at once."""
        return len(self.networks) > 1

    @property
    def _learner(self) -> Any:
        return self.student if self.is_joint else self.networks[0]

    def _arena(self, environments: tuple[Environment, ...]) -> Any:
        return environments if self.is_joint else environments[0]


def make_training_setup(config: TrainTeacherConfig) -> TrainingSetup:
    """Checks everything that a training refers to.

    Raises:
      UserError: there is no such game, or no such network for these games.
    """
    check_trackers(config.track)
    tasks = tuple(get_task(game) for game in config.game)
    check_backend(config.env.backend, *tasks)
    config = dataclasses.replace(
        config,
        game=tuple(task.name for task in tasks),
        layer_norm=_layer_norm(config, tasks),
        parts=settle(config.parts, config.out, resume=config.resume),
        guidance=_guidance(config),
    )
    setup = TrainingSetup.make(config, tasks)
    if not config.guidance.is_on:
        return setup
    return dataclasses.replace(setup, algorithm=make_guided(config, setup.student))


def _layer_norm(config: TrainTeacherConfig, tasks: Sequence[Task]) -> bool:
    """Whether layers are normalised: a student that goes on under a teacher stays the network that it is."""
    if config.layer_norm is not None or not config.guidance.is_on:
        return config.uses_layer_norm
    if goes_on(config.out, resume=config.resume):
        return read_run(config.out).config.get("layer_norm") is not False
    if config.init_from is None:
        return config.uses_layer_norm
    return load_teacher(config.init_from, tasks[0].name).metadata.layer_norm


def _guidance(config: TrainTeacherConfig) -> GuidanceConfig:
    """With its fading: that of the run that goes on, where none is given."""
    guidance = config.guidance
    if not guidance.is_on or guidance.distillation_weight is not None:
        return guidance
    if not (config.resume and os.path.isfile(os.path.join(config.out, "config.yaml"))):
        return guidance.settled
    there = read_run(config.out).config.get("guidance")
    kept = there.get("distillation_weight") if isinstance(there, dict) else None
    return dataclasses.replace(guidance, distillation_weight=None if kept is None else tuple(map(str, kept)))


def open_training_run(config: TrainTeacherConfig) -> RunDirectory:
    """The run's directory, made or taken up.

    Raises:
      UserError: something else is there, or a run that has done more than it is now to do.
    """
    return RunDirectory.create(
        config.out,
        "train-teacher",
        run_settings(config),
        resume=config.resume,
        may_change=_MAY_CHANGE,
        check=functools.partial(_check_goes_on, config),
    )


def _check_goes_on(config: TrainTeacherConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError if a run that is resumed has done more than it is now to do."""
    key, wanted = f"{config.algorithm}.total_steps", config.learning.total_steps
    done = max(saved_steps(config.out), default=0)
    planned = there.get(config.algorithm, {}).get("total_steps", wanted)
    # The last iteration may go beyond what was planned.
    if wanted < planned and wanted < done:
        raise UserError(f"{key}: {wanted:,} is less than the {done:,} steps that the run in {config.out} has behind it")


def load_start(config: TrainTeacherConfig, tasks: Sequence[Task]) -> Teacher | None:
    """The teacher that ``config.init_from`` names, or the student of a run as one.

    Args:
      config: of the training.
      tasks: its games.

    Returns:
      None if no teacher is named, or if the run goes on from a checkpoint of its own.

    Raises:
      UserError: there is no such teacher, or training cannot go on from its weights.
    """
    if config.init_from is None or goes_on(config.out, resume=config.resume):
        return None
    # A file of several games is the same weights for each of them.
    teacher = load_teacher(config.init_from, tasks[0].name)
    _check_start(teacher, config, tasks)
    learning = config.learning
    if not isinstance(learning, PPOConfig) and (epsilon := learning.epsilon_start) >= _MOSTLY_RANDOM:
        print_warning(
            f"{config.algorithm}.epsilon_start: {epsilon:g} has the play begin at random, not as {config.init_from} "
            "plays; a small one, such as 0.05, goes on from what it can do"
        )
    return teacher


def _check_start(teacher: Teacher, config: TrainTeacherConfig, tasks: Sequence[Task]) -> None:
    """Raises a UserError unless training can go on from this teacher's weights."""
    check_is_one(teacher, "init_from")
    check_protocol(teacher, config)
    metadata = teacher.metadata
    games, wanted_games = metadata.games or (metadata.game,), tuple(task.name for task in tasks)
    wanted = (wanted_games, config.network, config.uses_layer_norm)
    if (games, metadata.network, metadata.layer_norm) != wanted:
        raise UserError(
            f"init_from: {config.init_from} is a {metadata.network} for {', '.join(games)} "
            f"(layer_norm {metadata.layer_norm}), and the run wants a {config.network} for {', '.join(wanted_games)} "
            f"(layer_norm {config.uses_layer_norm})"
        )
    if teacher.gives_logits and not config.guidance.is_on:
        raise UserError(
            f"init_from: {config.init_from} gives logits; {config.algorithm} learns Q-values: --guidance.teacher has a "
            "student's outputs turned into these (pqn, one game)"
        )
    if what := metadata.untrainable:
        raise UserError(f"init_from: {config.init_from} has {what}; {config.algorithm} trains plain networks with relu")
    _check_widths(teacher, config)


def _check_widths(teacher: Teacher, config: TrainTeacherConfig) -> None:
    widths, wanted = _widths(teacher.metadata.hidden_sizes), _widths(config.mlp_hidden)
    if config.network in MLPS and widths != wanted:
        raise UserError(f"init_from: {config.init_from} has mlp_hidden {widths}, and the run wants {wanted}")
    for key in ("channels", "hidden", "head_hidden") if teacher.metadata.games else ():
        there, here = getattr(teacher.metadata, key), getattr(config, key)
        if there != here:
            raise UserError(f"init_from: {config.init_from} has {key} {there}, and the run wants {here}")


def _widths(sizes: Sequence[int]) -> str:
    return " ".join(map(str, sizes)) or "none"
