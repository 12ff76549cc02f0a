"""What can be said of a run: a sentence by its key, and what stands in it. The words are a matter of the language."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Section = Literal["goal", "done", "result", "limits", "next"]
SECTIONS: tuple[Section, ...] = ("goal", "done", "result", "limits", "next")


class Value:
    """What stands in a sentence; how it is spelled is a matter of the language."""


@dataclasses.dataclass(frozen=True)
class Score(Value):
    """A score, spelled with one decimal."""

    value: float


@dataclasses.dataclass(frozen=True)
class Count(Value):
    """A whole number."""

    value: int


@dataclasses.dataclass(frozen=True)
class Percent(Value):
    """A share of a hundred, spelled without decimals; ``value`` is in per cent."""

    value: float


@dataclasses.dataclass(frozen=True)
class Times(Value):
    """How many times as many, with one decimal."""

    value: float


@dataclasses.dataclass(frozen=True)
class Duration(Value):
    """Seconds, spelled in what suits them."""

    value: float


@dataclasses.dataclass(frozen=True)
class Names(Value):
    """Of games or networks, as they are."""

    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Remark:
    """One thing to say.

    Attributes:
      section: where.
      key: which sentence.
      values: what stands in it, by name.
      command: to try, below it.
    """

    section: Section
    key: str
    values: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    command: tuple[str, ...] = ()
