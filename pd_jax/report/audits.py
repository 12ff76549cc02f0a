"""What ``pd-jax audit`` has found, in the terminal."""

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

_NOTHING = "–"


def audit_table(report: Mapping[str, Any]) -> Table:
    """One row for the play that was taught, and one for each beside it.

    Args:
      report: what ``audit.json`` holds.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("played with", no_wrap=True)
    for name in ("student", "teacher", "worst tenth\nof the student", "agreement"):
        table.add_column(name, justify="right", no_wrap=True)
    taught = report["scores"] | {"name": "as it was taught", "agreement": report["agreement"]["overall"]}
    for row in (taught, *report["outside"]):
        student, teacher = row["student"], row["teacher"]
        agreement = row["agreement"]["agreement"]["value"]
        table.add_row(
            Text(row["name"]),
            *(format_score(each["mean"], each["standard_error"]) if each else _NOTHING for each in (student, teacher)),
            f"{student['cvar10']['value']:,.1f}" if student else _NOTHING,
            f"{100 * agreement:.1f} %" if agreement is not None else _NOTHING,
        )
    return table


def print_audit(report: Mapping[str, Any], out: str, *, file: TextIO | None = None) -> None:
    """Prints the table, what stands out, and what is in the directory ``out``, on stdout unless ``file`` is given."""
    table, console = audit_table(report), Console(file=file or sys.stdout, highlight=False)
    # Where nobody looks on, all is told.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    console.print(table)
    for place, finding in enumerate(report["findings"], start=1):
        console.print(Text(f"{place}. {finding['sentence']}"), soft_wrap=True)
    if not report["findings"]:
        console.print("Nothing stands out: no measure is beyond its bound.")
    if report["inherited"]:
        alike = f"Student and teacher alike lose half or more with {', '.join(report['inherited'])}."
        console.print(Text(alike), soft_wrap=True)
    console.print("  ± is one standard error of the mean", style="dim", soft_wrap=True)
    console.print(Text(f"{out}: audit.html, audit.json, policy_card.json"), soft_wrap=True)
