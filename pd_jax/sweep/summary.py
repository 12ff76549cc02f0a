"""The one table that a sweep ends in: its cells, and what they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.evaluation.statistics import floor_note, floored_mean, geometric_mean, percent_of_teacher
from pd_jax.report.terminal import format_percent, format_score

AXES = ("network", "loss", "temperature", "learning_rate")
"""What a row of the table has in common; seeds are averaged, games stand side by side."""

Table = dict[str, Any]


def build_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Groups cells into rows.

    Args:
      cells: in order; each has ``cell`` (its name), ``game``, the ``AXES`` and ``seed``, and either ``failure`` or the
        entries of its game in ``summary.json``.

    Returns:
      ``cells`` as given, and ``rows``: the ``AXES``; by game the number of ``seeds``, the mean ``student_score`` over
      them, its ``standard_error`` over them (None for one), ``teacher_score`` and the mean's percentages of it; and
      their geometric means over the games, None where a game lacks a cell or a percentage, beside what
      `pd_jax.evaluation.statistics.floored_mean` gives.
    """
    games = list(dict.fromkeys(cell["game"] for cell in cells))
    rows = []
    for key in dict.fromkeys(_key(cell) for cell in cells):
        own = [cell for cell in cells if _key(cell) == key]
        finished = [cell for cell in own if "student_score" in cell]
        by_game = {game: _mean([cell for cell in finished if cell["game"] == game]) for game in games}
        rows.append(
            dict(zip(AXES, key, strict=True))
            | {"games": {game: mean for game, mean in by_game.items() if mean is not None}}
            | {
                f"geometric_mean_{name}": geometric_mean([mean[name] if mean else None for mean in by_game.values()])
                for name in ("percent", "percent_normalised")
            }
            | floored_mean({game: mean["percent_normalised"] if mean else None for game, mean in by_game.items()})
            | {"failed": sum("failure" in cell for cell in own)}
        )
    return {"cells": [dict(cell) for cell in cells], "rows": rows}


def format_table(table: Table) -> str:
    """A table in Markdown that can also be read in a terminal: the cells, then the means over their seeds."""
    cells, rows = table["cells"], table["rows"]
    axes = [name for name in AXES if len({row[name] for row in rows}) > 1] or ["network"]
    seeds = len({cell["seed"] for cell in cells})
    games = len({cell["game"] for cell in cells})
    lines = _markdown(
        ["cell", "student", "95 % interval", "teacher", "of teacher", "above random"], map(_cell_texts, cells)
    )
    if seeds > 1 or games > 1:
        header = [*axes, "game", "seeds", "student", "teacher", "of teacher", "above random"]
        lines += ["", *_markdown(header, (texts for row in rows for texts in _row_texts(row, axes, games)))]
    lines += ["", "±: one standard error, of a cell's mean over its games and of a row's mean over its seeds."]
    floored = [f"{_describe(row, axes)} in {game}" for row in rows if games > 1 for game in row["floored_games"]]
    lines += [f"Geometric mean above random: {floor_note(floored)}."] if floored else []
    lines += [f"Failed: {cell['cell']}: {cell['failure']}" for cell in cells if "failure" in cell]
    return "\n".join(lines) + "\n"


def _key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in AXES)


def _mean(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the seeds of a game have in common, None if there are none."""
    if not cells:
        return None
    scores = np.array([cell["student_score"] for cell in cells], float)
    teacher, random = cells[0]["teacher_score"], cells[0].get("random_score")
    mean = float(scores.mean())
    return {
        "seeds": len(cells),
        "student_score": mean,
        "standard_error": float(scores.std(ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else None,
        "teacher_score": teacher,
        "percent": percent_of_teacher(mean, teacher),
        "percent_normalised": None if random is None else percent_of_teacher(mean, teacher, random),
    }


def _cell_texts(cell: Mapping[str, Any]) -> list[str]:
    if "student_score" not in cell:
        return [cell["cell"], "failed" if "failure" in cell else "to do", "", "", "", ""]
    low, high = cell["student_ci95"]
    return [
        cell["cell"],
        format_score(cell["student_score"], cell["student_standard_error"]),
        "" if low is None else f"{low:,.1f} to {high:,.1f}",
        format_score(cell["teacher_score"], cell["teacher_standard_error"]),
        format_percent(cell["percent_of_teacher"]),
        format_percent(cell["percent_of_teacher_normalised"]),
    ]


def _values(row: Mapping[str, Any], axes: Sequence[str]) -> list[str]:
    return ["" if row[name] is None else row[name] if isinstance(row[name], str) else f"{row[name]:g}" for name in axes]


def _describe(row: Mapping[str, Any], axes: Sequence[str]) -> str:
    return ", ".join(filter(None, _values(row, axes)))


def _row_texts(row: Mapping[str, Any], axes: Sequence[str], games: int) -> Iterable[list[str]]:
    values = _values(row, axes)
    for game, mean in row["games"].items():
        student = format_score(mean["student_score"], mean["standard_error"])
        percentages = [format_percent(mean[name]) for name in ("percent", "percent_normalised")]
        yield [*values, game, str(mean["seeds"]), student, format_score(mean["teacher_score"], None), *percentages]
    if games > 1:
        names = ("percent", "percent_normalised_floored")
        percentages = [format_percent(row[f"geometric_mean_{name}"]) for name in names]
        yield [*values, "geometric mean", "", "", "", *percentages]


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, padded so that its columns stand below one another."""
    texts = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
