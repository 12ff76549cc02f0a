"""The settings of ``pd-jax collect``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from pd_jax.config.base import CommandConfig
from pd_jax.config.credibility import CredibilityConfig, idle_credibility
from pd_jax.config.games import game_conflicts
from pd_jax.config.idle import ATARI_KEYS, Idle, idle_atari
from pd_jax.config.observation import ObservationConfig
from pd_jax.config.protocols import ProtocolSettings, idle_backend, protocol_conflicts
from pd_jax.config.sections import Count, OneGameEnvConfig, PathText, Probability
from pd_jax.environments.senses import SIZES


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectConfig(ProtocolSettings, CommandConfig):
    """Record a teacher's play."""

    teacher: PathText
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://...; or
    several of one game, joined by +."""
    out: PathText
    """Directory of the recording."""
    resume: bool = False
    """Go on with the recording that is in the directory."""
    game: str | None = None
    """Name or EnvPool id of the game; None is the teacher's."""
    steps: Count = 540_000
    """Control steps to record in all lanes together, rounded up to whole rollouts."""
    minari: PathText | None = None
    """Directory of a Minari dataset of the game, whose play is recorded with the teacher's outputs in the place of the
    teacher's own play; needs the extra minari."""
    epsilon: Probability = 0.05
    """Chance of a random action in the teacher's play; of continuous actions, the scale of their noise."""
    rollout_length: Count = 32
    """Steps per lane in one jitted rollout."""
    credibility: CredibilityConfig = dataclasses.field(default_factory=CredibilityConfig)
    observation: ObservationConfig = dataclasses.field(default_factory=ObservationConfig)
    env: OneGameEnvConfig = dataclasses.field(default_factory=OneGameEnvConfig)

    @property
    def steps_per_rollout(self) -> int:
        """Control steps of a rollout in all lanes together."""
        return self.env.num_lanes * self.rollout_length

    @property
    def num_rollouts(self) -> int:
        """Rollouts that give at least ``steps``."""
        return math.ceil(self.steps / self.steps_per_rollout)

    def idle(self) -> Iterator[Idle]:
        because = "teacher" if self.game is None else "game"
        yield from idle_atari([self.game or self.teacher], because, ATARI_KEYS)
        yield from idle_credibility(self.credibility, (self.teacher,))
        yield from idle_backend(self)
        if self.minari is not None:
            for key in ("epsilon", "env.max_episode_steps", "env.stepping"):
                yield Idle(key, "minari", "is a setting of live play, and minari has play that is there already")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from game_conflicts(self.game)
        yield from collected_conflicts(self)
        yield from protocol_conflicts(self)


def collected_conflicts(config: CollectConfig) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, what a student cannot see of what is recorded for it."""
    observation = config.observation
    if not observation.is_plain and config.minari is not None:
        yield "observation", "is sensed in live play, and minari is play of others; leave one out"
    if observation.size is not None and observation.size not in SIZES:
        yield "observation.size", f"{observation.size} is none of {', '.join(map(str, SIZES))} pixels"
    if observation.also != "none" and config.env.backend == "ale":
        yield "observation.also", f"{observation.also!r} is read by EnvPool, and env.backend is 'ale'"
    if observation.source == "ram" and config.env.backend == "ale":
        yield "observation.source", "'ram' is read by EnvPool, and env.backend is 'ale'"
