"""The report of finished runs: read from their directories, written as tables and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.loading import to_mapping
from pd_jax.config.report import ReportConfig
from pd_jax.errors import UserError
from pd_jax.report.comparisons import plot_compression, plot_profiles, plot_scores
from pd_jax.report.groups import Report, build_report
from pd_jax.report.numbers import report_json
from pd_jax.report.page import PAGE_COMMANDS, PAGE_NAME, renew_run_page
from pd_jax.report.results import Result, find_runs, read_results
from pd_jax.report.runs_page import runs_page
from pd_jax.report.tables import markdown
from pd_jax.runs.directory import RunDirectory
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.progress import print_warning
from pd_jax.system.text import printable
from pd_jax.version import __version__

Figures = dict[int, list[tuple[str, str]]]


def read_report(paths: Sequence[str]) -> Report:
    """The report of the runs that ``paths`` are or hold; what cannot be read is named in its warnings.

    Args:
      paths: run directories, or directories that hold some one or two levels below.

    Returns:
      the report.

    Raises:
      UserError: a directory is missing or holds no run, or no run has ended and can be read.
    """
    warnings: list[str] = []
    results: list[Result] = []
    unfinished = []
    unreadable: list[UserError] = []
    for run in find_runs(paths, warnings.append, unreadable.append):
        try:
            found = read_results(run, warnings.append)
        except UserError as error:
            unreadable.append(error)
            continue
        if found is None:
            unfinished.append(printable(str(run.path)))
        else:
            results += found
    if not results and unreadable:
        more = len(unreadable) + len(unfinished) - 1
        raise UserError(f"{unreadable[0]}" + (f"; nor can {more} more be reported" if more else ""))
    if not results:
        others = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
        raise UserError(f"{unfinished[0]}{others}: no summary.json: the run has not ended, and nothing else is left")
    warnings += [f"{name}: has no summary.json yet: the run has not ended, and is left out" for name in unfinished]
    warnings += [f"{error}; the run is left out" for error in unreadable]
    return build_report(results, warnings)


def run_report(config: ReportConfig) -> Report | None:
    """Reads finished runs, and writes their report if the settings say where: ``pd-jax report`` without its printing.

    Args:
      config: the runs, and where to write.

    Returns:
      the report; None where only pages of runs were wanted that have not ended.

    Raises:
      UserError: a directory is missing or holds no run, no run has ended and can be read, or ``out`` holds something
        else; nothing was written.
    """
    report = None if only_pages(config) else read_report(config.runs)
    write_pages(config)
    if report is not None:
        save_report(report, config)
    return report


def only_pages(config: ReportConfig) -> bool:
    """Whether there are pages to write and nothing to report: no run has ended.

    Raises:
      UserError: a directory is missing or holds no run.
    """
    if not config.pages or config.out is not None:
        return False
    runs = _runs_with_pages(config)
    return bool(runs) and not any(run.is_complete for run in runs)


def write_pages(config: ReportConfig) -> list[Path]:
    """Writes the runs' own pages anew if the settings say so, and returns their paths.

    Raises:
      UserError: a page cannot be written.
    """
    written = []
    # A report names what it leaves out.
    tell: Callable[[UserError], None] = _tell if only_pages(config) else lambda error: None
    for run in _runs_with_pages(config, tell) if config.pages else ():
        try:
            renew_run_page(run)
        except OSError as error:
            raise UserError(f"{run.report_path}: cannot be written: {error.strerror}") from error
        written.append(run.report_path)
    return written


def leave_runs_page(directory: Path, title: str) -> None:
    """Writes ``report.html`` of the runs in a directory, such as a sweep's; nothing where none has ended.

    Args:
      directory: that holds runs one or two levels below it.
      title: of the page.

    Raises:
      OSError: the page cannot be written.
    """
    try:
        report = read_report([str(directory)])
    except UserError:
        return
    write_atomically(directory / PAGE_NAME, runs_page(report, directory, version=__version__, title=title))


def _runs_with_pages(
    config: ReportConfig, tell: Callable[[UserError], None] = lambda error: None
) -> list[RunDirectory]:
    runs = find_runs(config.runs, lambda warning: None, tell)
    return [run for run in runs if run.command in PAGE_COMMANDS]


def _tell(error: UserError) -> None:
    print_warning(f"{error}; its page is left as it was")


def save_report(report: Report, config: ReportConfig) -> list[str]:
    """Writes a report with its figures to ``config.out``, if that is given, and returns the names of the files.

    Raises:
      UserError: the directory holds something else, or a report already and ``config.resume`` is not set; nothing was
        written.
    """
    if config.out is None:
        return []
    with RunDirectory.create(
        config.out, "report", to_mapping(config), resume=config.resume, may_change={"runs", "seed"}
    ) as directory:
        return _write(report, directory.path)


def _write(report: Report, out: Path) -> list[str]:
    """Writes all files and returns their names."""
    figures: Figures = {}
    for index, section in enumerate(report.sections):
        suffix = f"_{index + 1}" if index else ""
        drawings = (
            (plot_scores, f"scores{suffix}.png", "students' scores against their teachers'"),
            (plot_compression, f"compression{suffix}.png", "scores over compression"),
            (plot_profiles, f"profiles{suffix}.png", "the share of runs above each score"),
        )
        for plot, name, about in drawings:
            # What an earlier report of other runs drew there is no longer so.
            (out / name).unlink(missing_ok=True)
            if plot(section, out / name):
                figures.setdefault(index, []).append((name, about))
    write_atomically(out / PAGE_NAME, runs_page(report, out, version=__version__))
    write_atomically(out / "report.md", markdown(report, figures, version=__version__))
    content: dict[str, Any] = to_json(report_json(report))
    write_atomically(out / "report.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return [PAGE_NAME, "report.md", "report.json", *(name for drawn in figures.values() for name, _ in drawn)]
