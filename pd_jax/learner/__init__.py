"""The student's learner: loss, gradients and optimizer, mapped over the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.learner.divergence import DivergenceError
    from pd_jax.learner.learner import Learner, LearnerState

__all__ = [
    "DivergenceError",
    "Learner",
    "LearnerState",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "divergence": ["DivergenceError"],
            "learner": ["Learner", "LearnerState"],
        },
    )
