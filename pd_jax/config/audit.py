"""The settings of ``pd-jax audit``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import CommandConfig
from pd_jax.config.fields import Bounds, Choice
from pd_jax.config.games import game_conflicts
from pd_jax.config.idle import ATARI_KEYS, Idle, idle_atari
from pd_jax.config.protocols import ProtocolSettings, idle_backend, protocol_conflicts
from pd_jax.config.sections import (
    Count,
    CountOrZero,
    EmulatorConfig,
    EvaluationConfig,
    PathText,
    Positive,
    Probability,
)

Noops = Annotated[int, Bounds(1, 1000)]
Setting = Annotated[int, Bounds(0, 255)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditEvaluationConfig(EvaluationConfig):
    """The games that student and teacher play from the same starts; all else is measured on them."""

    episodes: Count = 20
    """Whole games of each; rounded up to the same number for every lane."""
    num_lanes: Annotated[int, Bounds(1, 2**16)] = 20
    """Environments that play these side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutsideConfig:
    """Play outside what was taught, by student and teacher from the same starts."""

    episodes: CountOrZero = 6
    """Whole games of each in each of these; 0 plays none."""
    sticky_action_probability: Probability = 0.25
    """Chance that a frame repeats the action before it (Atari only); 0 leaves it out."""
    max_noops: tuple[Noops, ...] | None = (120,)
    """More no-ops at the start, each a play of its own (Atari only); null leaves it out."""
    modes: tuple[Setting, ...] | None = None
    """Modes of the game (Atari only); None takes the next one after its own, if it has another."""
    difficulties: tuple[Setting, ...] | None = None
    """Difficulties of the game (Atari only); None takes the next one after its own, if it has another."""
    noise: Probability = 0.02
    """Standard deviation of noise: a share of the grey levels (255) in each pixel of each frame, or of each number's
    standard deviation in play; 0 leaves it out."""
    occlusion: Probability = 0.02
    """Share of the frame under a black square, at another place in each game (Atari only); 0 leaves it out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundsConfig:
    """From where on something is a finding."""

    bias: Probability = 0.05
    """Share of all states by which the student chooses an action more often than its teacher does in the same ones."""
    disagreement: Probability = 0.2
    """How far agreement in one kind of states is below that in all others, as a share of these states."""
    shortfall: Positive = 0.3
    """How far what comes in one kind of states falls short of what the teacher expects there, beyond how far it does
    elsewhere, as a share of the typical size of what it expects."""
    reference: Probability = 0.2
    """How far the teacher agrees less with the reference in one kind of states than in all others."""
    loss: Probability = 0.1
    """Share of the teacher's score above random play that the student lacks."""
    outside: Probability = 0.25
    """Share of its score above random play that the student loses outside, beyond what its teacher loses there."""
    states: Probability = 0.01
    """Least share of all states that a kind of them must have to be a finding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig(ProtocolSettings, CommandConfig):
    """Find out what a student has inherited from its teacher, and what it has not."""

    run: PathText | None = None
    """Directory of the run whose student to audit."""
    policy: PathText | None = None
    """A teacher, by name or file, to audit in the place of a run's student."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    teacher: PathText | None = None
    """Name of a bundled teacher, or a file; None is the one that the run names."""
    reference: PathText | None = None
    """Another teacher, by name or file, whose choices the teacher's are compared with."""
    game: str | None = None
    """Name or EnvPool id of the game, of a student that plays several."""
    out: PathText
    """Directory of the page and its data, which must be empty or not there."""
    resume: bool = False
    """Audit again into the directory, which holds an audit of these very settings; it is replaced by a whole one."""
    data: PathText | None = None
    """Recording whose observations are compared; None compares those of the student's own play."""
    thresholds: PathText | None = None
    """A thresholds.json of the monitor's, to be part of the policy card."""
    steps: Count | None = None
    """Decisions of each play, after which it is cut: a quick audit. Play that was cut has no score. None plays whole
    games."""
    clusters: Annotated[int, Bounds(1, 64)] = 12
    """Kinds of states that are told apart by the student's features."""
    before_loss: Count = 20
    """Steps before a life or a point is lost that count as leading there."""
    later: Count = 20
    """Steps after which the teacher's own play is asked what has come of what it expected."""
    worst: Annotated[int, Bounds(1, 100)] = 20
    """States that are shown, of those where the two policies are furthest apart."""
    apart: Count = 40
    """Least number of steps between two of these in one game."""
    discount: Probability | None = None
    """Of the teacher's values; None is what the teacher's file says of its training, or 0.99."""
    bounds: BoundsConfig = dataclasses.field(default_factory=BoundsConfig)
    outside: OutsideConfig = dataclasses.field(default_factory=OutsideConfig)
    evaluation: AuditEvaluationConfig = dataclasses.field(default_factory=AuditEvaluationConfig)
    env: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)

    def idle(self) -> Iterator[Idle]:
        if self.reference is None:
            yield Idle("bounds.reference", "reference", "is for a reference, and there is none; give --reference X")
        if self.outside.episodes == 0:
            for name in _OUTSIDE:
                yield Idle(f"outside.{name}", "outside.episodes", "is for play that outside.episodes 0 leaves out")
            yield Idle("bounds.outside", "outside.episodes", "is for play that outside.episodes 0 leaves out")
        yield from idle_atari((self.game,) if self.game else (), "game", (*ATARI_KEYS, *_OF_ATARI))
        yield from idle_backend(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if (self.policy is None) == (self.run is None):
            yield "run", "give one of --run DIR and --policy NAME_OR_FILE"
        if self.run is None and self.checkpoint != "newest":
            yield "checkpoint", f"{self.checkpoint!r} of no run; give --run DIR"
        if self.run is None and self.teacher is None:
            yield "teacher", "missing; only a run names its own: give --teacher NAME_OR_FILE"
        if self.env.backend == "ale" and (self.outside.modes or self.outside.difficulties):
            key = "outside.modes" if self.outside.modes else "outside.difficulties"
            yield key, "given, and env.backend is 'ale', which plays the game's own alone; leave one out"
        yield from game_conflicts(self.game)
        yield from protocol_conflicts(self)


_OF_ATARI = (
    "outside.sticky_action_probability",
    "outside.max_noops",
    "outside.modes",
    "outside.difficulties",
    "outside.occlusion",
)
_OUTSIDE = (*(key.partition(".")[2] for key in _OF_ATARI), "noise")
