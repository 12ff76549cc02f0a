"""The settings of ``pd-jax completion``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro

from pd_jax.config.base import Settings
from pd_jax.config.fields import Choice

Shell = tyro.conf.Positional[
    Annotated[Literal["bash", "zsh", "fish"], Choice("a shell"), tyro.conf.arg(metavar="SHELL")]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionConfig(Settings):
    """Print what has a shell complete the commands, options and names of pd-jax."""

    shell: Shell
    """Which one: bash, zsh or fish."""
