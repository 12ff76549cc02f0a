"""Rows of a sweep over batches: every batch beside the rival's at the same batch, and the best of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness.rows import Measured, Row, make_row

BEST = "best batch"


def best_rows(
    stage: str,
    setting: Mapping[str, str | int | float],
    unit: str,
    speed: Mapping[tuple[str, int], list[float]],
    measured: Callable[[list[float] | None], Measured],
    **options: Any,
) -> list[Row]:
    """A row for each batch and, of several, one whose batch is ``BEST``: each side's best by its median.

    Args:
      stage, setting, unit: of all rows.
      speed: ``(who, batch)`` to the rate in every turn, all measured in the same turns; ``who`` is ``"ours"`` or
        ``"PyTorch"``.
      measured: makes what a row has of the rival.
      **options: passed on to :func:`benchmarks.harness.rows.make_row`.
    """
    ours = {batch: values for (who, batch), values in speed.items() if who == "ours"}
    rivals = {batch: values for (who, batch), values in speed.items() if who != "ours"}
    rows = [
        make_row(
            stage,
            {**setting, "batch": batch},
            unit,
            values,
            # Batches that the rival was not asked for are no comparison that is missing.
            rival=measured(rivals.get(batch)) if batch in rivals or not rivals else None,
            **options,
        )
        for batch, values in ours.items()
    ]
    if len(ours) == 1:
        return rows
    best, best_rival = _best(ours), _best(rivals)
    note = f"ours at {best}" + (f", the rival at {best_rival}" if best_rival else "")
    values = rivals[best_rival] if best_rival else None
    rows.append(
        make_row(stage, {**setting, "batch": BEST}, unit, ours[best], rival=measured(values), note=note, **options)
    )
    return rows


def _best(speed: Mapping[int, list[float]]) -> int:
    """The batch with the highest median rate; 0 if there is none."""
    return max(speed, key=lambda batch: statistics.median(speed[batch]), default=0)
