"""When a run is saved, and what is saved beside its state: the replay, and states that went wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax import hosts
from pd_jax.checkpoint import Checkpointer
from pd_jax.distributed import DeviceGroup
from pd_jax.errors import UserError
from pd_jax.lessons import Lessons
from pd_jax.reporting.progress import print_warning


class SaveTimer:
    """Says when the next checkpoint is due.

    Args:
      interval: what may be done between checkpoints, in updates or steps.
      seconds: how old the last checkpoint may become; None goes by ``interval`` alone.
      done: where the run stands.

    Attributes:
      saved: where it stood at the last checkpoint.
    """

    def __init__(self, interval: int, seconds: float | None, done: int) -> None:
        self._interval, self._seconds = interval, seconds
        self.note_saved(done)

    def note_saved(self, done: int) -> None:
        """A checkpoint has just been saved."""
        # Never the wall clock, which may be set back or forward by hours.
        self.saved, self._saved_at = done, time.monotonic()

    def is_due(self, done: int) -> bool:
        """Whether a multiple of the interval was passed since the last checkpoint, or that one is too old.

        Of several processes each has a clock of its own: there, what has been done counts alone.
        """
        return self._is_passed(done) or (hosts.current() is None and self.is_old(done))

    def is_old(self, done: int) -> bool:
        """Whether more has been done since the last checkpoint, and that one is too old."""
        if self._seconds is None or done <= self.saved:
            return False
        return time.monotonic() - self._saved_at >= self._seconds

    def is_due_for_all(self, done: int) -> bool:
        """As :meth:`is_due`, after each call of updates: several processes save after the same one."""
        among = hosts.current()
        if among is None or self._seconds is None:
            return self.is_due(done)
        # The clock of process 0 counts.
        wish = "save" if among.process_id == 0 and self.is_old(done) else None
        return among.meet("save", wish) is not None or self._is_passed(done)

    def _is_passed(self, done: int) -> bool:
        return done // self._interval > self.saved // self._interval


class ReplayKeeper:
    """Saves the replays of a run's games beside its checkpoints, in ``replay/<step>/``.

    Apart from these, so that whoever reads a student need not read gigabytes, and a damaged replay costs no more than
    the time to fill it again. Like them it is written in the background, from a copy in host memory.

    What was saved on any number of devices restores on any other: the device axis is folded into the lanes'.

    Args:
      run: the run's directory.
      lessons: whose replays are saved, ``[D, L / D, ...]``.
      devices: that hold them.
      step: where the run stands; replays of later checkpoints, from which it does not go on, are removed.
    """

    def __init__(self, run: Path, lessons: Lessons, devices: DeviceGroup, step: int) -> None:
        self._lessons, self._devices = lessons, devices
        for path in (run / "replay").glob("*"):
            if path.name.isdigit() and int(path.name) > step:
                shutil.rmtree(path, ignore_errors=True)
        # Of the newest checkpoint, and of the one before while that one is written.
        self._checkpointer = Checkpointer(run / "replay", keep=2, keep_best=False)

    def save(self, step: int) -> None:
        """Copies the replays to the host and writes them in the background."""
        self._checkpointer.save(step, [jax.tree.map(_fold, state) for state in self._lessons.stored])

    def restore(self, step: int) -> bool:
        """Puts the replays of a checkpoint in the place of those there are.

        Returns:
          Whether they were there, and intact; the user is told of those that were not.
        """
        if step not in self._checkpointer.steps():
            return False
        templates = [jax.tree.map(_folded_shape, state) for state in self._lessons.stored]
        try:
            restored = self._checkpointer.restore(templates, step)
        except UserError as error:
            print_warning(str(error))
            return False
        assert restored is not None
        self._lessons.stored = tuple(jax.tree.map(self._unfold, state) for state in restored[0])
        return True

    def close(self) -> None:
        """Waits for the save in progress."""
        self._checkpointer.close()

    def _unfold(self, array: np.ndarray) -> Any:
        return self._devices.split(array) if array.ndim else self._devices.replicate(array)


def keep_for_inspection(run: Path, step: int, state: Any, metadata: Mapping[str, Any]) -> Path:
    """Saves a state that went wrong as a checkpoint in a directory of its own, which it returns."""
    parent = run / "diverged"
    count = sum(1 for _ in parent.iterdir()) if parent.is_dir() else 0
    # Several processes save together, and to one place.
    number = hosts.from_primary(
        f"diverged at update {step} after {metadata.get('roll_backs', 0)} roll-backs", str(count + 1)
    )
    with Checkpointer(parent / number) as checkpointer:
        checkpointer.save(step, state, metadata)
    return parent / number


def _fold(leaf: Any) -> np.ndarray:
    """``[D, L / D, ...]`` as ``[L, ...]``; of what all devices agree on, ``[D]``, one."""
    array = np.asarray(leaf)
    return array.reshape(-1, *array.shape[2:]) if array.ndim > 1 else array[0]


def _folded_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    shape = (leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]) if leaf.ndim > 1 else ()
    return jax.ShapeDtypeStruct(shape, leaf.dtype)
