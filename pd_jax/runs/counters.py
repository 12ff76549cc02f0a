"""Where a run stands."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pd_jax.networks.partition import PartSizes

C = TypeVar("C", bound="Counters")


@dataclasses.dataclass(kw_only=True)
class Counters(abc.ABC):
    """What is counted of a run, saved with every checkpoint; each loop adds its own.

    Attributes:
      wall_seconds: spent in all sessions together.
      network: what checkpoints call the networks.
      parts: how a CPU divides large batches, as the setting of that name says; checkpoints from before there was such a
        setting have no word of it.
    """

    wall_seconds: float = 0.0
    network: str = ""
    parts: dict[str, int] = dataclasses.field(default_factory=lambda: dataclasses.asdict(PartSizes()))

    @property
    @abc.abstractmethod
    def step(self) -> int:
        """What metrics and checkpoints are numbered by."""

    @property
    @abc.abstractmethod
    def done(self) -> int:
        """What the interval between checkpoints counts."""

    def to_metadata(self) -> dict[str, Any]:
        """As a checkpoint has it: plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls: type[C], metadata: Mapping[str, Any]) -> C:
        """What :meth:`to_metadata` made, now or in an earlier version."""
        return cls(**metadata)


@dataclasses.dataclass(kw_only=True)
class StudentCounters(Counters):
    """Where a run stands that updates a student.

    Attributes:
      updates: of the student, done so far.
      init_from: what it has started from, as `pd_jax.runs.start.Start.to_json` says it; None is from scratch.
    """

    updates: int = 0
    init_from: dict[str, Any] | None = None

    @property
    @abc.abstractmethod
    def env_steps(self) -> int:
        """Control steps stored so far, in all lanes of all games together."""

    @property
    def done(self) -> int:
        """Updates."""
        return self.updates
