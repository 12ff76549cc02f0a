"""``pd-jax report``: puts the results of runs into the paper's tables. Imports no JAX."""

from __future__ import annotations

from pathlib import Path

from pd_jax.config.report import ReportConfig
from pd_jax.report.report import only_pages, read_report, save_report, write_pages
from pd_jax.report.tables import print_report
from pd_jax.system.progress import print_warning


def run(config: ReportConfig) -> None:
    """Reads the runs, writes the report if the settings say where, and prints its tables."""
    report = None if only_pages(config) else read_report(config.runs)
    pages = write_pages(config)
    names = [] if report is None else save_report(report, config)
    if report is not None:
        for warning in report.warnings:
            print_warning(warning)
        print_report(report)
    for page in pages:
        print(page)
    if config.out is not None:
        print(f"{Path(config.out)}: {', '.join(names)}")
