"""What the settings of every command have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pd_jax.config.fields import expand_homes, make_tuples
from pd_jax.config.idle import Idle
from pd_jax.config.sections import Seed, WindowSeconds


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
