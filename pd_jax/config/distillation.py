"""The settings of a distillation, which a sweep's cells have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pd_jax.config.base import TrackedConfig
from pd_jax.config.credibility import CredibilityConfig, idle_credibility
from pd_jax.config.games import not_one_each
from pd_jax.config.idle import ATARI_KEYS, Idle, idle_atari, idle_behaviour, idle_progress
from pd_jax.config.protocols import ProtocolSettings, idle_backend
from pd_jax.config.sections import (
    ActorsConfig,
    BehaviourConfig,
    DataOrder,
    DistillCheckpointConfig,
    EnvConfig,
    HostsConfig,
    LearnerConfig,
    LossConfig,
    PartsConfig,
    Paths,
    PathText,
    Probability,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
    Words,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationSettings(ProtocolSettings, TrackedConfig):
    """What every command that distils teachers into students takes."""

    teacher: Paths
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://...; one
    for each game, or several of it joined by +."""
    out: PathText
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory, or begin it if there is none; auto says the same."""
    accept_other_teacher: bool = False
    """Let a run that is resumed go on with another teacher file than it was begun with."""
    init_from: PathText | None = None
    """What the student starts from: the directory of a distill run, of which the newest student is taken, or a teacher
    file of such a network and these games; None starts from scratch."""
    game: Words | None = None
    """Names or EnvPool ids of the games, in the teachers' order; None is what the teachers play."""
    data: Paths | None = None
    """Directories of recorded play to learn from, one for each teacher, with the lanes it was recorded with; None plays
    live."""
    data_order: DataOrder = "recorded"
    """Recorded play goes into the replay as it was played, once; or shuffled: in rollouts, in another order each time
    that it is gone through, again and again, for recordings that are larger than the replay."""
    epsilon: Probability = 0.05
    """Chance of a random action in the play, whoever acts; of continuous actions, the scale of their noise."""
    credibility: CredibilityConfig = dataclasses.field(default_factory=CredibilityConfig)
    behaviour: BehaviourConfig = dataclasses.field(default_factory=BehaviourConfig)
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    actors: ActorsConfig = dataclasses.field(default_factory=ActorsConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    parts: PartsConfig = dataclasses.field(default_factory=PartsConfig)
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

    @property
    def lanes_key(self) -> str:
        """The setting that says how many lanes there are."""
        return "env.num_lanes" if self.env.lanes is None else "env.lanes"

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        if not self.resume:
            yield Idle("accept_other_teacher", "resume", "is for a run that is gone on with; add --resume")
        if self.data is not None:
            for key in ("epsilon", "env.num_lanes", "env.lanes"):
                yield Idle(key, "data", "recorded play has its own, and data names some")
        elif self.env.lanes is not None:
            yield Idle("env.num_lanes", "env.lanes", "env.lanes says how many each game has")
        yield from idle_credibility(self.credibility, self.teacher)
        yield from idle_behaviour(self.behaviour)
        if self.actors.overlap is False:
            yield Idle("actors.queue_mib", "actors.overlap", "actors.overlap is false, and nothing waits")
        yield from idle_progress(self.evaluation, "every_rounds")
        if self.checkpoint.on_divergence == "stop":
            why = "checkpoint.on_divergence is 'stop', and no run is rolled back"
            yield Idle("checkpoint.max_roll_backs", "checkpoint.on_divergence", why)
        games, because = (self.game, "game") if self.game else (self.teacher, "teacher")
        yield from idle_atari(games or (), because, (*ATARI_KEYS, "learner.random_shift"))
        yield from idle_backend(self)

    def uneven(self) -> Iterator[tuple[str, str]]:
        """Yields, as `conflicts` does, the settings of which there is to be one for each teacher, and is not."""
        for key, values in (("game", self.game), ("data", self.data), ("env.lanes", self.env.lanes)):
            if isinstance(values, tuple):
                yield from not_one_each(key, values, self.teacher)
        temperature = self.loss.temperature
        if isinstance(temperature, tuple) and len(temperature) > 1:
            yield from not_one_each("loss.temperature", temperature, self.teacher)
        if isinstance(self.learner.game_weights, tuple):
            yield from not_one_each("learner.game_weights", self.learner.game_weights, self.teacher)
