"""The figures of a report, as PNG files: students against teachers, and scores over compression."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from pd_jax.report.aggregates import aggregates_of
from pd_jax.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, save_figure
from pd_jax.report.groups import Mean, Section
from pd_jax.report.paper import COMPRESSION_FACTORS, PaperFigure
from pd_jax.report.statistics import Percent
from pd_jax.report.tables import describe_design

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_HATCHES = ("", "////", "....", "xxxx", "----", "||||")
_MARKERS = "osv^PX<>"
_INK = "#222222"
_LABELS = {"raw": "score, % of the teacher's", "normalised": "score above random,\n% of the teacher's"}
# Agg draws no more than 2^16 pixels; a hundred games fit.
_MOST_INCHES = 100.0


def plot_scores(section: Section, out_png: str | os.PathLike[str]) -> bool:
    """Draws a bar per game and design, and beside the games the designs' geometric means with the paper's figures.

    Args:
      section: whose percentages are drawn by its ``measure``.
      out_png: the file to write.

    Returns:
      Whether there was anything to draw.
    """
    games = list(dict.fromkeys(cell.game for cell in section.cells))
    names = [describe_design(mean.design, [mean.design for mean in section.means]) for mean in section.means]
    measured = {(cell.game, cell.design): section.measured(cell) for cell in section.cells}
    heights = {key: percent for key, percent in measured.items() if percent.value is not None}
    if not heights:
        return False
    several = len(games) > 1
    # Of a single game the designs stand side by side, each with its name.
    groups = [*games, "geometric mean"] if several else names
    step = 0.8 / len(names) if several else 0.6
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_width(len(groups), len(names) if several else 1), 3.8), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        title = "Students against their teachers" if several else f"Students against their teacher, {games[0]}"
        axes.set(title=f"{title} ({_intervals(section)})", ylabel=_LABELS[section.measure])
        axes.grid(False, axis="x")
        for index, mean in enumerate(section.means):
            percents = [heights.get((game, mean.design), Percent(None)) for game in games]
            x = np.arange(len(games)) + (index - (len(names) - 1) / 2) * step if several else np.array([float(index)])
            _draw_bars(axes, x, percents, step, index)
            if several:
                last = x[-1:] + 1
                _draw_bars(axes, last, [section.measured(mean)], step, index)
                x = last
            if mean.paper is not None and section.measure == "raw":
                axes.plot(x[-1:], mean.paper.percent, marker="D", ms=6, mfc="white", mec="black", mew=1.2, zorder=4)
        axes.axhline(100, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        if several:
            axes.axvline(len(games) - 0.5, color="#C8C8C8", linewidth=0.8)
        shown = [*heights.values(), *(section.measured(mean) for mean in section.means if several)]
        low, high = _limits(shown, _figures(section))
        axes.set_ylim(min(low, 0.0) if low < 0 else 0.0, high)
        axes.set_xlim(-0.55, len(groups) - 0.45)
        axes.set_xticks(range(len(groups)), [_lines_of(group, 11 if several else 18) for group in groups])
        axes.tick_params(axis="x", length=0)
        _add_legend(figure, names if several else [], _figures(section))
        save_figure(figure, out_png, section.rules.describe())
    return True


def plot_compression(section: Section, out_png: str | os.PathLike[str]) -> bool:
    """Draws the designs' geometric means over how many times smaller than their teachers the students are.

    Args:
      section: whose means are of its ``measure``.
      out_png: the file to write.

    Returns:
      Whether there was anything to draw: means of students of at least two sizes.
    """
    means = [mean for mean in section.means if mean.compression and section.measured(mean).value is not None]
    if len({f"{mean.compression:.1f}" for mean in means}) < 2:
        return False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.8, 3.8), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        averaged = "geometric mean of\n" if any(len(mean.cells) > 1 for mean in means) else ""
        axes.set(
            title=f"Score over compression ({_intervals(section)})",
            xlabel="times smaller than the teacher",
            ylabel=f"{averaged}{_LABELS[section.measure]}",
            xscale="log",
        )
        axes.axhline(100, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        _draw_paper(axes, means, section)
        lines = _lines(means)
        for index, (name, line) in enumerate(lines):
            # Moved apart a little, so that no interval covers another.
            _draw_line(axes, name, line, section, index, shift=1.025 ** (index - (len(lines) - 1) / 2))
        axes.set_ylim(*_limits([section.measured(mean) for mean in means], _figures(section)))
        _name_sizes(axes, means)
        labels = axes.get_legend_handles_labels()[1]
        figure.legend(loc="outside lower center", ncols=_columns(figure, labels), fontsize=8)
        save_figure(figure, out_png, section.rules.describe())
    return True


def plot_profiles(section: Section, out_png: str | os.PathLike[str]) -> bool:
    """Draws the share of runs that are above each score, against the teachers, for designs with several seeds.

    Args:
      section: whose aggregates are drawn.
      out_png: the file to write.

    Returns:
      Whether there was anything to draw.
    """
    shown = [own for own in aggregates_of(section) if own.reference == "teacher"]
    if not shown:
        return False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.8, 3.8), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(
            title="Performance profiles (95 % bands)",
            xlabel="score above random, % of the teacher's",
            ylabel="runs above it, %",
            ylim=(-2, 102),
        )
        axes.axvline(100, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        for index, own in enumerate(shown):
            name = describe_design(own.design, [other.design for other in shown])
            thresholds, share, (low, high) = own.profile()
            colour, style = _COLOURS[index % len(_COLOURS)], ("-", "--", "-.")[index // len(_COLOURS) % 3]
            axes.plot(thresholds, 100 * share, color=colour, linestyle=style, label=name, drawstyle="steps-post")
            axes.fill_between(thresholds, 100 * low, 100 * high, color=colour, alpha=0.18, step="post", linewidth=0)
        axes.set_xlim(0, max(own.profile()[0][-1] for own in shown))
        labels = axes.get_legend_handles_labels()[1]
        figure.legend(loc="outside lower center", ncols=_columns(figure, labels), fontsize=8)
        save_figure(figure, out_png, section.rules.describe())
    return True


def _draw_bars(axes: Axes, at: np.ndarray, percents: Sequence[Percent], step: float, index: int) -> None:
    known = [(x, percent) for x, percent in zip(at, percents, strict=True) if percent.value is not None]
    if not known:
        return
    heights = [percent.value or 0.0 for _, percent in known]
    axes.bar([x for x, _ in known], heights, width=0.92 * step, **_fill(index), zorder=2)
    for x, percent in known:
        _draw_interval(axes, x, percent, _INK)


def _intervals(section: Section) -> str:
    has_ranges = any(cell.interval_kind == "range of two seeds" for cell in section.cells)
    return "95 % intervals; of two seeds their range" if has_ranges else "95 % intervals"


def _draw_interval(axes: Axes, x: float, percent: Percent, colour: str) -> None:
    if percent.low is not None and percent.high is not None:
        middle, half = (percent.low + percent.high) / 2, (percent.high - percent.low) / 2
        axes.errorbar(x, middle, yerr=half, fmt="none", ecolor=colour, elinewidth=0.9, capsize=2, zorder=3)


def _draw_paper(axes: Axes, means: Sequence[Mean], section: Section) -> None:
    """The paper's compression figures, at its own networks' sizes."""
    if section.measure != "raw":
        return
    networks = {mean.design.recipe.network: mean.paper for mean in means if mean.paper is not None}
    points = [(COMPRESSION_FACTORS[name], paper) for name, paper in networks.items() if name in COMPRESSION_FACTORS]
    if points:
        x, y = zip(*sorted((factor, paper.percent) for factor, paper in points), strict=True)
        label = _describe_paper([paper for _, paper in points])
        axes.plot(
            x, y, color=GREY, linestyle="--", linewidth=1, marker="D", ms=5.5, mfc="white", mec="black", label=label
        )


def _draw_line(axes: Axes, name: str, means: Sequence[Mean], section: Section, index: int, *, shift: float) -> None:
    colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
    means = sorted(means, key=lambda mean: mean.compression or 0.0)
    x = [(mean.compression or np.nan) * shift for mean in means]
    y = [section.measured(mean).value or np.nan for mean in means]
    dash, label = "-" if index < len(_COLOURS) else "--", textwrap.shorten(name, 60, placeholder=" ...")
    axes.plot(x, y, color=colour, linestyle=dash, marker=marker, ms=5, label=label)
    for at, mean in zip(x, means, strict=True):
        _draw_interval(axes, at, section.measured(mean), colour)


def _lines(means: Sequence[Mean]) -> list[tuple[str, list[Mean]]]:
    """What they have in common, and the means that differ in nothing but their networks: one line each."""
    lines: dict[tuple[str, tuple[str, ...]], list[Mean]] = {}
    for mean in means:
        games = tuple(dict.fromkeys(cell.game for cell in mean.cells))
        rest = describe_design(mean.design).removeprefix(mean.design.recipe.network).removeprefix(", ")
        lines.setdefault((rest, games), []).append(mean)
    return [
        (f"{rest} ({', '.join(games) if len(games) < 3 else f'{len(games)} games'})", line)
        for (rest, games), line in lines.items()
    ]


def _name_sizes(axes: Axes, means: Sequence[Mean]) -> None:
    """A tick for each size, with the network's name; of sizes that would overlap the first is named."""
    ticks: dict[float, str] = {}
    for mean in sorted(means, key=lambda mean: mean.compression or 0.0):
        size = mean.compression or np.nan
        if not ticks or size / max(ticks) > 1.15:
            ticks[size] = f"{mean.design.recipe.network}\n{size:.1f}x"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())


def _add_legend(figure: Figure, names: Sequence[str], papers: Sequence[PaperFigure]) -> None:
    short = [textwrap.shorten(name, 80, placeholder=" ...") for name in names]
    handles: list[Patch | Line2D] = [Patch(**_fill(index), label=name) for index, name in enumerate(short)]
    if papers:
        label = _describe_paper(papers)
        handles.append(Line2D([], [], linestyle="", marker="D", ms=6, mfc="white", mec="black", mew=1.2, label=label))
    if handles:
        columns = _columns(figure, [str(handle.get_label()) for handle in handles])
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)


def _columns(figure: Figure, labels: Sequence[str]) -> int:
    """Of a legend as wide as its figure, of which an inch takes 14 letters."""
    lengths = [8 + len(label) for label in labels]
    room = figure.get_figwidth() * 14
    return len(labels) if sum(lengths) <= room else max(1, int(room / max(lengths)))


def _describe_paper(papers: Sequence[PaperFigure]) -> str:
    games = sorted({paper.games for paper in papers})
    return f"paper, geometric mean over its {' or '.join(map(str, games))} games"


def _figures(section: Section) -> list[PaperFigure]:
    """The paper's, which are of raw scores and stand beside nothing else."""
    return [mean.paper for mean in section.means if mean.paper is not None and section.measure == "raw"]


def _limits(percents: Sequence[Percent], papers: Sequence[PaperFigure]) -> tuple[float, float]:
    """Heights that show every value, but of intervals only what lies near: one wide one would flatten all the rest."""
    values = [percent.value for percent in percents if percent.value is not None]
    values += [100.0, *(paper.percent for paper in papers)]
    ends = [end for percent in percents for end in (percent.low, percent.high) if end is not None]
    span = max(max(values) - min(values), 20.0)
    low = max(min([*values, *ends]), min(values) - 0.8 * span)
    high = min(max([*values, *ends]), max(values) + 0.8 * span)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _fill(index: int) -> dict[str, Any]:
    hatch = _HATCHES[index // len(_COLOURS) % len(_HATCHES)]
    return {"facecolor": _COLOURS[index % len(_COLOURS)], "hatch": hatch, "edgecolor": "white", "linewidth": 0.0}


def _lines_of(name: str, width: int) -> str:
    """A name for under the axis: ``net2, KL, τ = 0.01`` on three lines."""
    return "\n".join(textwrap.fill(part.replace("_", " "), width) for part in name.split(", "))


def _width(groups: int, bars: int) -> float:
    return min(_MOST_INCHES, max(5.4, 1.0 + groups * max(0.95, 0.2 * bars + 0.3)))
