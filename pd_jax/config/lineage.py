"""The settings of ``pd-jax lineage``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from pd_jax.config.base import Settings
from pd_jax.config.fields import FilePath
from pd_jax.config.sections import Paths

Directory = tyro.conf.Positional[Annotated[str, FilePath(), tyro.conf.arg(metavar="DIR")]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineageConfig(Settings):
    """Show what a run, a recording or an export came from, and verify each file of it."""

    directory: Directory
    """Of the run, the recording or the export."""
    search: Paths | None = None
    """Directories in which to look for what is not where it was; or those themselves. What is not found is said to be
    not at hand."""
