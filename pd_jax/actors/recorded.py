"""Play that was recorded before."""

from __future__ import annotations

from collections.abc import Iterator

from pd_jax.replay.recordings import Dataset
from pd_jax.types import Trajectory


class RecordedPlay:
    """A data set, read from its beginning; once it is used up, :meth:`rollouts` yields no more.

    Args:
      dataset: an open recording.
      rollout_length: time steps per rollout; what is left at the end and shorter is not used.
      num_steps: time steps per lane to use, however far the recording has grown since; all by default.
      lanes: those to read; all by default.
    """

    def __init__(
        self, dataset: Dataset, *, rollout_length: int, num_steps: int | None = None, lanes: slice = slice(None)
    ) -> None:
        self.num_lanes = len(range(dataset.header.num_lanes)[lanes])
        self.finished_returns: list[float] = []
        usable = dataset.num_steps if num_steps is None else min(num_steps, dataset.num_steps)
        self._left = usable // rollout_length
        self._trajectories = dataset.trajectories(rollout_length, lanes=lanes)

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts of the recording, or as many as are left."""
        for _ in range(min(count, self._left)):
            self._left -= 1
            yield next(self._trajectories)

    def close(self) -> None:
        """Stops reading ahead."""
        self._trajectories = iter(())
