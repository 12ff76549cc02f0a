"""The picture of a committee: who agrees with whom, what each counts as the run goes on, and the worst states."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pd_jax.evaluation.contradictions import WORST, Contradiction, Contradictions
from pd_jax.report.figures import CYCLE, GREY, STYLE, count_axis, save_figure, say_nothing_to_show
from pd_jax.runs.metrics import read_metrics

_NAME = re.compile(r"committee_[A-Za-z0-9_.-]+\.png")
_STYLE = 'style="width:100%;height:auto;image-rendering:auto;background:#fff"'
# Of two that count the same, both are to be seen.
_DASHES = ("-", "--", "-.")
_MOST_LETTERS = 18
_MOST_NUMBERS_IN_MATRIX = 12


def committee_path(run: str | os.PathLike[str], game: str) -> Path:
    """Where the picture of a game's committee is, in a run's directory."""
    return Path(run) / f"committee_{game}.png"


def committee_section(run: Path) -> str:
    """What a run's page shows of its committees: their pictures; nothing where there is none.

    Args:
      run: its directory.
    """
    found = []
    for path in sorted(run.glob("committee_*.png")):
        if _NAME.fullmatch(path.name):
            game = path.stem.removeprefix("committee_")
            data = base64.b64encode(path.read_bytes()).decode()
            alt = f"agreement, weights and contradictions of the teachers of {game}"
            found.append(f'<img {_STYLE} alt="{escape(alt)}" src="data:image/png;base64,{data}">')
    if not found:
        return ""
    return (
        '<section class="long"><h2>Where the teachers contradict each other</h2>'
        f"{''.join(found)}"
        '<p class="note">Agreement and the states below it are of the student\'s final games; weights over the run are '
        "of the play that it learns from.</p></section>"
    )


def plot_committee(
    metrics_path: str | os.PathLike[str],
    found: Contradictions,
    out_png: str | os.PathLike[str],
    *,
    game: str,
    prefix: str = "",
) -> None:
    """Draws the agreement matrix, the weights over the run, and the states with the strongest contradiction.

    Args:
      metrics_path: ``metrics.jsonl`` with ``credibility/TEACHER`` and ``contradiction_rate``.
      found: of the states that are shown.
      out_png: the file to write.
      game: for the title.
      prefix: of the names of metrics.

    Raises:
      UserError: the metrics cannot be read.
    """
    records = read_metrics(metrics_path)
    with mpl.rc_context(STYLE):
        tall = 3.4
        if found.worst:
            shows_frames = found.worst[0].observation.dtype == np.uint8
            tall += 0.7 + 0.14 * (len(found.members) + 1) + (1.75 if shows_frames else 0.75)
        figure = Figure(figsize=(9.6, tall), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        upper: Any = figure
        lower: Any = None
        if found.worst:
            parts: Any = figure.subfigures(2, 1, height_ratios=[3.4, tall - 3.4])
            upper, lower = parts
        matrix, weights = upper.subplots(1, 2, width_ratios=[1, 1.5])
        _draw_matrix(matrix, found)
        _draw_weights(weights, found, records, prefix)
        upper.suptitle(
            f"{game}: {len(found.members)} teachers contradict each other in {100 * found.rate:.1f} % of "
            f"{found.states:,} states",
            fontsize=10,
            fontweight="bold",
        )
        if lower is not None:
            title = "The strongest contradictions: what each wants, and what it counts there"
            lower.suptitle(title, fontsize=10, fontweight="bold")
            for axes, state in zip(lower.subplots(1, WORST), [*found.worst, *[None] * WORST], strict=False):
                _draw_state(axes, found, state)
        save_figure(figure, out_png)


def _draw_matrix(axes: Axes, found: Contradictions) -> None:
    axes.set_title("Same choice (% of states)")
    axes.grid(False)
    axes.imshow(100 * found.agreement, cmap="Blues", vmin=0, vmax=100)
    names = [_short(name) for name in found.members]
    places = range(len(names))
    axes.set_xticks(places, names, rotation=30, ha="right", fontsize=7)
    axes.set_yticks(places, names, fontsize=7)
    if len(names) > _MOST_NUMBERS_IN_MATRIX:
        return
    for row in places:
        for column in places:
            share = found.agreement[row, column]
            if not np.isnan(share):
                colour = "white" if share > 0.6 else "#222222"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)


def _draw_weights(axes: Axes, found: Contradictions, records: Sequence[Mapping[str, Any]], prefix: str) -> None:
    axes.set(title="What each counts in the play", xlabel="updates", ylabel="mean weight")
    axes.set_ylim(-0.02, 1.02)
    drawn = False
    for place, name in enumerate(found.members):
        colour, dash = CYCLE[place % len(CYCLE)][0], _DASHES[place % len(_DASHES)]
        points = _points(records, f"{prefix}credibility/{name}")
        if len(points):
            axes.plot(*points.T, color=colour, linestyle=dash, marker="o", markersize=3, label=_short(name))
            drawn = True
    rate = _points(records, f"{prefix}contradiction_rate")
    if len(rate):
        axes.plot(*rate.T, color=GREY, linestyle=":", label="states with a contradiction (share)")
    if not drawn:
        say_nothing_to_show(axes)
        return
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    count_axis(axes)


def _points(records: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    found = [(record.get("updates", record.get("step")), record[key]) for record in records if key in record]
    sound = [point for point in found if all(isinstance(value, int | float) for value in point)]
    return np.array(sound, float).reshape(-1, 2)


def _draw_state(axes: Axes, found: Contradictions, state: Contradiction | None) -> None:
    axes.grid(False)
    axes.set_axis_off()
    if state is None:
        return
    seen = state.observation
    if seen.dtype == np.uint8:
        axes.imshow(seen[..., -1], cmap="gray", vmin=0, vmax=255)
    else:
        numbers = "\n".join(f"{value:.3g}" for value in seen[:8].tolist())
        axes.text(0.5, 0.5, numbers, ha="center", va="center", transform=axes.transAxes, fontsize=8)
    if state.place is not None:
        where = f"lane {state.place.lane + 1}, game {state.place.game + 1}, step {state.place.step:,}"
        axes.set_title(where, fontsize=7, fontweight="normal")
    lines = []
    for name, policy, weight in zip(found.members, state.policies, state.weights, strict=True):
        wants = "left out" if np.isnan(policy).any() else found.actions[int(policy.argmax())]
        lines.append(f"{_short(name, 12)}: {wants} ({weight:.2f})")
    lines.append(f"together: {found.actions[int(state.mixed.argmax())]}")
    axes.text(0.0, -0.04, "\n".join(lines), ha="left", va="top", transform=axes.transAxes, fontsize=6.5)


def _short(name: str, most: int = _MOST_LETTERS) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
