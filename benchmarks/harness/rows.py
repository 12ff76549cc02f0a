"""One measured line: ours, what limits it, what a user would pick instead, and how far it is from the hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.floors import Ceilings, Cost, Floor
from benchmarks.harness.measure import Spread, ratios

Setting = Mapping[str, str | int | float]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What somebody else reached in the same turns, or why there is nothing.

    Attributes:
      name: who.
      values: in the unit of the row, one for each turn; empty if it was not measured.
      missing: why it was not.
    """

    name: str
    values: tuple[float, ...] = ()
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Against:
    """A limit or a rival beside ours.

    Attributes:
      name: who, or what.
      value: in the unit of the row; None where it was not measured.
      ratio: how many times as fast ours is, turn by turn: above 1 ours is faster, also where less is better.
      missing: why there is no value.
    """

    name: str
    value: Spread | None = None
    ratio: Spread | None = None
    missing: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Against:
        """What :meth:`Row.to_json` has made of it."""
        value, ratio = (None if values[key] is None else Spread.from_json(values[key]) for key in ("value", "ratio"))
        return cls(values["name"], value, ratio, values["missing"])


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      stage: its name.
      setting: what it was measured with, such as network and batch; with the stage, it names the row.
      unit: of ``ours`` and of the values beside it: ``"samples/s"``, ``"steps/s"``, or ``"s"`` and ``"ms"``, of which
        less is better.
      ours: this package.
      limit: the most that ours could reach.
      rival: what a user would pick instead.
      floor: what the operations and the bytes of an item cost at the least on this machine; None where not counted.
      note: what else there is to say.
    """

    stage: str
    setting: Setting
    unit: str
    ours: Spread
    limit: Against | None = None
    rival: Against | None = None
    floor: Floor | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        return dataclasses.asdict(self) | {"setting": dict(self.setting)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Undoes :meth:`to_json`."""
        limit, rival = (None if values[key] is None else Against.from_json(values[key]) for key in ("limit", "rival"))
        floor = None if values["floor"] is None else Floor(**values["floor"])
        others = {key: values[key] for key in ("stage", "setting", "unit", "note")}
        return cls(ours=Spread.from_json(values["ours"]), limit=limit, rival=rival, floor=floor, **others)


def make_row(
    stage: str,
    setting: Setting,
    unit: str,
    ours: Sequence[float],
    *,
    limit: Measured | None = None,
    rival: Measured | None = None,
    cost: Cost | None = None,
    ceilings: Ceilings | None = None,
    note: str = "",
) -> Row:
    """A row from what was measured turn by turn.

    Args:
      stage, setting, unit, note: as in :class:`Row`.
      ours: one value a turn.
      limit, rival: as many values.
      cost: of one item, for rates of items; with the ceilings of this machine it gives the floor.
      ceilings: of this machine.
    """
    spread = Spread.of(ours)
    return Row(
        stage,
        setting,
        unit,
        spread,
        limit=_against(limit, ours, unit),
        rival=_against(rival, ours, unit),
        floor=None if cost is None or ceilings is None else ceilings.floor(cost, 1.0 / spread.median),
        note=note,
    )


def is_time(unit: str) -> bool:
    """Whether less is better."""
    return unit in ("s", "ms")


def _against(measured: Measured | None, ours: Sequence[float], unit: str) -> Against | None:
    if measured is None:
        return None
    if not measured.values:
        return Against(measured.name, missing=measured.missing)
    times_as_fast = ratios(measured.values, ours) if is_time(unit) else ratios(ours, measured.values)
    return Against(measured.name, Spread.of(measured.values), Spread.of(times_as_fast))
