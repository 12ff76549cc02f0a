"""When a run is saved, and what is saved beside its state: the replay, and states that went wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.distill.experience import Lessons
from pd_jax.errors import UserError
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.system.devices import DeviceGroup
from pd_jax.system.progress import print_warning


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


def _fold(leaf: Any) -> np.ndarray:
    """``[D, L / D, ...]`` as ``[L, ...]``; of what all devices agree on, ``[D]``, one."""
    array = np.asarray(leaf)
    return array.reshape(-1, *array.shape[2:]) if array.ndim > 1 else array[0]


def _folded_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    shape = (leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]) if leaf.ndim > 1 else ()
    return jax.ShapeDtypeStruct(shape, leaf.dtype)
