"""The student's learner: objective and update as pure functions, mapped over the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.learner.divergence import DivergenceError
    from pd_jax.learner.learner import Learner
    from pd_jax.learner.objective import make_divergence, make_loss
    from pd_jax.learner.rule import LearnerState, UpdateRule, make_rule

__all__ = [
    "DivergenceError",
    "Learner",
    "LearnerState",
    "UpdateRule",
    "make_divergence",
    "make_loss",
    "make_rule",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "divergence": ["DivergenceError"],
            "learner": ["Learner"],
            "objective": ["make_divergence", "make_loss"],
            "rule": ["LearnerState", "UpdateRule", "make_rule"],
        },
    )
