"""``pd-jax report``: puts the results of runs into the paper's tables. Imports no JAX."""

from __future__ import annotations

from pathlib import Path

from pd_jax.config.report import ReportConfig
from pd_jax.report.report import read_report, save_report
from pd_jax.report.tables import print_report
from pd_jax.system.progress import print_warning


def run(config: ReportConfig) -> None:
    """Reads the runs, writes the report if the settings say where, and prints its tables."""
    report = read_report(config.runs)
    names = save_report(report, config)
    for warning in report.warnings:
        print_warning(warning)
    print_report(report)
    if config.out is not None:
        print(f"{Path(config.out)}: {', '.join(names)}")
