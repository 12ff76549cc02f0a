"""Figures of a run, as PNG files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from pd_jax.report.forgetting import forgotten_in
from pd_jax.runs.metrics import read_metrics
from pd_jax.runs.summary import GameSummary, Summary

# Okabe and Ito's palette, told apart under every common colour blindness; markers and dashes help in print.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY = "#5A5A5A"
CYCLE = [(colour, dash) for dash in ("-", "--") for colour in (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)]
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
# More points than this are drawn faintly, under their running mean.
_DENSE = 60


def plot_run(metrics_path: str | os.PathLike[str], summary: Summary | None, out_png: str | os.PathLike[str]) -> None:
    """Draws loss and agreement on the left, and scores against the teacher's on the right, over updates.

    Args:
      metrics_path: ``metrics.jsonl`` with ``loss`` and ``agreement`` (each also per game, ``GAME/loss``), and
        `pd_jax.runs.metrics.score_values`. The horizontal axis is ``updates``, or ``step`` without it.
      summary: the run's; None while it is going.
      out_png: the file to write.

    Raises:
      UserError: the metrics cannot be read.
    """
    records = read_metrics(metrics_path)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        learning, scores = figure.subplots(1, 2)
        draw_learning(learning, records)
        games = summary.games if summary else {}
        if len(games) > 1:
            _draw_percentages(scores, records, games)
        else:
            _draw_scores(scores, records, games)
        save_figure(figure, out_png)


def plot_learning_curve(
    curve: Sequence[Sequence[float | None]],
    out_png: str | os.PathLike[str],
    *,
    title: str = "",
    x_label: str = "environment steps",
    references: Mapping[str, float] | None = None,
) -> None:
    """Draws a teacher's score over its training.

    Args:
      curve: rows ``(step, score)`` or ``(step, score, low, high)`` with the ends of an interval.
      out_png: the file to write.
      title: such as ``PQN, Pong``.
      x_label: what the steps count.
      references: scores to compare with, by name, such as ``{"random": -20.7, "human": 14.6}``.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.4), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(title=title, xlabel=x_label, ylabel="score")
        _draw_learning_curve(axes, curve, references or {})
        save_figure(figure, out_png)


def plot_learning_curves(
    curves: Mapping[str, tuple[Sequence[Sequence[float | None]], Mapping[str, float]]],
    out_png: str | os.PathLike[str],
    *,
    x_label: str = "environment steps",
    description: str = "",
) -> None:
    """Draws several teachers' scores over their trainings, a panel each.

    Args:
      curves: by title, the ``curve`` and the ``references`` of :func:`plot_learning_curve`; at least one.
      out_png: the file to write.
      x_label: what the steps count.
      description: kept in the file.
    """
    columns = 2 if len(curves) == 4 else min(3, len(curves))
    rows = -(-len(curves) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.5 * rows), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        panels = list(grid.flat)
        for axes, (title, (curve, references)) in zip(panels, curves.items(), strict=False):
            axes.set(title=title, xlabel=x_label, ylabel="score")
            _draw_learning_curve(axes, curve, references)
        for axes in panels[len(curves) :]:
            axes.remove()
        save_figure(figure, out_png, description)


def _draw_learning_curve(axes: Axes, curve: Sequence[Sequence[float | None]], references: Mapping[str, float]) -> None:
    rows = np.array([[*row, None, None][:4] for row in curve], dtype=float).reshape(-1, 4)
    for score in references.values():
        axes.axhline(score, color=GREY, linestyle=":", linewidth=1.2)
    if rows.size:
        interval_line(axes, rows, BLUE, marker="o" if len(rows) <= _DENSE else None)
        axes.set_xlim(0, max(rows[:, 0].max(), 1) * 1.02)
        count_axis(axes)
    else:
        say_nothing_to_show(axes)
    label_ends(axes, [(score, name, GREY) for name, score in references.items()])


def draw_learning(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Draws loss and agreement over updates, from the records of ``metrics.jsonl``."""
    axes.set(title="Learning", xlabel="updates")
    loss, agreement = _series(records, "loss"), _series(records, "agreement")
    if not loss.size and not agreement.size:
        say_nothing_to_show(axes)
        return
    positive = loss[loss[:, 1] > 0]
    if positive.size:
        axes.set_yscale("log")
        _dense_line(axes, positive, BLUE, log=True)
        low, high = positive[:, 1].min(), positive[:, 1].max()
        if high / low < 10:
            # Within a decade the log axis would have one label, or none.
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel("loss (log scale)", color=BLUE)
    axes.tick_params(axis="y", colors=BLUE, which="both")
    if agreement.size:
        right = axes.twinx()
        right.grid(False)
        right.spines["right"].set_visible(True)
        _dense_line(right, np.column_stack([agreement[:, 0], 100 * agreement[:, 1]]), VERMILION)
        right.set_ylim(0, 102)
        right.set_ylabel("same action as the teacher (%)", color=VERMILION)
        right.tick_params(axis="y", colors=VERMILION)
    count_axis(axes)


def _draw_scores(axes: Axes, records: Sequence[Mapping[str, Any]], games: Mapping[str, GameSummary]) -> None:
    """One game, in its own points; the last point is the final evaluation."""
    name = next(iter(games), None) or next(iter(_games_scored(records)), "")
    axes.set(title=f"Score, {name}" if name else "Score", xlabel="updates", ylabel="score per episode, 95 % interval")
    rows, last = _scores_on_the_way(records, name), max(_last_update(records), 1)
    game = games.get(name, GameSummary(None, None))
    student, teacher, random = game.student, game.teacher, game.random_score
    if student is not None:
        rows = np.vstack([rows[rows[:, 0] < last], np.array([[last, student.mean, *student.ci95]], float)])
    if not rows.size:
        say_nothing_to_show(axes)
        return
    labels = [(rows[-1, 1], f"student {rows[-1, 1]:,.1f}", BLUE)]
    if teacher is not None:
        labels.append((teacher.mean, f"teacher {teacher.mean:,.1f}", VERMILION))
        if teacher.low is not None and teacher.high is not None:
            axes.axhspan(teacher.low, teacher.high, color=VERMILION, alpha=0.18, linewidth=0)
        axes.axhline(teacher.mean, color=VERMILION, linestyle="--")
        if random is not None:
            axes.axhline(random, color=GREY, linestyle=":", linewidth=1.2)
            labels.append((random, f"random {random:,.1f}", GREY))
    interval_line(axes, rows, BLUE, marker="o")
    axes.margins(y=0.08)
    axes.set_xlim(0, last * 1.02)
    label_ends(axes, labels)
    count_axis(axes)


def _draw_percentages(axes: Axes, records: Sequence[Mapping[str, Any]], games: Mapping[str, GameSummary]) -> None:
    """Several games, as shares of their teachers' scores."""
    normalised = all(game.percent_of_teacher_normalised is not None for game in games.values())
    label = "score above random, % of the teacher's" if normalised else "score, % of the teacher's"
    axes.set(title="Student against teachers", xlabel="updates", ylabel=label)
    axes.axhline(100, color=GREY, linewidth=1.2, linestyle=":")
    last = max(_last_update(records), 1)
    labels = []
    for (name, game), (colour, dash) in zip(games.items(), itertools.cycle(CYCLE), strict=False):
        assert game.teacher is not None and game.student is not None
        random = (game.random_score if normalised else None) or 0.0
        span = game.teacher.mean - random
        if span <= 0:
            continue
        rows = _scores_on_the_way(records, name)
        rows = np.vstack([rows[rows[:, 0] < last], [[last, game.student.mean, np.nan, np.nan]]])
        percent = 100 * (rows[:, 1] - random) / span
        axes.plot(rows[:, 0], percent, color=colour, linestyle=dash, marker="o", markersize=3.5)
        labels.append((float(percent[-1]), f"{name} {percent[-1]:.0f} %", colour))
        if (own := forgotten_in(game)) is not None:
            # Before games were added: what the line comes from.
            before = 100 * (own.before - random) / span
            axes.plot([0.0, rows[0, 0]], [before, percent[0]], color=colour, linestyle=":", linewidth=1.0)
            axes.plot([0.0], [before], color=colour, marker="s", markersize=5, fillstyle="none", clip_on=False)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(0.0, bottom), top)
    axes.set_xlim(0, last * 1.02)
    label_ends(axes, labels)
    count_axis(axes)


def label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Writes ``(y, text, colour)`` beside the right ends of lines, moved apart so that none covers another."""
    bottom, top = axes.get_ylim()
    gap = (top - bottom) / 18
    ordered = sorted(labels)
    heights = np.array([height for height, _, _ in ordered])
    for _ in range(500):
        overlaps = np.maximum(gap - np.diff(heights), 0)
        if not overlaps.any():
            break
        heights[:-1] -= overlaps / 2
        heights[1:] += overlaps / 2
        heights = np.clip(heights, bottom, top)
    for height, (end, text, colour) in zip(heights, ordered, strict=True):
        axes.annotate(
            text,
            xy=(1.0, end),
            xycoords=("axes fraction", "data"),
            xytext=(1.04, height),
            textcoords=("axes fraction", "data"),
            color=colour,
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
        )


def interval_line(axes: Axes, rows: np.ndarray, colour: str, *, marker: str | None) -> None:
    """A line through ``[points, (x, y, low, high)]``, with a band, or bars where points are few."""
    x, y, low, high = rows.T
    known = np.isfinite(low) & np.isfinite(high)
    if len(rows) > 3:
        axes.fill_between(x, low, high, where=known, color=colour, alpha=0.18, linewidth=0)
    elif known.any():
        errors = np.maximum([y - low, high - y], 0)[:, known]
        axes.errorbar(x[known], y[known], yerr=errors, fmt="none", ecolor=colour, alpha=0.6, capsize=3)
    axes.plot(x, y, color=colour, marker=marker, markersize=4)


def _dense_line(axes: Axes, points: np.ndarray, colour: str, *, log: bool = False) -> None:
    x, y = points.T
    if len(x) <= _DENSE:
        axes.plot(x, y, color=colour)
        return
    axes.plot(x, y, color=colour, alpha=0.2, linewidth=0.8)
    width = len(x) // 25 | 1
    # The mean of logarithms, so that one spike does not lift the line over its neighbours.
    values = np.log(y) if log else y
    padded = np.pad(values, width // 2, mode="edge")
    smooth = np.convolve(padded, np.ones(width) / width, mode="valid")
    axes.plot(x, np.exp(smooth) if log else smooth, color=colour)


def count_axis(axes: Axes) -> None:
    """Makes the horizontal axis one of large whole numbers."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def say_nothing_to_show(axes: Axes) -> None:
    """In the place of a drawing."""
    axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set(xticks=[], yticks=[])


def _x_of(record: Mapping[str, Any]) -> float:
    updates = record.get("updates")
    return float(record["step"] if updates is None else updates)


def _last_update(records: Sequence[Mapping[str, Any]]) -> float:
    return max((_x_of(record) for record in records), default=0.0)


def _series(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """``[points, (x, value)]`` of a value, or of its mean over games where only ``GAME/name`` was recorded."""
    points = []
    for record in records:
        value = record.get(name)
        if value is None:
            values = [item for key, item in record.items() if key.endswith(f"/{name}") and item is not None]
            value = float(np.mean(values)) if values else None
        if value is not None:
            points.append((_x_of(record), value))
    return np.array(points, float).reshape(-1, 2)


def _scores_on_the_way(records: Sequence[Mapping[str, Any]], game: str) -> np.ndarray:
    """``[evaluations, (x, score, low, high)]``."""
    names = [f"{part}/{game}" for part in ("score", "score_low", "score_high")]
    rows = [(_x_of(record), *map(record.get, names)) for record in records if record.get(names[0]) is not None]
    return np.array(rows, float).reshape(-1, 4)


def _games_scored(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({key.split("/", 1)[1] for record in records for key in record if key.startswith("score/")})


def save_figure(figure: Figure, out_png: str | os.PathLike[str], description: str = "") -> None:
    """Writes a PNG file, the same bytes for the same figure; ``description`` is kept in it."""
    path = Path(out_png)
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {"Software": "pd_jax"} | ({"Description": description} if description else {})
    figure.savefig(path, format="png", facecolor="white", metadata=texts)
