"""The settings of ``pd-jax configs``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import tyro

from pd_jax.config.base import Settings
from pd_jax.config.idle import Idle
from pd_jax.config.sections import PathText

Name = tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="NAME")]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigsConfig(Settings):
    """List the settings files that come with pd-jax; print one, or copy it."""

    name: Name = None
    """Name of the one to print, such as pong or quick/multi3; all are listed without."""
    out: PathText | None = None
    """File to copy it to, which must not exist."""
    json: bool = False
    """Print JSON: names, commands, what each does, and what it takes."""

    def idle(self) -> Iterator[Idle]:
        if self.name is None:
            yield Idle("out", "name", "is for a copy of one; give its NAME")
        elif self.out is not None:
            yield Idle("json", "out", "prints, and with out nothing is printed but where the copy is")
