"""The figure of ``python -m benchmarks``: rates over sizes, and ours over limits and rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator, ScalarFormatter

from benchmarks.harness.growth import Growth
from benchmarks.harness.rows import Row
from benchmarks.stages.best import BEST
from pd_jax.report.figures import CYCLE, GREY, STYLE

_PANELS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("updates by batch (dotted: PyTorch)", "update", "batch", "samples/s", ("network", "dtype", "optimizer")),
    ("inference by batch (dotted: PyTorch)", "inference", "batch", "samples/s", ("network",)),
    ("play by lanes", "lanes", "lanes", "steps/s", ()),
    ("updates by games of the student", "games", "games", "samples/s, all games", ("network",)),
    ("updates by devices", "devices", "devices", "samples/s, all devices", ("network",)),
)
_LANE_STAGES = ("envpool", "teacher", "rollout")


def draw(rows: Sequence[Row], growth: Sequence[Growth], path: Path) -> None:
    """Writes the figure as a PNG file; panels of stages that were not measured stay empty."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(2, 3).flat)
        for panel, (title, stage, axis, unit, names) in zip(axes, _PANELS, strict=False):
            belongs: Callable[[str], bool] = _LANE_STAGES.__contains__ if stage == "lanes" else stage.__eq__
            series = [one for one in growth if belongs(one.stage) and one.axis == axis]
            _draw_growth(panel, series, names, rows)
            panel.set(title=title, xlabel=axis, ylabel=unit)
        _draw_ratios(axes[-1], rows)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_growth(panel: Axes, series: Sequence[Growth], names: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Rates over sizes; those of the rival at the same settings dotted, in the same colour."""
    rates: list[float] = []
    for one, (colour, _) in zip(series, CYCLE, strict=False):
        label = " ".join(str(one.setting[name]) for name in names if name in one.setting)
        if one.stage in _LANE_STAGES:
            label = " ".join((one.stage, str(one.setting.get("stepping", ""))))
        panel.plot(one.sizes, one.rates, color=colour, marker="o", markersize=3, label=label)
        rival = _rivals(one, rows)
        panel.plot(list(rival), list(rival.values()), color=colour, marker="x", markersize=4, linestyle=":")
        rates += [*one.rates, *rival.values()]
    if series:
        sizes = sorted({size for one in series for size in one.sizes})
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(FixedLocator(sizes[:: 1 + len(sizes) // 9]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.yaxis.set_major_formatter(EngFormatter(sep=""))
        if max(rates) < 10 * min(rates):
            # Noise is not to look like a slope, nor are ticks within a decade to be written as powers.
            panel.set_ylim(min(rates) / 1.5, 1.5 * max(rates))
            panel.yaxis.set_minor_formatter(EngFormatter(sep=""))
        panel.legend(fontsize=6)


def _rivals(series: Growth, rows: Sequence[Row]) -> dict[int, float]:
    """The rival's rates at the sizes of a series."""
    rates = {}
    for row in rows:
        rest = {name: value for name, value in row.setting.items() if name != series.axis}
        if row.stage == series.stage and rest == series.setting and row.rival is not None:
            size, value = row.setting.get(series.axis), row.rival.value
            if isinstance(size, int) and value is not None:
                rates[size] = value.median
    return rates


def _draw_ratios(panel: Axes, rows: Sequence[Row]) -> None:
    """How many times as fast as its limit or its rival each stage is, with the spread of the turns."""
    bars = []
    for row in rows:
        for what, against in (("limit", row.limit), ("rival", row.rival)):
            by_batch = row.stage in ("update", "inference") and row.setting.get("batch") != BEST
            if against is not None and against.ratio is not None and not by_batch:
                setting = " ".join(str(value) for value in list(row.setting.values())[:2])
                bars.append((f"{row.stage} {setting}", what, against.ratio))
    for place, (_, what, ratio) in enumerate(bars):
        colour, _ = CYCLE[0 if what == "limit" else 1]
        error = [[ratio.median - ratio.lowest], [ratio.highest - ratio.median]]
        panel.errorbar(ratio.median, place, xerr=error, color=colour, marker="o", markersize=3, linewidth=1)
    panel.axvline(1.0, color=GREY, linewidth=0.8)
    panel.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=5)
    panel.set(title="ours / limit (blue), ours / rival (red)", xlabel="times as fast")
    if bars:
        panel.set_xscale("log")
        panel.invert_yaxis()
