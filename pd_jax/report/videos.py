"""What ``pd-jax video`` shows, as a table in the terminal."""

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

from pd_jax.system.text import spell_bytes


def video_table(report: Mapping[str, Any]) -> Table:
    """One row for each start.

    Args:
      report: what the ``.json`` beside the video holds.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("game", no_wrap=True)
    for name in ("lane", "teacher", "student", "the teacher would do\nas the student does"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in report["pairs"]:
        scores = [_score(pair[who]) for who in ("teacher", "student")]
        table.add_row(Text(pair["game"]), str(pair["lane"]), *scores, f"{100 * pair['student']['agreement']:.1f} %")
    return table


def _score(entry: Mapping[str, Any]) -> str:
    """Of a game that goes on, the score so far."""
    score = f"{entry['score']:,.0f}" if float(entry["score"]).is_integer() else f"{entry['score']:,.1f}"
    return score if entry["has_ended"] else f"{score} after {entry['decisions']:,} decisions"


def print_video(report: Mapping[str, Any], out: str, *, file: TextIO | None = None) -> None:
    """Prints the table, and which files there are beside ``out``, on stdout unless ``file`` is given."""
    table, console = video_table(report), Console(file=file or sys.stdout, highlight=False)
    # Where nobody looks on, all is told.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    console.print(table)
    directory = Path(out).parent
    for name in report["files"]:
        path = directory / name
        console.print(Text(f"{path}: {spell_bytes(path.stat().st_size)}"), soft_wrap=True)
