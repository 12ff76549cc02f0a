"""The student's learner: objective, update, and the mapping of updates over devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.learner.learner import Learner, LearnerState

__all__ = [
    "Learner",
    "LearnerState",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "learner": ["Learner", "LearnerState"],
    },
)
