"""The settings of ``pd-jax evaluate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import ProfiledConfig
from pd_jax.config.credibility import CredibilityConfig, credibility_conflicts, idle_credibility
from pd_jax.config.fields import Choice
from pd_jax.config.games import games_conflicts, not_one_each
from pd_jax.config.idle import ATARI_KEYS, Idle, idle_atari
from pd_jax.config.protocols import ProtocolSettings, idle_backend, protocol_conflicts
from pd_jax.config.sections import EmulatorConfig, EvaluationConfig, Jobs, Paths, PathText, Words


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ProtocolSettings, ProfiledConfig):
    """Score a teacher, a student, or a student against its teacher."""

    teacher: Paths | None = None
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://...; or
    several, each of another game. Several of one game are joined by +."""
    run: PathText | None = None
    """Directory of the run whose student to score, or hf://owner/name of one that was pushed; or of a train-teacher run
    of several games, as their baseline."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    game: Words | None = None
    """Names or EnvPool ids of the games; None is the teachers' or all of the run's."""
    out: PathText | None = None
    """Directory for summary.json; None only prints."""
    resume: bool = False
    """Evaluate again for the directory, which holds this very evaluation."""
    jobs: Jobs = 1
    """Processes that play at once, each the games of one policy in one game on its share of the cores; auto is as many
    as cores and memory allow."""
    credibility: CredibilityConfig = dataclasses.field(default_factory=CredibilityConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    env: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        if self.out is None:
            yield Idle("resume", "out", "out is missing, and nothing is written; give --out DIR")
        yield from idle_credibility(self.credibility, self.teacher)
        games, because = (self.game, "game") if self.game else (self.teacher, "teacher")
        yield from idle_atari(() if self.run else games or (), because, ATARI_KEYS)
        yield from idle_backend(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.teacher is None and self.run is None:
            yield "teacher", "missing, and run too; give --teacher NAME_OR_FILE, --run DIR or both"
        if self.run is None and self.checkpoint != "newest":
            yield "checkpoint", f"{self.checkpoint!r} of no run; give --run DIR"
        if self.profile and self.out is None:
            yield "profile", "true, and out is missing, where the trace would go; give --out DIR"
        if self.profile and self.jobs != 1:
            yield "profile", f"true, and jobs is {self.jobs}: what is traced is this process, and others play"
        if self.teacher is not None and self.game is not None:
            yield from not_one_each("game", self.game, self.teacher)
        yield from credibility_conflicts(self.credibility, self.teacher)
        yield from games_conflicts(self.game or ())
        yield from protocol_conflicts(self)
