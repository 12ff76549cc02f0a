"""A learning curve in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_POINT, _INTERVAL, _REFERENCE = "●", "│", "·"


def draw_curve(
    curve: Sequence[tuple[float, float, float, float]],
    *,
    references: Mapping[str, float] | None = None,
    width: int = 60,
    height: int = 12,
) -> list[str]:
    """Draws scores over steps, from step 0 on.

    Args:
      curve: rows ``(step, score, low, high)``, with the ends of an interval.
      references: scores to compare with, by name, drawn as dotted lines.
      width: columns between the axis and the names of the references.
      height: rows, at least 2.

    Returns:
      ``height + 2`` lines without trailing blanks, or none if the curve is empty.
    """
    if not curve:
        return []
    references = references or {}
    scores = [*references.values(), *(score for _, *interval in curve for score in interval)]
    bottom, top = min(scores), max(scores)
    if top == bottom:
        bottom, top = bottom - 1, top + 1
    last_step = max(step for step, *_ in curve) or 1

    def row(score: float) -> int:
        return round((top - score) / (top - bottom) * (height - 1))

    cells = [[" "] * width for _ in range(height)]
    for score in references.values():
        cells[row(score)] = [_REFERENCE] * width
    columns = [round(step / last_step * (width - 1)) for step, *_ in curve]
    for column, (_, _, low, high) in zip(columns, curve, strict=True):
        for index in range(row(high), row(low) + 1):
            cells[index][column] = _INTERVAL
    # After all intervals: neighbours that share a column do not hide each other's score.
    for column, (_, score, _, _) in zip(columns, curve, strict=True):
        cells[row(score)][column] = _POINT

    marks = {index: top - index / (height - 1) * (top - bottom) for index in {0, (height - 1) // 2, height - 1}}
    labels = {index: f"{score:,.{0 if top - bottom >= 100 else 1}f}" for index, score in marks.items()}
    margin_width = max(map(len, labels.values()))
    lines = []
    for index, line in enumerate(cells):
        names = ", ".join(name for name, score in references.items() if row(score) == index)
        axis = "┤" if index in labels else "│"
        lines.append(f"{labels.get(index, ''):>{margin_width}} {axis}{''.join(line)} {names}".rstrip())
    steps = f"{format_count(last_step)} steps"
    lines.append(f"{'':>{margin_width}} └{'─' * width}")
    lines.append(f"{'':>{margin_width}}  0{steps:>{width - 1}}")
    return lines


def format_count(count: float) -> str:
    """Such as ``950``, ``301 k`` and ``2.0 M``."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} G"
    # 999,950 is 1.0 M once it is rounded.
    if count >= 999_500:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.0f} k" if count >= 1e4 else f"{count:,.0f}"
