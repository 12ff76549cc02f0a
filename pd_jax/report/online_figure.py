"""The figure of an online run: three scores over the teacher's training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pd_jax.evaluation.scores import Score
from pd_jax.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    VERMILION,
    count_axis,
    draw_learning,
    interval_line,
    label_ends,
    save_figure,
    say_nothing_to_show,
)
from pd_jax.runs.metrics import read_metrics
from pd_jax.runs.summary import GameSummary, Summary

WHO = ("teacher", "target", "student")
"""Whose scores there are: the learning teacher, the snapshot of it that the student learns from, and the student."""


class _Line(NamedTuple):
    colour: str
    marker: str


# The student last, so that it is drawn on top.
_LINES: Mapping[str, _Line] = {
    "teacher": _Line(VERMILION, "o"),
    "target": _Line(ORANGE, "s"),
    "student": _Line(BLUE, "^"),
}


def online_score_values(game: str, scores: Mapping[str, Score]) -> dict[str, float | None]:
    """What :func:`plot_online` draws of an evaluation on the way, to pass to ``MetricsWriter.write``.

    Args:
      game: the task's name.
      scores: by ``teacher``, ``target`` and ``student``, of those that were scored.

    Returns:
      ``GAME/teacher_score`` and the 95 % interval's ends ``GAME/teacher_score_low`` and ``_high``, and so on.
    """
    values: dict[str, float | None] = {}
    for who, score in scores.items():
        name = f"{game}/{who}_score"
        values |= {name: score.mean, f"{name}_low": score.low, f"{name}_high": score.high}
    return values


def plot_online(
    metrics_path: str | os.PathLike[str],
    game: str,
    summary: Summary | None,
    out_png: str | os.PathLike[str],
) -> None:
    """Draws the three scores over the teacher's control steps, and loss and agreement over the student's updates.

    Args:
      metrics_path: ``metrics.jsonl``, with :func:`online_score_values` and ``teacher_env_steps`` in a line.
      game: the task's name.
      summary: the run's; None while it is going. Its final scores stand at the right end, its own markers hollow: they
        are of more games, from other starts.
      out_png: the file to write.

    Raises:
      UserError: the metrics cannot be read.
    """
    records = read_metrics(metrics_path)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.8), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        learning, scores = figure.subplots(1, 2, width_ratios=[2, 3])
        draw_learning(learning, records)
        _draw_scores(scores, records, game, None if summary is None else summary.games.get(game))
        save_figure(figure, out_png)


def score_rows(records: Sequence[Mapping[str, Any]], game: str, who: str) -> np.ndarray:
    """``[evaluations, (teacher's control steps, score, low, high)]`` of one of ``WHO``; NaN for no interval."""
    name = f"{game}/{who}_score"
    rows = [
        (record["teacher_env_steps"], record[name], record.get(f"{name}_low"), record.get(f"{name}_high"))
        for record in records
        if record.get(name) is not None
    ]
    return np.array(rows, float).reshape(-1, 4)


def _draw_scores(axes: Axes, records: Sequence[Mapping[str, Any]], game: str, final: GameSummary | None) -> None:
    axes.set(title=f"Score, {game}", xlabel="control steps of the teacher's training")
    axes.set_ylabel("score per episode, 95 % interval")
    curves = {who: score_rows(records, game, who) for who in WHO}
    if not any(len(rows) for rows in curves.values()):
        say_nothing_to_show(axes)
        return
    last = max(rows[-1, 0] for rows in curves.values() if len(rows))
    labels = []
    for who, rows in curves.items():
        if not len(rows):
            continue
        colour, marker = _LINES[who]
        interval_line(axes, rows, colour, marker=marker if len(rows) <= 60 else None)
        score = rows[-1, 1]
        if (ended := _final_mean(final, who)) is not None:
            score = ended
            axes.plot([last], [score], color=colour, marker=marker, markersize=7, fillstyle="none", clip_on=False)
        labels.append((score, f"{who} {score:,.1f}", colour))
    if final is not None and final.random_score is not None:
        axes.axhline(final.random_score, color=GREY, linestyle=":", linewidth=1.2)
        labels.append((final.random_score, f"random {final.random_score:,.1f}", GREY))
    axes.margins(y=0.08)
    axes.set_xlim(0, max(last, 1) * 1.02)
    label_ends(axes, labels)
    count_axis(axes)


def _final_mean(final: GameSummary | None, who: str) -> float | None:
    """The score of one of ``WHO`` at the end of a run."""
    if final is None:
        return None
    if who == "teacher":
        mean: float | None = final.about.get("latest_teacher_score")
        return mean
    score = final.teacher if who == "target" else final.student
    return None if score is None else score.mean
