"""What every run has: its directory, its checkpoints, its metrics and its summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.runs.checkpoints import Checkpointer
    from pd_jax.runs.directory import RunDirectory, read_run
    from pd_jax.runs.metrics import MetricsWriter, read_metrics
    from pd_jax.runs.students import load_teacher
    from pd_jax.runs.summary import GameSummary, Summary

__all__ = [
    "Checkpointer",
    "GameSummary",
    "MetricsWriter",
    "RunDirectory",
    "Summary",
    "load_teacher",
    "read_metrics",
    "read_run",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "checkpoints": ["Checkpointer"],
            "directory": ["RunDirectory", "read_run"],
            "metrics": ["MetricsWriter", "read_metrics"],
            "students": ["load_teacher"],
            "summary": ["GameSummary", "Summary"],
        },
    )
