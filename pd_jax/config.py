"""The settings of every command: one frozen dataclass per command, made of sections.

What no single field can say, such as a batch larger than the replay, is in a command's ``conflicts``. Reading YAML
files and command lines is `pd_jax.config_loading`'s. Nothing here imports JAX, so that a bad setting fails at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pd_jax.config_algorithms import DQNConfig, PQNConfig, QLearningConfig
from pd_jax.config_base import CommandConfig, ProfiledConfig, Settings
from pd_jax.config_conflicts import (
    actor_conflicts,
    check_devices,
    check_games,
    check_network,
    device_conflicts,
    dqn_conflicts,
    game_conflicts,
    games_conflicts,
    learnt_games_conflicts,
    not_one_each,
    pqn_conflicts,
    uneven,
)
from pd_jax.config_fields import Choice
from pd_jax.config_online import OnlineConfig
from pd_jax.config_sections import (
    ActorsConfig,
    BehaviourConfig,
    CheckpointConfig,
    Count,
    DistillCheckpointConfig,
    EmulatorConfig,
    EnvConfig,
    EvaluationConfig,
    HostsConfig,
    LearnerConfig,
    LossConfig,
    OneGameEnvConfig,
    Probability,
    ReplayConfig,
    RunDirectories,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
    StudentNetwork,
    TeacherCheckpointConfig,
    TeacherEvaluationConfig,
    Width,
    WidthOrZero,
    Words,
)
from pd_jax.config_sweep import GridConfig, Variant, cell_settings, sweep_conflicts, variants

__all__ = [
    "COMMANDS",
    "ActorsConfig",
    "BehaviourConfig",
    "CheckpointConfig",
    "CollectConfig",
    "CommandConfig",
    "DQNConfig",
    "DistillCheckpointConfig",
    "DistillConfig",
    "EmulatorConfig",
    "EnvConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "GridConfig",
    "LearnerConfig",
    "LossConfig",
    "OneGameEnvConfig",
    "OnlineConfig",
    "PQNConfig",
    "QLearningConfig",
    "ReplayConfig",
    "ReportConfig",
    "ScheduleConfig",
    "Settings",
    "StudentConfig",
    "StudentEvaluationConfig",
    "SweepConfig",
    "TeacherCheckpointConfig",
    "TeacherEvaluationConfig",
    "TrainTeacherConfig",
    "check_devices",
    "check_games",
    "check_network",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(ProfiledConfig):
    """Distil teachers into a student: one teacher, or several of different games."""

    teacher: Words
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://...; one
    for each game."""
    out: str
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory, or begin it if there is none; auto says the same."""
    accept_other_teacher: bool = False
    """Let a run that is resumed go on with another teacher file than it was begun with."""
    game: Words | None = None
    """Names or EnvPool ids of the games, in the teachers' order; None is what the teachers play."""
    data: Words | None = None
    """Directories of recorded play to learn from, one for each teacher, with the lanes it was recorded with; None plays
    live."""
    epsilon: Probability = 0.05
    """Chance of a random action in the play, whoever acts."""
    behaviour: BehaviourConfig = dataclasses.field(default_factory=BehaviourConfig)
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    actors: ActorsConfig = dataclasses.field(default_factory=ActorsConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    evaluation: StudentEvaluationConfig = dataclasses.field(default_factory=StudentEvaluationConfig)
    checkpoint: DistillCheckpointConfig = dataclasses.field(default_factory=DistillCheckpointConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)

    @property
    def num_games(self) -> int:
        """Games of the run: one for each teacher."""
        return len(self.teacher)

    @property
    def lanes(self) -> tuple[int, ...]:
        """Environments of each game."""
        if self.env.lanes is None:
            return (self.env.num_lanes,) * self.num_games
        assert isinstance(self.env.lanes, tuple)
        return self.env.lanes

    def steps_per_rollout(self, game: int = 0) -> int:
        """Control steps of one rollout of a game in all lanes together."""
        return self.lanes[game] * self.schedule.rollout_length

    def rollouts_per_round(self, game: int = 0) -> int:
        """Rollouts of a game that give at least ``schedule.steps_per_round``.

        Rounding up rather than refusing keeps the paper's 54,000 steps usable with any number of lanes.
        """
        return math.ceil(self.schedule.steps_per_round / self.steps_per_rollout(game))

    def capacity_per_lane(self, game: int = 0) -> int:
        """Steps of each lane of a game that the replay keeps."""
        return self.replay.capacity // self.lanes[game]

    def plays_ahead(self, platform: str) -> bool:
        """Whether the round to come is played (or, of a recording, read) during updates on devices of this platform."""
        if self.actors.overlap is not None or self.behaviour.student_acts:
            return bool(self.actors.overlap)
        return self.data is not None or platform != "cpu"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        counts = list(uneven(self))
        yield from counts
        yield from actor_conflicts(self)
        capacity = self.replay.capacity
        if self.learner.batch_size > capacity:
            yield "learner.batch_size", f"{self.learner.batch_size} is more than replay.capacity ({capacity})"
        # A recording has lanes of its own, which are checked once it is open.
        if self.data is None and not counts:
            widest = max(range(self.num_games), key=lambda game: self.lanes[game])
            if capacity < self.steps_per_rollout(widest):
                yield (
                    "replay.capacity",
                    f"{capacity} holds less than one rollout, {self.steps_per_rollout(widest)} steps "
                    f"({self.lanes_key} {self.lanes[widest]} x "
                    f"schedule.rollout_length {self.schedule.rollout_length})",
                )
            if self.learner.num_devices is not None:
                yield from device_conflicts(self, self.learner.num_devices)
        if self.data is not None and self.behaviour.student_acts:
            yield (
                "behaviour.policy",
                f"{self.behaviour.policy!r} needs live play, and data is a recording of the teacher's; leave one out",
            )
        if self.data is not None and self.checkpoint.replay:
            yield "checkpoint.replay", "a replay of recorded play is filled again bit for bit; leave it out"
        yield from games_conflicts(self.game or (), self.student.network)

    @property
    def lanes_key(self) -> str:
        """The setting that says how many lanes there are."""
        return "env.num_lanes" if self.env.lanes is None else "env.lanes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(DistillConfig):
    """Distil a grid of students, each on its own, and compare them.

    Every cell of the grid is a run of ``distill``, whose settings these are.
    """

    teacher: Words
    """Names of bundled teachers, or files; a list makes a cell of each for every combination of the grid."""
    out: str
    """Directory of the sweep; its cells are runs in cells/."""
    resume: bool = False
    """Go on with the sweep that is in the directory."""
    game: Words | None = None
    """Name or EnvPool id of each teacher's game; None is the teachers'."""
    data: Words | None = None
    """Directory of each teacher's recorded play; None plays live, or records first if record is set."""
    record: Count | None = None
    """Control steps to record of each game, once, for all cells to learn from."""
    together: bool | None = None
    """Train students of one shape in one program; None does so on accelerators, unless they may be rolled back."""
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The combinations of the grid, each of which is a cell of every game."""
        return variants(self)

    def cell(self, index: int, variant: Variant) -> DistillConfig:
        """The settings of one cell, but for its ``out``: of the teacher with that index, and of one of ``variants``."""
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
    env: OneGameEnvConfig = dataclasses.field(default_factory=OneGameEnvConfig)

    @property
    def num_rollouts(self) -> int:
        """Rollouts that give at least ``steps``."""
        return math.ceil(self.steps / (self.env.num_lanes * self.rollout_length))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from game_conflicts(self.game)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ProfiledConfig):
    """Score a teacher, a student, or a student against its teacher."""

    teacher: Words | None = None
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://...; or
    several, each of another game."""
    run: str | None = None
    """Directory of the run whose student to score; or of a train-teacher run of several games, as their baseline."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    game: Words | None = None
    """Names or EnvPool ids of the games; None is the teachers' or all of the run's."""
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
        if self.profile and self.out is None:
            yield "profile", "true, and out is missing, where the trace would go; give --out DIR"
        if self.teacher is not None and self.game is not None:
            yield from not_one_each("game", self.game, self.teacher)
        yield from games_conflicts(self.game or ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """Print and write the tables of finished runs."""

    runs: RunDirectories
    """Directories of runs, or of several runs one or two levels below them."""
    out: str | None = None
    """Directory for report.md, report.json and the figures; None only prints."""
    resume: bool = False
    """Write the report in the directory anew, also of other runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTeacherConfig(ProfiledConfig):
    """Train a teacher."""

    game: Words
    """Name or EnvPool id of the game; or of several, which one network learns at once, with a head for each."""
    out: str
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory."""
    init_from: str | None = None
    """Name or file of a teacher whose weights to start from, of the same games; None starts from scratch."""
    algorithm: Annotated[Literal["pqn", "dqn"], Choice("an algorithm")] = "pqn"
    """Parallelised Q-learning, or deep Q-learning with a replay and a target network."""
    network: StudentNetwork = "dqn"
    """The paper's networks by name, or mlp for vector observations; multi3 and multi10 are for several games."""
    mlp_hidden: tuple[Width, ...] = (128, 128)
    """Units of mlp's hidden layers."""
    channels: tuple[Width, ...] | None = None
    """Of the three convolutions, in networks of several games; None is what the network's name stands for."""
    hidden: Width | None = None
    """Units of the dense layer after the convolutions, in networks of several games; None is what the network's name
    stands for."""
    head_hidden: WidthOrZero | None = None
    """Units of the hidden layer of each game's head; None is 128, 0 leaves it out. A single game's head has none."""
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
    def other_algorithm(self) -> str:
        """The one whose settings do not matter."""
        return "dqn" if self.algorithm == "pqn" else "pqn"

    @property
    def uses_layer_norm(self) -> bool:
        """``layer_norm``, or what the algorithm wants."""
        return self.algorithm == "pqn" if self.layer_norm is None else self.layer_norm

    @property
    def num_games(self) -> int:
        """Games that the network learns."""
        return len(self.game)

    @property
    def steps_per_iteration(self) -> int:
        """Control steps of one rollout in all lanes of all games together."""
        return self.num_games * self.learning.steps_per_rollout

    def conflicts(self) -> Iterator[tuple[str, str]]:
        name, learning = self.algorithm, self.learning
        if self.steps_per_iteration >= 2**31:
            lanes = f"{name}.num_lanes {learning.num_lanes}"
            yield f"{name}.rollout_length", f"{learning.rollout_length} x {lanes} is more than 2^31 steps"
            return
        yield from pqn_conflicts(self.pqn) if name == "pqn" else dqn_conflicts(self.dqn, self.num_games)
        if learning.epsilon_end > learning.epsilon_start:
            yield (
                f"{name}.epsilon_end",
                f"{learning.epsilon_end} is more than {name}.epsilon_start ({learning.epsilon_start})",
            )
        for key in ("episodes", "progress_episodes"):
            if getattr(self.evaluation, key) < 2:
                yield f"evaluation.{key}", "1 episode says nothing about how sure a score is; at least 2"
        yield from learnt_games_conflicts(self)

    def unused(self, given: Iterable[str]) -> Iterator[tuple[str, str]]:
        for key in given:
            if key.startswith(f"{self.other_algorithm}."):
                yield key, f"is a setting of {self.other_algorithm}, and algorithm is {self.algorithm!r}"


COMMANDS: Mapping[str, type[CommandConfig]] = MappingProxyType(
    {
        "train-teacher": TrainTeacherConfig,
        "collect": CollectConfig,
        "distill": DistillConfig,
        "online": OnlineConfig,
        "sweep": SweepConfig,
        "evaluate": EvaluateConfig,
        "report": ReportConfig,
    }
)
"""The settings of each command, by its name on the command line."""
