"""The settings of every command: one frozen dataclass per command, made of sections.

What no single field can say, such as a batch larger than the replay, is in a command's ``conflicts``. Reading YAML
files and command lines is `pd_jax.config_loading`'s. Nothing here imports JAX, so that a bad setting fails at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pd_jax.config_fields import Choice
from pd_jax.config_sections import (
    CheckpointConfig,
    Count,
    DQNConfig,
    EmulatorConfig,
    EnvConfig,
    EvaluationConfig,
    LearnerConfig,
    LossConfig,
    Network,
    PQNConfig,
    Probability,
    QLearningConfig,
    ReplayConfig,
    ScheduleConfig,
    Seed,
    StudentConfig,
    StudentEvaluationConfig,
    TeacherCheckpointConfig,
    TeacherEvaluationConfig,
    Width,
)
from pd_jax.config_sweep import GridConfig, Variant, cell_settings, sweep_conflicts, variants
from pd_jax.errors import UserError
from pd_jax.tasks import Task, get_task

__all__ = [
    "COMMANDS",
    "CheckpointConfig",
    "CollectConfig",
    "CommandConfig",
    "DQNConfig",
    "DistillConfig",
    "EmulatorConfig",
    "EnvConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "GridConfig",
    "LearnerConfig",
    "LossConfig",
    "PQNConfig",
    "QLearningConfig",
    "ReplayConfig",
    "ScheduleConfig",
    "Settings",
    "StudentConfig",
    "StudentEvaluationConfig",
    "SweepConfig",
    "TeacherCheckpointConfig",
    "TeacherEvaluationConfig",
    "TrainTeacherConfig",
    "check_devices",
    "check_network",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command line or a file sets."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yields ``(key, what is wrong)`` for values that are possible alone and impossible together."""
        yield from ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandConfig(Settings):
    """What every command that computes takes."""

    seed: Seed = 0
    """Seed of everything random."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(CommandConfig):
    """Distil a teacher into a student."""

    teacher: str
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://..."""
    out: str
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory."""
    game: str | None = None
    """Name or EnvPool id of the game; None is the teacher's."""
    data: str | None = None
    """Directory of recorded play to learn from, with the lanes it was recorded with; None plays live."""
    epsilon: Probability = 0.05
    """Chance of a random action in the teacher's play."""
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    evaluation: StudentEvaluationConfig = dataclasses.field(default_factory=StudentEvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    @property
    def steps_per_rollout(self) -> int:
        """Control steps of one rollout in all lanes together."""
        return self.env.num_lanes * self.schedule.rollout_length

    @property
    def rollouts_per_round(self) -> int:
        """Rollouts that give at least ``schedule.steps_per_round``.

        Rounding up rather than refusing keeps the paper's 54,000 steps usable with any number of lanes.
        """
        return math.ceil(self.schedule.steps_per_round / self.steps_per_rollout)

    @property
    def capacity_per_lane(self) -> int:
        """Steps of each lane that the replay keeps."""
        return self.replay.capacity // self.env.num_lanes

    def conflicts(self) -> Iterator[tuple[str, str]]:
        capacity = self.replay.capacity
        if self.learner.batch_size > capacity:
            yield "learner.batch_size", f"{self.learner.batch_size} is more than replay.capacity ({capacity})"
        # A recording has lanes of its own, which are checked once it is open.
        if self.data is None and capacity < self.steps_per_rollout:
            yield (
                "replay.capacity",
                f"{capacity} holds less than one rollout, {self.steps_per_rollout} steps "
                f"(env.num_lanes {self.env.num_lanes} x schedule.rollout_length {self.schedule.rollout_length})",
            )
        if self.data is None and self.learner.num_devices is not None:
            yield from device_conflicts(self, self.learner.num_devices)
        yield from _game_conflicts(self.game, "student.network", self.student.network)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(DistillConfig):
    """Distil a grid of students, each on its own, and compare them.

    Every cell of the grid is a run of ``distill``, whose settings these are.
    """

    teacher: tuple[str, ...]  # type: ignore[assignment]
    """Names of bundled teachers, or files; a list makes a cell of each for every combination of the grid."""
    out: str
    """Directory of the sweep; its cells are runs in cells/."""
    resume: bool = False
    """Go on with the sweep that is in the directory."""
    game: tuple[str, ...] | None = None  # type: ignore[assignment]
    """Name or EnvPool id of each teacher's game; None is the teachers'."""
    data: tuple[str, ...] | None = None  # type: ignore[assignment]
    """Directory of each teacher's recorded play; None plays live, or records first if record is set."""
    record: Count | None = None
    """Control steps to record of each game, once, for all cells to learn from."""
    together: bool | None = None
    """Train students of one shape in one program; None does so on accelerators."""
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The combinations of the grid, each of which is a cell of every game."""
        return variants(self.grid, self.student, self.loss, self.learner, self.seed)

    def cell(self, index: int, variant: Variant) -> DistillConfig:
        """The settings of one cell, but for its ``out``.

        Args:
          index: of its teacher.
          variant: one of ``variants``.
        """
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(DistillConfig)}
        return DistillConfig(**(shared | cell_settings(self, index, variant)))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from sweep_conflicts(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectConfig(CommandConfig):
    """Record a teacher's play."""

    teacher: str
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://..."""
    out: str
    """Directory of the recording."""
    resume: bool = False
    """Go on with the recording that is in the directory."""
    game: str | None = None
    """Name or EnvPool id of the game; None is the teacher's."""
    steps: Count = 540_000
    """Control steps to record in all lanes together, rounded up to whole rollouts."""
    epsilon: Probability = 0.05
    """Chance of a random action in the teacher's play."""
    rollout_length: Count = 32
    """Steps per lane in one jitted rollout."""
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)

    @property
    def num_rollouts(self) -> int:
        """Rollouts that give at least ``steps``."""
        return math.ceil(self.steps / (self.env.num_lanes * self.rollout_length))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from _game_conflicts(self.game)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommandConfig):
    """Score a teacher, a student, or a student against its teacher."""

    teacher: str | None = None
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://..."""
    run: str | None = None
    """Directory of the run whose student to score."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    game: str | None = None
    """Name or EnvPool id of the game; None is the teacher's or the run's."""
    out: str | None = None
    """Directory for summary.json; None only prints."""
    resume: bool = False
    """Evaluate again for the directory, which holds this very evaluation."""
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    env: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.teacher is None and self.run is None:
            yield "teacher", "missing, and run too; give --teacher NAME_OR_FILE, --run DIR or both"
        if self.run is None and self.checkpoint != "newest":
            yield "checkpoint", f"{self.checkpoint!r} of no run; give --run DIR"
        yield from _game_conflicts(self.game)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTeacherConfig(CommandConfig):
    """Train a teacher."""

    game: str
    """Name or EnvPool id of the game."""
    out: str
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory."""
    init_from: str | None = None
    """Name or file of a teacher whose weights to start from; None starts from scratch."""
    algorithm: Annotated[Literal["pqn", "dqn"], Choice("an algorithm")] = "pqn"
    """Parallelised Q-learning, or deep Q-learning with a replay and a target network."""
    network: Network = "dqn"
    """The paper's networks by name, or mlp for vector observations."""
    mlp_hidden: tuple[Width, ...] = (128, 128)
    """Units of mlp's hidden layers."""
    layer_norm: bool | None = None
    """Normalise each hidden layer; None does so for pqn, which has no target network and relies on it."""
    pqn: PQNConfig = dataclasses.field(default_factory=PQNConfig)
    dqn: DQNConfig = dataclasses.field(default_factory=DQNConfig)
    env: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)
    evaluation: TeacherEvaluationConfig = dataclasses.field(default_factory=TeacherEvaluationConfig)
    checkpoint: TeacherCheckpointConfig = dataclasses.field(default_factory=TeacherCheckpointConfig)

    @property
    def learning(self) -> PQNConfig | DQNConfig:
        """The settings of the algorithm in use."""
        return self.pqn if self.algorithm == "pqn" else self.dqn

    @property
    def uses_layer_norm(self) -> bool:
        """``layer_norm``, or what the algorithm wants."""
        return self.algorithm == "pqn" if self.layer_norm is None else self.layer_norm

    def conflicts(self) -> Iterator[tuple[str, str]]:
        name, learning = self.algorithm, self.learning
        if learning.steps_per_rollout >= 2**31:
            lanes = f"{name}.num_lanes {learning.num_lanes}"
            yield f"{name}.rollout_length", f"{learning.rollout_length} x {lanes} is more than 2^31 steps"
            return
        yield from _pqn_conflicts(self.pqn) if name == "pqn" else _dqn_conflicts(self.dqn)
        if learning.epsilon_end > learning.epsilon_start:
            yield (
                f"{name}.epsilon_end",
                f"{learning.epsilon_end} is more than {name}.epsilon_start ({learning.epsilon_start})",
            )
        for key in ("episodes", "progress_episodes"):
            if getattr(self.evaluation, key) < 2:
                yield f"evaluation.{key}", "1 episode says nothing about how sure a score is; at least 2"
        yield from _game_conflicts(self.game, "network", self.network)


COMMANDS: Mapping[str, type[CommandConfig]] = MappingProxyType(
    {
        "train-teacher": TrainTeacherConfig,
        "collect": CollectConfig,
        "distill": DistillConfig,
        "sweep": SweepConfig,
        "evaluate": EvaluateConfig,
    }
)
"""The settings of each command, by its name on the command line."""


def check_devices(config: DistillConfig, num_devices: int) -> None:
    """Checks that lanes and minibatches split evenly over the devices that were found.

    Raises:
      UserError: they do not; the message names the key and the nearest numbers that would.
    """
    for key, problem in device_conflicts(config, num_devices):
        raise UserError(f"{key}: {problem}")


def device_conflicts(config: DistillConfig, num_devices: int) -> Iterator[tuple[str, str]]:
    """Yields what does not split evenly over ``num_devices``, as `CommandConfig.conflicts` does."""
    for key, number in (("env.num_lanes", config.env.num_lanes), ("learner.batch_size", config.learner.batch_size)):
        if number % num_devices:
            below = number // num_devices * num_devices
            fitting = f"{below} and {below + num_devices} do" if below else f"{num_devices} does"
            yield key, f"{number} does not split evenly over {num_devices} devices; {fitting}"


def check_network(network: str, task: Task, where: str = "network") -> None:
    """Checks that a network can see what the task shows, once the game is known.

    Raises:
      UserError: a convolutional network for vectors, or an mlp for frames.
    """
    problem = _network_problem(network, task)
    if problem:
        raise UserError(f"{where}: {problem}")


def _pqn_conflicts(pqn: PQNConfig) -> Iterator[tuple[str, str]]:
    if pqn.steps_per_rollout % pqn.minibatches:
        yield (
            "pqn.minibatches",
            f"{pqn.minibatches} do not divide a rollout of {pqn.steps_per_rollout} steps "
            f"(pqn.num_lanes {pqn.num_lanes} x pqn.rollout_length {pqn.rollout_length})",
        )


def _dqn_conflicts(dqn: DQNConfig) -> Iterator[tuple[str, str]]:
    if dqn.steps_per_rollout % dqn.steps_per_update:
        yield (
            "dqn.steps_per_update",
            f"{dqn.steps_per_update} does not divide a rollout of {dqn.steps_per_rollout} steps "
            f"(dqn.num_lanes {dqn.num_lanes} x dqn.rollout_length {dqn.rollout_length})",
        )
    # Of 6 slots the 3 oldest may lack a part of their stack and the newest what follows it; of two neighbours among the
    # others at most one is a terminal observation.
    least = max(dqn.rollout_length, 6)
    if dqn.capacity_per_lane < least:
        yield (
            "dqn.replay_capacity",
            f"{dqn.replay_capacity} leaves {dqn.capacity_per_lane} steps to each of {dqn.num_lanes} lanes; "
            f"it takes {least}",
        )
    kept = dqn.capacity_per_lane * dqn.num_lanes
    if dqn.learning_starts > kept:
        yield "dqn.learning_starts", f"{dqn.learning_starts} is more than the replay holds ({kept})"


def _network_problem(network: str, task: Task) -> str | None:
    if (network == "mlp") == (task.kind == "vector"):
        return None
    if task.kind == "vector":
        return f"{network!r} sees frames, and {task.name} has none; use 'mlp'"
    return f"'mlp' sees vectors, and {task.name} shows frames; use one of dqn, net1, net2, net3"


def _game_conflicts(game: str | None, network_key: str = "", network: str = "") -> Iterator[tuple[str, str]]:
    if game is None:
        return
    try:
        task = get_task(game)
    except UserError as error:
        yield "game", str(error)
        return
    problem = _network_problem(network, task) if network else None
    if problem:
        yield network_key, problem
