"""The picture of games that pull against each other: ``gradient_cosines.png``."""

from __future__ import annotations

import os

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pd_jax.report.conflicts import MOST_PAIRS, Conflicts
from pd_jax.report.figures import CYCLE, GREY, STYLE, count_axis, save_figure

# From where games oppose each other to where they agree; told apart under every common colour blindness.
_COLOURS = "RdBu"
_MOST_NUMBERS = 6


def plot_conflicts(conflicts: Conflicts, out_png: str | os.PathLike[str]) -> None:
    """Draws a heat map of every layer's mean cosines, and below the cosines of all layers together over the updates.

    Args:
      conflicts: what was measured.
      out_png: the file to write.
    """
    count, games = len(conflicts.layers), len(conflicts.games)
    side = min(max(1.6 + 0.25 * games, 2.1), 3.6)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(side * count, 6.4) + 0.6, side + 2.9), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, count, height_ratios=[side, 2.5])
        maps = [figure.add_subplot(grid[0, place]) for place in range(count)]
        titles = [*conflicts.layers[:-1], "all shared layers"]
        images = [
            _draw_map(axes, title, conflicts, matrix, named=axes is maps[0])
            for axes, title, matrix in zip(maps, titles, conflicts.means, strict=True)
        ]
        figure.colorbar(images[-1], ax=maps, shrink=0.8, label="mean cosine")
        _draw_curves(figure.add_subplot(grid[1, :]), conflicts)
        figure.legend(loc="outside lower center", ncols=min(MOST_PAIRS, 3), fontsize=8)
        save_figure(figure, out_png)


def _draw_map(axes: Axes, title: str, conflicts: Conflicts, matrix: np.ndarray, *, named: bool) -> mpl.image.AxesImage:
    count = len(conflicts.games)
    shown = np.where(np.eye(count, dtype=bool), np.nan, matrix)
    image = axes.imshow(shown, cmap=_COLOURS, vmin=-1.0, vmax=1.0)
    axes.set(title=title, xticks=range(count), yticks=range(count))
    axes.set_xticklabels(conflicts.games, rotation=90 if count > 3 else 45, ha="center" if count > 3 else "right")
    axes.set_yticklabels(conflicts.games if named else [])
    axes.grid(False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value) and count <= _MOST_NUMBERS:
            colour = "white" if abs(value) > 0.6 else "#222222"
            text = f"{round(float(value), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    return image


def _draw_curves(axes: Axes, conflicts: Conflicts) -> None:
    shown = conflicts.pairs[:MOST_PAIRS]
    axes.axhline(0.0, color=GREY, linestyle=":", linewidth=1.2)
    for pair, (colour, dash) in zip(shown, CYCLE, strict=False):
        marker = "o" if len(conflicts.updates) <= 30 else None
        values = conflicts.cosines[:, -1, pair[0], pair[1]]
        axes.plot(
            conflicts.updates, values, dash, color=colour, marker=marker, markersize=3, label=conflicts.name(pair)
        )
    of = "" if len(shown) == len(conflicts.pairs) else f" (the {len(shown)} least of {len(conflicts.pairs)} pairs)"
    axes.set(title=f"Over the training, all shared layers{of}", xlabel="updates", ylabel="cosine")
    axes.set_xlim(left=0)
    count_axis(axes)
