"""The table that ``python -m benchmarks`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from benchmarks.harness.growth import Growth
from benchmarks.harness.measure import Spread
from benchmarks.harness.rows import Against, Row

_WIDTH_OF_A_PIPE = 220


def print_rows(rows: Sequence[Row], growth: Sequence[Growth], notes: Sequence[str]) -> None:
    """Prints the measured rows, how cost grows, and notes."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_PIPE)
    console.print(Group(_table(rows), *([_growth_table(growth)] if growth else []), *notes))


def _table(rows: Sequence[Row]) -> Table:
    table = Table("stage", "setting", "unit", title="median (lowest to highest of the turns)")
    for name in ("ours", "limit", "ours / limit", "rival", "ours / rival", "of FLOP/s", "of bytes/s"):
        table.add_column(name, justify="right")
    names: dict[str, int] = {}
    previous = None
    for row in rows:
        if previous not in (None, row.stage):
            table.add_section()
        previous = row.stage
        setting = _setting(row.setting)
        limit, limit_ratio = _cells(row.limit, names)
        rival, rival_ratio = _cells(row.rival, names)
        table.add_row(
            row.stage,
            setting + (f"\n{row.note}" if row.note else ""),
            row.unit,
            _spread(row.ours),
            limit,
            limit_ratio,
            rival,
            rival_ratio,
            _percent(row.floor.flops_share if row.floor is not None and row.floor.flops else None),
            _percent(row.floor.bytes_share if row.floor is not None and row.floor.bytes else None),
        )
    table.caption = "\n".join(f"[{number}] {name}" for name, number in names.items())
    return table


def _cells(against: Against | None, names: dict[str, int]) -> tuple[str, str]:
    """A value with the number of its name, and the ratio; in place of a value that is missing, the reason."""
    if against is None:
        return "", ""
    if against.value is None or against.ratio is None:
        return against.missing, ""
    number = names.setdefault(against.name, len(names) + 1)
    return f"{_number(against.value.median)} \\[{number}]", _spread(against.ratio)


def _growth_table(growth: Sequence[Growth]) -> Table:
    table = Table("stage", "along", "setting", "rate at each size", title="how cost grows")
    table.add_column("exponent (1 is linear)", justify="right")
    table.add_column("an item's cost, worst step", justify="right")
    for series in growth:
        setting = _setting(series.setting)
        points = "  ".join(f"{size}: {_number(rate)}" for size, rate in zip(series.sizes, series.rates, strict=True))
        table.add_row(
            series.stage, series.axis, setting, points, f"{series.exponent:.2f}", f"x {series.worst_step:.2f}"
        )
    return table


def _setting(setting: Mapping[str, Any]) -> str:
    """Numbers with their names; words speak for themselves."""
    return ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in setting.items())


def _spread(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.lowest)} to {_number(spread.highest)})"


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"
