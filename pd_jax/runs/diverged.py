"""States that went wrong, kept for whoever looks into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.system import hosts


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
