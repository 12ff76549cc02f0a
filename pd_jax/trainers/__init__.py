"""Training of teachers with PQN or DQN, on one game or on several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.trainers.session import train_teacher

__all__ = [
    "train_teacher",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "session": ["train_teacher"],
        },
    )
