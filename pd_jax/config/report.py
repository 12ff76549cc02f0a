"""The settings of ``pd-jax report``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pd_jax.config.base import CommandConfig
from pd_jax.config.idle import Idle
from pd_jax.config.sections import PathText, RunDirectories


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """Print and write the tables of finished runs."""

    runs: RunDirectories
    """Directories of runs, or of several runs one or two levels below them."""
    out: PathText | None = None
    """Directory for report.html, report.md, report.json and the figures; None only prints."""
    resume: bool = False
    """Write the report in the directory anew, also of other runs."""
    pages: bool = False
    """Write each run's own page, RUN/report.html, anew: with a video that was made since, or of a run that goes on."""

    def idle(self) -> Iterator[Idle]:
        if self.out is None:
            yield Idle("resume", "out", "out is missing, and nothing is written; give --out DIR")
