"""Line charts and intervals of a page, in the page: SVG whose colours are the page's, in light and dark."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape

import numpy as np

# In units of the page's pixels on a phone: letters stay as large as they are.
_WIDTH, _HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 36
_BINS = 100
"""More points than this are drawn as their means, over a band from the least to the largest."""
COLOURS = 6
"""Lines beyond so many are dashed, in the colours of the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A line of a chart.

    Attributes:
      name: for the legend.
      points: float ``[N, (x, y)]``, or ``[N, (x, y, low, high)]`` with the ends of an interval, NaN for none.
      css_class: ``taught``, ``own``, ``quiet``, or ``line0`` and so on.
      is_level: whether it is one value, drawn over the whole width.
    """

    name: str
    points: np.ndarray
    css_class: str
    is_level: bool = False

    @classmethod
    def level(
        cls, name: str, value: float, css_class: str, ends: tuple[float | None, float | None] | None = None
    ) -> Line:
        """A value to compare with, perhaps with an interval."""
        low, high = (np.nan if end is None else end for end in ends or (None, None))
        return cls(name, np.array([[np.nan, value, low, high]]), css_class, is_level=True)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    about: str,
    is_log: bool = False,
    is_percent: bool = False,
    bounds: tuple[float, float] | None = None,
) -> str:
    """A figure with its title, its lines and, of several, their names.

    Args:
      title: of the chart.
      lines: at least one; points that are not finite are left out.
      x_label: what x counts.
      about: what the chart shows, for who does not see it.
      is_log: whether the heights are logarithms; values that are not positive are left out.
      is_percent: whether the values are per cent.
      bounds: the least and the largest height to show; of the values by default.

    Returns:
      HTML; an empty figure says that nothing was recorded.
    """
    sound = [_sound(line, is_log=is_log) for line in lines]
    sound = [line for line in sound if len(line.points)]
    ends = [value for line in sound for value in _heights(line)]
    moving = [line for line in sound if not line.is_level]
    if not moving:
        return f'<figure class="chart"><h3>{escape(title)}</h3><p class="note">Nothing was recorded.</p></figure>'
    low, high = bounds if bounds is not None else (min(ends), max(ends))
    if high - low < 1e-9 * max(abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    if bounds is None:
        margin = 0.06 * (high - low)
        low, high = low - margin, high + margin
    last = max(float(line.points[:, 0].max()) for line in moving)
    first = min(0.0, *(float(line.points[:, 0].min()) for line in moving))
    scale = _Scale(first, max(last, first + 1e-9), low, high)
    parts = [_y_axis(scale, is_log=is_log, is_percent=is_percent), _x_axis(scale, x_label)]
    parts += [_draw(line, scale) for line in sound]
    legend = ""
    if len(sound) > 1:
        names = "".join(f'<span class="key {line.css_class}">{escape(line.name)}</span>' for line in sound)
        legend = f"<figcaption>{names}</figcaption>"
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(about)}">{"".join(parts)}</svg>{legend}</figure>'
    )


def interval_rail(
    bounds: tuple[float, float],
    marks: Sequence[tuple[str, float, float | None, float | None]],
    *,
    line: float | None = None,
) -> str:
    """Values with their intervals on a rail, such as a student's score and its teacher's.

    Args:
      bounds: of the rail.
      marks: ``(css_class, value, low, high)``.
      line: a value to compare with.
    """
    low, high = bounds
    span = max(high - low, 1e-9)

    def at(value: float) -> float:
        return 100 * min(max((value - low) / span, 0.0), 1.0)

    parts = []
    for place, (css_class, value, least, most) in enumerate(marks):
        y = 10 * (place + 1) - 3
        if least is not None and most is not None:
            width = max(at(most) - at(least), 0.4)
            parts.append(
                f'<rect class="{css_class} band" x="{at(least):.2f}" y="{y - 2}" width="{width:.2f}" height="4"/>'
            )
        parts.append(f'<rect class="{css_class}" x="{at(value) - 0.5:.2f}" y="{y - 4}" width="1" height="8"/>')
    height = 10 * len(marks) + 4
    if line is not None:
        parts.insert(0, f'<rect class="mark" x="{at(line) - 0.15:.2f}" width="0.3" height="{height}"/>')
    return (
        f'<svg class="rails" viewBox="-1 0 102 {height}" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" x="-1" width="102" height="{height}"/>{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten.

    Args:
      low, high: the ends.
      most: numbers, at most one more; 3 at least, or there may be none.
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: ``7.2k``, ``0.05``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}" if abs(value) < 1e12 else f"{value:.0e}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


@dataclasses.dataclass(frozen=True)
class _Scale:
    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def _sound(line: Line, *, is_log: bool) -> Line:
    points = np.asarray(line.points, float)
    if not len(points):
        return line
    heights = points[:, 1:]
    if is_log:
        with np.errstate(divide="ignore", invalid="ignore"):
            heights = np.log10(np.where(heights > 0, heights, np.nan))
    points = np.column_stack([points[:, :1], heights])
    is_sound = np.isfinite(points[:, 1])
    return dataclasses.replace(line, points=points[is_sound if line.is_level else is_sound & np.isfinite(points[:, 0])])


def _heights(line: Line) -> list[float]:
    values = line.points[:, 1:]
    if len(values) > _BINS:
        # One spike does not flatten all the rest.
        return [float(value) for value in np.nanquantile(values, [0.005, 0.995])]
    return [float(value) for value in values[np.isfinite(values)]]


def _draw(line: Line, scale: _Scale) -> str:
    points = line.points
    if line.is_level:
        _, value, low, high = (*points[0], np.nan, np.nan)[:4]
        y, right = scale.y(value), _WIDTH - _RIGHT
        band = ""
        if np.isfinite(low) and np.isfinite(high):
            top = scale.y(high)
            band = (
                f'<rect class="{line.css_class} band" x="{_LEFT}" y="{top:.1f}" width="{right - _LEFT}" '
                f'height="{max(scale.y(low) - top, 1):.1f}"/>'
            )
        return f'{band}<path class="{line.css_class} level" d="M{_LEFT} {y:.1f}H{right}"/>'
    if len(points) > _BINS:
        points = _binned(points[:, :2])
    band, dots = "", ""
    if points.shape[1] > 2:
        known = points[np.isfinite(points[:, 2:]).all(axis=1)]
        if len(known) > 1:
            outline = [(x, high) for x, _, _, high in known] + [(x, low) for x, _, low, _ in known[::-1]]
            band = f'<path class="{line.css_class} band" d="{_path(outline, scale)}Z"/>'
        elif len(known):
            x, _, low, high = known[0]
            band = f'<path class="{line.css_class}" d="M{scale.x(x):.1f} {scale.y(low):.1f}V{scale.y(high):.1f}"/>'
    if len(points) <= 30:
        dots = "".join(
            f'<circle class="{line.css_class}" cx="{scale.x(point[0]):.1f}" cy="{scale.y(point[1]):.1f}" r="2.6"/>'
            for point in points
        )
    return f'{band}<path class="{line.css_class}" d="{_path(points[:, :2].tolist(), scale)}"/>{dots}'


def _binned(points: np.ndarray) -> np.ndarray:
    """``[bins, (x, mean, least, largest)]``."""
    parts = np.array_split(points, _BINS)
    rows = [(part[:, 0].mean(), part[:, 1].mean(), part[:, 1].min(), part[:, 1].max()) for part in parts]
    return np.array(rows)


def _path(points: Sequence[Sequence[float]], scale: _Scale) -> str:
    return "M" + "L".join(f"{scale.x(point[0]):.1f} {scale.y(point[1]):.1f}" for point in points)


def _y_axis(scale: _Scale, *, is_log: bool, is_percent: bool) -> str:
    parts = []
    for value, text in _log_ticks(scale) if is_log else [(tick, short(tick)) for tick in ticks(scale.low, scale.high)]:
        y, sign = scale.y(value), "\N{NO-BREAK SPACE}%" * is_percent
        parts.append(
            f'<path class="gridline" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}{sign}</text>'
        )
    return "".join(parts)


def _log_ticks(scale: _Scale) -> list[tuple[float, str]]:
    """Powers of ten, with 2 and 5 of each where there are few; of less than a decade plain numbers."""
    if scale.high - scale.low < 0.7:
        values = ticks(10**scale.low, 10**scale.high, 4)
        return [(math.log10(value), short(value)) for value in values if value > 0]
    factors = (1, 2, 5) if scale.high - scale.low < 2.5 else (1,)
    powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [(math.log10(value), f"{value:g}") for value in values if scale.low <= math.log10(value) <= scale.high]


def _x_axis(scale: _Scale, label: str) -> str:
    base = _HEIGHT - _BOTTOM
    parts = [f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>']
    for value in ticks(scale.left, scale.right, 5):
        x = scale.x(value)
        anchor = "end" if x > _WIDTH - _RIGHT - 10 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{base + 14}" text-anchor="{anchor}">{short(value)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)
