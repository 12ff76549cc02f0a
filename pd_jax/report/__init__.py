"""Runs in the paper's tables and figures. Nothing here imports JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.report.groups import Report
    from pd_jax.report.numbers import report_json
    from pd_jax.report.report import read_report, run_report
    from pd_jax.report.results import Result, find_runs, read_results
    from pd_jax.report.tables import markdown

__all__ = [
    "Report",
    "Result",
    "find_runs",
    "markdown",
    "read_report",
    "read_results",
    "report_json",
    "run_report",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "groups": ["Report"],
            "numbers": ["report_json"],
            "report": ["read_report", "run_report"],
            "results": ["Result", "find_runs", "read_results"],
            "tables": ["markdown"],
        },
    )
