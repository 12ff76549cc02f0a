"""What the settings of every command have in common."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.fields import Choice, expand_homes, make_tuples
from pd_jax.config.idle import Idle
from pd_jax.config.sections import Seed, WindowSeconds

Tracker = Annotated[
    Literal["trackio", "wandb"],
    Choice("a tracker", refused=(("tensorboard", "is always written, into the run's tb/"),)),
]
# What is a name to both, and to the file systems that they write to.
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command line or a file sets."""

    def __post_init__(self) -> None:
        make_tuples(self)
        expand_homes(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yields ``(key, what is wrong)`` for values that are possible alone and impossible together."""
        yield from ()

    def idle(self) -> Iterator[Idle]:
        """Yields the settings that nothing looks at, because of what others say, whether they were given or not."""
        yield from ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandConfig(Settings):
    """What every command that computes takes."""

    seed: Seed = 0
    """Seed of everything random."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfiledConfig(CommandConfig):
    """What every command that keeps devices busy for long takes."""

    profile: bool = False
    """Trace a few seconds of the run with JAX's profiler into profile/, and print what took the time."""
    profile_seconds: WindowSeconds = 1.0
    """How long; each stage of the run that does not fall into another's window is traced for as long."""

    def idle(self) -> Iterator[Idle]:
        if not self.profile:
            yield Idle("profile_seconds", "profile", "says how long to trace; add --profile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedConfig(ProfiledConfig):
    """What every command that trains takes."""

    track: tuple[Tracker, ...] | None = None
    """Trackers that get the metrics beside tb/ and metrics.jsonl: trackio, wandb or both, on this machine (pip install
    '.[trackio]', '.[wandb]'); None is none."""
    track_project: str = "pd-jax"
    """What trackers call the project that the run belongs to."""

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        if self.track is None:
            yield Idle("track_project", "track", "is for trackers; add --track trackio or --track wandb")

    def tracking_conflicts(self) -> Iterator[tuple[str, str]]:
        """Yields, as `conflicts` does, names that trackers could not have."""
        if not _PROJECT.fullmatch(self.track_project) or self.track_project.startswith("registry-"):
            yield (
                "track_project",
                f"{self.track_project[:100]!r} is no name of a project: letters, digits, '.', '_' and '-', up to 100, "
                "that begin with a letter or a digit",
            )
