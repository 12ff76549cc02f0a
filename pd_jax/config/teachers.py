"""The settings of ``pd-jax teachers``' commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import tyro

from pd_jax.config.base import CommandConfig, Settings
from pd_jax.config.fields import FilePath
from pd_jax.config.idle import Idle, idle_atari
from pd_jax.config.protocols import ProtocolSettings
from pd_jax.config.sections import CountOrZero, PathText, Probability
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError

NameOrFile = tyro.conf.Positional[Annotated[str, FilePath(), tyro.conf.arg(metavar="NAME_OR_FILE")]]
File = tyro.conf.Positional[Annotated[str, FilePath(), tyro.conf.arg(metavar="FILE")]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListTeachersConfig(Settings):
    """List the bundled teachers."""

    json: bool = False
    """Print JSON, in which scores and sizes are not rounded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowTeacherConfig(CommandConfig):
    """Show what a teacher's file says of it, and what its Q-values are like."""

    name_or_file: NameOrFile
    """Name of a bundled teacher, or its file."""
    game: str | None = None
    """Which of its games to show, of a network of several."""
    json: bool = False
    """Print JSON."""
    plot: PathText | None = None
    """PNG file to draw the learning curve in."""
    states: CountOrZero = 0
    """States of its own play to measure Q-values and action gaps in; 0 only reads the file."""
    epsilon: Probability = 0.05
    """Chance of a random action in that play."""

    def idle(self) -> Iterator[Idle]:
        if not self.states:
            for key in ("seed", "epsilon"):
                yield Idle(key, "states", "is of play, and states is 0")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.plot is not None and not self.plot.endswith(".png"):
            yield "plot", f"{self.plot!r} does not end in .png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportTeacherConfig(ProtocolSettings, CommandConfig):
    """Convert another library's agent into a teacher file."""

    file: File
    """The agent."""
    game: str
    """Name or EnvPool id of the game it plays."""
    out: PathText
    """The teacher file to write, which must not exist."""
    observation_statistics: PathText | None = None
    """Statistics of its observations, if it was trained on normalised ones: JSON or .npz with mean, variance, count,
    and perhaps epsilon and clip; none if only rewards were normalised, or nothing."""
    evaluate_episodes: CountOrZero | None = None
    """Whole episodes to score it over, for the file's metadata; 0 leaves the score out. By default 20 if its file does
    not show whether its observations were normalised, and nothing was said; else 0."""
    epsilon: Probability = 0.05
    """Chance of a random action in these episodes."""

    def idle(self) -> Iterator[Idle]:
        if not self.evaluate_episodes:
            # Where it is not given, there may be play: that depends on the agent's file, and so the two are asked for.
            is_said = "is not given; give both" if self.evaluate_episodes is None else "is 0"
            for key in ("seed", "epsilon", "protocol"):
                yield Idle(key, "evaluate_episodes", f"is of play, and evaluate_episodes {is_said}")
        yield from idle_atari([self.game], "game", ["protocol"])

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.out.endswith(".safetensors"):
            yield "out", f"{self.out!r} does not end in .safetensors"
        if self.evaluate_episodes == 1:
            yield "evaluate_episodes", "1 episode says nothing about how sure a score is; at least 2, or 0 for none"
        try:
            get_task(self.game)
        except UserError as error:
            yield "game", str(error)
