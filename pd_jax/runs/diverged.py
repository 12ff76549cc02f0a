"""When training has diverged: whether it goes on from a checkpoint, and the state, kept for whoever looks into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.config.sections import DistillCheckpointConfig
from pd_jax.errors import UserError
from pd_jax.learner.divergence import DivergenceError
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.system import hosts
from pd_jax.system.progress import print_warning


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


def check_rolls_back(checkpoint: DistillCheckpointConfig, roll_backs: int, error: DivergenceError) -> None:
    """Warns that a run goes back to its newest checkpoint, or raises the error if that is not wanted, or not any more.

    Args:
      checkpoint: what the run is told of divergence.
      roll_backs: with this one, in all sessions together.
      error: what went wrong.
    """
    if checkpoint.on_divergence == "stop":
        raise error
    if roll_backs > checkpoint.max_roll_backs:
        raise UserError(f"{error}; it was rolled back {checkpoint.max_roll_backs} times before") from error
    print_warning(f"{error}; rolls back, {roll_backs} of at most {checkpoint.max_roll_backs} times")
