"""What ``pd-jax monitor`` found: in words, and drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pd_jax.report.figures import BLUE, CYCLE, GREY, STYLE, VERMILION, save_figure

_ROWS = 5
_RUNNING = 8


def describe_thresholds(entry: Mapping[str, Any], path: str) -> list[str]:
    """Lines about a file of thresholds: what they are for, and what they were made from."""
    signals = entry["signals"]
    watched = [name for name, each in signals.items() if each["deviation"] > 0]
    policy, allowed = entry["policy"], entry["false_alarms_per_million"]
    return [
        f"{path}: thresholds of {policy['name']}, which plays {policy['game']}",
        f"  {entry['decisions']:,} decisions, of which {entry['calibrated_on']:,} in {entry['blocks']:,} blocks of "
        f"{entry['block_size']:,} calibrate {len(watched)} signals",
        f"  {allowed:g} false alarm{'s' * (allowed != 1)} in a million decisions {'is' if allowed == 1 else 'are'} "
        "allowed",
    ]


def describe_summary(summary: Mapping[str, Any]) -> list[str]:
    """Lines about what a monitor has seen."""
    count, first = summary["alarms"], summary["first_alarm"]
    told = [f"{_counted(count, 'alarm')}, the first at {first['decision']:,}"] if count else []
    if not summary["blocks"]:
        # An alarm may still be of numbers that are none.
        tested = "nothing else was tested" if count else "nothing was tested"
        told.append(f"no block of {summary['block_size']:,} decisions of a lane was full, so {tested}")
    seen = f"{_counted(summary['decisions'], 'decision')} in {_counted(summary['blocks'], 'block')}"
    lines = [f"{seen}: {'; '.join(told) or 'no alarm'}"]
    if summary["signals"]:
        lines.append(f"  changed: {', '.join(summary['signals'])}")
    if summary["not_watched"]:
        lines.append(f"  not to be had here, and not watched: {', '.join(summary['not_watched'])}")
    return lines


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def plot_monitor(
    decisions: Sequence[int],
    deviations: Sequence[np.ndarray],
    names: Sequence[str],
    alarms: Sequence[Mapping[str, Any]],
    out_png: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws the signals that changed most over the decisions, with alarms.

    Args:
      decisions: at which each block was full.
      deviations: of each block, ``[S]``; NaN where there is none.
      names: of the signals, S.
      alarms: as `pd_jax.deploy.monitor.Alarm.to_json` has them.
      out_png: the file to write.
      title: of the figure.
    """
    table = np.stack(deviations) if len(deviations) else np.full((0, len(names)), np.nan)
    shown = _shown(table, names, alarms)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.0 + 1.25 * len(shown)), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10)
        for index, (axis, name) in enumerate(zip(axes, shown, strict=True)):
            own = table[:, list(names).index(name)] if name in names else np.zeros(len(decisions))
            colour = CYCLE[index % len(CYCLE)][0] if CYCLE[index % len(CYCLE)][0] != VERMILION else BLUE
            axis.axhspan(-1, 1, color="#F0F0F0", zorder=0)
            axis.plot(decisions, own, ".", markersize=3, color=colour, alpha=0.35)
            axis.plot(decisions, _running_mean(own), color=colour)
            for alarm in alarms:
                if alarm["signal"] == name:
                    axis.axvline(alarm["decision"], color=VERMILION, linewidth=1.2)
            axis.set_title(name.replace("_", " "), fontsize=9)
            axis.set_ylim(-7, 7)
        figure.supylabel("deviations of a block from what is usual", fontsize=8, color=GREY)
        told = "decisions (a dot a block, the line its running mean of eight; vertical lines are alarms)"
        axes[-1].set_xlabel(told)
        axes[-1].xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        save_figure(figure, out_png)


def _shown(table: np.ndarray, names: Sequence[str], alarms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that raised alarms first, then those that are farthest from usual."""
    alarmed = list(dict.fromkeys(alarm["signal"] for alarm in alarms))
    means = np.abs(np.nan_to_num(table).mean(axis=0)) if len(table) else np.zeros(len(names))
    others = [names[index] for index in np.argsort(-means) if names[index] not in alarmed]
    return [*alarmed, *others][:_ROWS]


def _running_mean(values: np.ndarray) -> np.ndarray:
    filled = np.nan_to_num(values)
    sums = np.cumsum(np.concatenate([[0.0], filled]))
    ends = np.arange(1, len(filled) + 1)
    starts = np.maximum(0, ends - _RUNNING)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means
