"""What ``pd-jax export`` left, as a table in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pd_jax.report.terminal import format_score
from pd_jax.system.text import spell_bytes


def exports_table(report: Mapping[str, Any]) -> Table:
    """One row for each file.

    Args:
      report: what ``export.json`` holds.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("file", no_wrap=True)
    for name in ("size", "frames", "largest\ndifference", "equal\nactions", "score of\nthe file", "of JAX"):
        table.add_column(name, justify="right", no_wrap=True)
    for game in report["games"].values():
        policy = game["policy_games"]
        for entry in game["files"].values():
            frames, games = entry["frames"], entry.get("games")
            scores = [format_score(each["mean"], each["standard_error"]) if each else "–" for each in (games, policy)]
            table.add_row(
                Text(entry["file"]),
                spell_bytes(entry["bytes"]),
                f"{frames['frames']:,}",
                f"{frames['largest_relative_difference']:.1e}",
                f"{100 * frames['share_of_equal_actions']:.2f} %",
                *scores,
            )
    return table


def print_export(report: Mapping[str, Any], out: str, *, file: TextIO | None = None) -> None:
    """Prints the table, and what is in the directory ``out``, on stdout unless ``file`` is given."""
    table, console = exports_table(report), Console(file=file or sys.stdout, highlight=False)
    # Where nobody looks on, all is told.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    console.print(table)
    entries = [entry for game in report["games"].values() for entry in game["files"].values()]
    if any(entry.get("games") for entry in entries):
        told = "  both scores are from the same starts; ± is one standard error of the mean"
        console.print(told, style="dim", soft_wrap=True)
    if any(entry.get("precision") == "int8" for entry in entries):
        told = "  int8 has to play as well, no more: its outputs and actions are told, and bind nothing"
        console.print(told, style="dim", soft_wrap=True)
    tests = [entry["test"]["file"] for entry in entries if "test" in entry]
    names = [*(entry["file"] for entry in entries), *tests]
    runtime = [report["runtime"]["file"]] if "runtime" in report else []
    console.print(Text(f"{out}: {', '.join([*names, *runtime, 'export.json', 'lineage.json'])}"), soft_wrap=True)
