"""A source of a teacher's play, and what can be read off a stretch of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from pd_jax.types import Trajectory


class Play(Protocol):
    """A source of consecutive rollouts, ``[T, L, ...]`` each.

    Attributes:
      num_lanes: L.
      finished_returns: unclipped returns of the games that ended since the list was last cleared; none of a recording.
    """

    num_lanes: int
    finished_returns: list[float]

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts, or as many as are left."""
        ...

    def close(self) -> None:
        """Lets go of what the source holds."""
        ...


def first_unsound_step(trajectory: Trajectory) -> int | None:
    """The first of ``T`` time steps at which the teacher's outputs are NaN or infinite in any lane; None if none is."""
    sound = np.isfinite(np.asarray(trajectory.teacher_q)).all(axis=(1, 2))
    return None if sound.all() else int(np.argmin(sound))


class Place(NamedTuple):
    """Where something stands in a stretch of play: a time step, a lane, and one of the numbers there."""

    step: int
    lane: int
    number: int


def first_unsound_observation(trajectory: Trajectory) -> Place | None:
    """Where what was seen is NaN or infinite first; None if it is nowhere. Whole numbers, as of frames, cannot be."""
    for seen in (trajectory.observations, trajectory.sensed):
        if seen is not None and np.issubdtype(seen.dtype, np.floating):
            sound = np.isfinite(np.asarray(seen))
            if not sound.all():
                return Place(*map(int, np.argwhere(~sound.reshape(*sound.shape[:2], -1))[0]))
    return None


def action_gap(trajectory: Trajectory) -> float | None:
    """Median difference between the teacher's outputs for its best and its second best action, over all decisions.

    Teachers differ in it by orders of magnitude, and the temperature has to suit it: a gap of a few τ leaves the
    student something to learn from the other actions. None if nothing was decided.
    """
    outputs = np.sort(np.asarray(trajectory.teacher_q)[np.asarray(trajectory.is_decision)], axis=-1)
    return float(np.median(outputs[:, -1] - outputs[:, -2])) if len(outputs) else None
