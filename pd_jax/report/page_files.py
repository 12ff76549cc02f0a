"""What a run's page is made from: its files, as far as they can be read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pd_jax.errors import UserError
from pd_jax.runs.details import Details, read_details
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import read_metrics
from pd_jax.runs.summary import Summary
from pd_jax.system.values import show_setting


@dataclasses.dataclass(frozen=True, eq=False)
class RunFiles:
    """What a run's files say, as far as they can be read.

    Attributes:
      directory: the run's.
      summary, details: None where there is none.
      records: of its metrics.
      missing: lines on what is not there.
    """

    directory: RunDirectory
    summary: Summary | None
    details: Details | None
    records: Sequence[Mapping[str, Any]]
    missing: Sequence[str]

    @property
    def games(self) -> tuple[str, ...]:
        """Their names."""
        if self.summary is not None:
            return tuple(self.summary.games)
        game = self.directory.config.get("game")
        return tuple(map(show_setting, game if isinstance(game, list) else [game])) if game else ()


def read_files(run: RunDirectory) -> RunFiles:
    missing: list[str] = []
    summary = details = None
    records: Sequence[Mapping[str, Any]] = ()
    try:
        summary = run.read_summary()
    except UserError as error:
        missing.append(str(error))
    try:
        details = read_details(run.details_path)
        if details is None and summary is not None:
            missing.append(
                f"{run.details_path.name}: there is none, as in older runs: which choices are taken for which, the "
                "moments that cost most, and the versions that it ran with are not known"
            )
    except UserError as error:
        missing.append(f"{error}; it is left out")
    try:
        records = read_metrics(run.metrics_path)
    except UserError as error:
        missing.append(f"{error}; the curves are left out")
    return RunFiles(run, summary, details, records, tuple(missing))


def updates_at(record: Mapping[str, Any]) -> float:
    """Where a line of metrics belongs: after how many of the student's updates."""
    updates = record.get("updates")
    return float(updates) if updates is not None and is_number(updates) else float(record["step"])


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
