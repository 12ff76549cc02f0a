"""The replay of a run, saved beside its checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

from pd_jax.errors import UserError
from pd_jax.replay.replay import Replay
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.system.progress import print_warning


class ReplaySaver:
    """Saves the replay of a run's games beside its checkpoints, in ``replay/<step>/``.

    Apart from these, so that whoever reads a student need not read gigabytes, and a damaged replay costs no more than
    the time to fill it again. Like them it is written in the background, from a copy in host memory.

    Args:
      run: the run's directory.
      replay: that is saved.
      step: where the run stands; replays of later checkpoints, from which it does not go on, are removed.
    """

    def __init__(self, run: Path, replay: Replay, step: int) -> None:
        self._replay = replay
        for path in (run / "replay").glob("*"):
            if path.name.isdigit() and int(path.name) > step:
                shutil.rmtree(path, ignore_errors=True)
        # Of the newest checkpoint, and of the one before while that one is written.
        self._checkpointer = Checkpointer(run / "replay", keep=2, keep_best=False)

    def save(self, step: int) -> None:
        """Copies the replay to the host and writes it in the background."""
        self._checkpointer.save(step, self._replay.to_host())

    def restore(self, step: int) -> bool:
        """Puts the replay of a checkpoint in the place of what there is.

        Returns:
          Whether it was there, and intact; the user is told of one that was not.
        """
        if step not in self._checkpointer.steps():
            return False
        try:
            restored = self._checkpointer.restore(self._replay.template(), step)
        except UserError as error:
            print_warning(str(error))
            return False
        assert restored is not None
        self._replay.from_host(restored[0])
        return True

    def close(self) -> None:
        """Waits for the save in progress."""
        self._checkpointer.close()
