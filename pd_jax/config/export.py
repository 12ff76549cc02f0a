"""The settings of ``pd-jax export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import CommandConfig
from pd_jax.config.fields import Bounds, Choice
from pd_jax.config.games import games_conflicts
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
    Words,
)

Format = Annotated[Literal["onnx", "stablehlo", "c"], Choice("a format")]
Precision = Annotated[Literal["float32", "int8"], Choice("a precision")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProofConfig:
    """What a file has to stand before it is left: its answers are compared with JAX's."""

    frames: Count = 10_000
    """Observations that are compared."""
    max_difference: Positive = 1e-4
    """Largest difference of an output, as a share of the largest output for that observation where that is above 1."""
    min_equal_actions: Probability = 0.9999
    """Least share of observations for which the file acts as JAX does."""
    max_loss: Probability = 0.02
    """Share of the score that games of the file may lose, where that is below the 95 % interval of the policy's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Where the ranges of int8 come from, unless the student was trained with its own."""

    frames: Annotated[int, Bounds(1, 16_384)] = 1_024
    """Observations of play, others than those that are compared."""
    percentile: Annotated[float, Bounds(50.0, 100.0)] = 100.0
    """Percentile of a layer's inputs that is their range; 100 is the largest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportEvaluationConfig(EvaluationConfig):
    """The games that each file plays, and the policy from the same starts."""

    episodes: CountOrZero = 30
    """Whole episodes; rounded up to the same number for every lane. 0 plays none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(ProtocolSettings, CommandConfig):
    """Write a policy as files that run without JAX, and prove that they are it."""

    run: PathText | None = None
    """Directory of the run whose student to export, or hf://owner/name of one that was pushed."""
    teacher: PathText | None = None
    """Name of a bundled teacher, or a file: ours, or an agent of Stable-Baselines3 or CleanRL, also as hf://..."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    game: Words | None = None
    """Names or EnvPool ids of the games, each of which becomes a file; None is all that the policy plays."""
    format: tuple[Format, ...] = ("onnx",)
    """Onnx for ONNX Runtime and its like, stablehlo for JAX and its like, c for C compilers; or several."""
    precision: tuple[Precision, ...] = ("float32",)
    """Of weights and arithmetic: float32, int8, or a file for each. StableHLO has float32 alone."""
    out: PathText
    """Directory of the files, which must be empty or not there."""
    resume: bool = False
    """Export again into the directory, which holds an export of these very settings; it is replaced by a whole one."""
    data: PathText | None = None
    """Recording whose observations are compared; None compares those of the policy's own play."""
    opset: Annotated[int, Bounds(17, 21)] = 17
    """Version of ONNX's operations."""
    calibration: CalibrationConfig = dataclasses.field(default_factory=CalibrationConfig)
    proof: ProofConfig = dataclasses.field(default_factory=ProofConfig)
    evaluation: ExportEvaluationConfig = dataclasses.field(default_factory=ExportEvaluationConfig)
    env: EmulatorConfig = dataclasses.field(default_factory=EmulatorConfig)

    def idle(self) -> Iterator[Idle]:
        if "onnx" not in self.format:
            yield Idle("opset", "format", f"is ONNX's, and format is {', '.join(self.format)}")
        if self.evaluation.episodes == 0:
            yield Idle("proof.max_loss", "evaluation.episodes", "is for games, and evaluation.episodes is 0")
            yield Idle("evaluation.seed_offset", "evaluation.episodes", "is for games, and evaluation.episodes is 0")
        if "int8" not in self.precision:
            for name in ("frames", "percentile"):
                yield Idle(f"calibration.{name}", "precision", "is for int8, and precision is float32")
        if "float32" not in self.precision:
            for name in ("max_difference", "min_equal_actions"):
                yield Idle(f"proof.{name}", "precision", "is for float32, and precision is int8")
        games, because = (self.game, "game") if self.game else ((self.teacher,) if self.teacher else (), "teacher")
        yield from idle_atari(games, because, ATARI_KEYS)
        yield from idle_backend(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if (self.teacher is None) == (self.run is None):
            yield "run", "give one of --run DIR and --teacher NAME_OR_FILE"
        if self.run is None and self.checkpoint != "newest":
            yield "checkpoint", f"{self.checkpoint!r} of no run; give --run DIR"
        for setting, names in (("format", self.format), ("precision", self.precision)):
            if repeated := [name for name in names if names.count(name) > 1]:
                yield setting, f"{repeated[0]} is there {names.count(repeated[0])} times"
        if "stablehlo" in self.format and "float32" not in self.precision:
            yield "precision", "int8 alone, and stablehlo has float32 alone; give both, or another format"
        if "int8" in self.precision and self.evaluation.episodes < 2:
            yield "evaluation.episodes", f"{self.evaluation.episodes}, and int8 is proven by games; give at least 2"
        if self.teacher is not None and self.game is not None and len(self.game) > 1:
            yield "game", f"{len(self.game)} games of one teacher; give one"
        yield from games_conflicts(self.game or ())
        yield from protocol_conflicts(self)
