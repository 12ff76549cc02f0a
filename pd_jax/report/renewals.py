"""What ``pd-jax renew`` compared and decided, as a table in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pd_jax.report.terminal import format_score


def renewal_table(report: Mapping[str, Any]) -> Table:
    """One row for each game.

    Args:
      report: what ``renewal.json`` holds.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("game", no_wrap=True)
    for name in ("champion", "challenger", "difference", "95 % interval", "may lose", "games"):
        table.add_column(name, justify="right", no_wrap=True)
    for game, entry in report["games"].items():
        scores = [format_score(entry[who]["mean"], entry[who]["standard_error"]) for who in ("champion", "challenger")]
        difference = entry["difference"]
        low, high = difference["ci95"]
        table.add_row(
            Text(game),
            *scores,
            f"{difference['mean']:+,.2f}",
            f"{low:+,.2f} to {high:+,.2f}",
            f"{entry['allowed_loss']:,.2f}" if report["rule"] == "not_worse" else "nothing",
            f"{difference['episodes']:,}",
        )
    return table


def print_renewal(report: Mapping[str, Any], export: str, *, file: TextIO | None = None) -> None:
    """Prints the table, and what became of the directory ``export``, on stdout unless ``file`` is given."""
    table, console = renewal_table(report), Console(file=file or sys.stdout, highlight=False)
    # Where nobody looks on, all is told.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    console.print(table)
    note = "  both play from the same starts, by their files; ± is one standard error of the mean"
    console.print(note, style="dim", soft_wrap=True)
    if report["replaced"]:
        told = f"{export}: replaced; the one before is in {Path(export).parent / report['before']}"
    else:
        told = f"{export}: stays; {report['because']}"
    console.print(Text(told), soft_wrap=True)
