"""Where the training of a teacher stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class TrainingCounters:
    """Saved with every checkpoint.

    Attributes:
      env_steps: control steps so far, in all lanes of all games together.
      wall_seconds: spent in all sessions together.
      curve: evaluations so far, as `pd_jax.trainers.teacher_writer.curve_point` gives them.
      best_mean: the best of their means; its weights are in ``teacher.safetensors``.
      best_env_steps: control steps behind those weights.
      network: that learns.
    """

    env_steps: int = 0
    wall_seconds: float = 0.0
    curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_mean: float | None = None
    best_env_steps: int = 0
    network: str = ""

    @property
    def step(self) -> int:
        """What metrics and checkpoints are numbered by: control steps."""
        return self.env_steps

    @property
    def done(self) -> int:
        """What the interval between checkpoints counts: control steps."""
        return self.env_steps

    @property
    def last_scored(self) -> int:
        """Control steps behind the last point of the curve."""
        return self.curve[-1]["env_steps"] if self.curve else 0

    def to_metadata(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> TrainingCounters:
        """What :meth:`to_metadata` made."""
        return cls(**metadata)
