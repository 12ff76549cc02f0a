"""Where the training of a teacher stands."""

from __future__ import annotations

import dataclasses
from typing import Any

from pd_jax.runs.counters import Counters


@dataclasses.dataclass(kw_only=True)
class TrainingCounters(Counters):
    """Where the training of a teacher stands.

    Attributes:
      env_steps: control steps so far, in all lanes of all games together.
      curve: evaluations so far, as `pd_jax.trainers.teacher_writer.curve_point` gives them.
      best_mean: the best of their means; its weights are in ``teacher.safetensors``.
      best_env_steps: control steps behind those weights.
    """

    env_steps: int = 0
    curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_mean: float | None = None
    best_env_steps: int = 0

    @property
    def step(self) -> int:
        """Control steps."""
        return self.env_steps

    @property
    def done(self) -> int:
        """Control steps."""
        return self.env_steps

    @property
    def last_scored(self) -> int:
        """Control steps behind the last point of the curve."""
        return self.curve[-1]["env_steps"] if self.curve else 0


@dataclasses.dataclass(kw_only=True)
class GuidedCounters(TrainingCounters):
    """Where the training of a learner stands that a teacher guides.

    Attributes:
      guidance: what was found out at its start, as `pd_jax.trainers.guide.Guide.begin` gives it; None until it is.
    """

    guidance: dict[str, Any] | None = None
