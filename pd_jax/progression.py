"""Where a distillation stands."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Progression:
    """Where a run stands; saved with every checkpoint.

    Attributes:
      updates: done so far.
      env_steps: control steps stored so far, in all lanes together.
      wall_seconds: spent in all sessions together.
      teacher_sha256: of the teacher's file.
      network: the student's.
      recording: identity of the data set, empty for live play.
      recorded_steps: time steps per lane of it that the run uses; it may have grown since.
    """

    updates: int = 0
    env_steps: int = 0
    wall_seconds: float = 0.0
    teacher_sha256: str = ""
    network: str = ""
    recording: str = ""
    recorded_steps: int = 0
