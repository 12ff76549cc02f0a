"""The settings of ``pd-jax renew``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import CommandConfig
from pd_jax.config.fields import Choice
from pd_jax.config.idle import Idle
from pd_jax.config.sections import (
    Count,
    EvaluationConfig,
    Paths,
    PathText,
    Positive,
    Probability,
    Seed,
    SeedOffset,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenewalScheduleConfig:
    """Rounds of play, each followed by updates."""

    rounds: Count | None = None
    """Times that play and updates take turns; None is as for the old run."""
    steps_per_round: Count | None = None
    """Control steps of each game in a round, in all lanes together; None is as for the old run."""
    updates_per_round: Count | None = None
    """Minibatch updates after the play of a round; None is as for the old run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenewalLearnerConfig:
    """The student's updates."""

    learning_rate: Positive | None = None
    """None is as for the old run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonConfig(EvaluationConfig):
    """The games that champion and challenger play from the same starts."""

    seed_offset: SeedOffset = 3_000_000
    """Added to the seed, so that neither has been scored on these starts before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenewConfig(CommandConfig):
    """Distil an exported student anew from its own weights, and replace the export if that is not worse.

    The export is the champion. The challenger is distilled from the champion's weights, exported with the champion's
    settings, and plays from the same starts. Exit code 0: replaced; 3: kept.
    """

    seed: Seed | None = None  # type: ignore[assignment]
    """Seed of the new run and of the comparison; None is that of the old run and one more."""
    run: PathText
    """Directory of the distill run whose student was exported."""
    export: PathText
    """Directory of its export: the champion, which is replaced or stays."""
    teacher: Paths | None = None
    """Whom to learn from: names or files, one for each game in the old run's order; None is the old run's teachers."""
    data: Paths | None = None
    """Directories of recorded play to learn from, one for each teacher; None is the old run's, but with teachers that
    are named plays live."""
    settings: PathText | None = None
    """File of settings of distill that replace the old run's, and those alone."""
    out: PathText
    """Directory of the renewal: run/ is the new run, export/ its export, renewal.json what was decided."""
    resume: bool = False
    """Go on with the renewal that is in the directory, or begin it if there is none."""
    rule: Annotated[Literal["not_worse", "better"], Choice("a rule")] = "not_worse"
    """What replaces the champion, in every game: a 95 % interval of the difference whose lower end is no more than
    margin below 0, or one that lies above 0."""
    margin: Probability = 0.05
    """Share of the champion's score above random play that may be lost (not_worse only)."""
    schedule: RenewalScheduleConfig = dataclasses.field(default_factory=RenewalScheduleConfig)
    learner: RenewalLearnerConfig = dataclasses.field(default_factory=RenewalLearnerConfig)
    evaluation: ComparisonConfig = dataclasses.field(default_factory=ComparisonConfig)

    def idle(self) -> Iterator[Idle]:
        if self.rule == "better":
            yield Idle("margin", "rule", "is what may be lost, and rule is 'better'")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.evaluation.episodes < 2:
            yield "evaluation.episodes", "1 episode says nothing about how sure a difference is; at least 2"
