"""Scores: whole games under a protocol, their uncertainty, and what they are of another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.evaluation.evaluator import Evaluator, evaluate

__all__ = [
    "Evaluator",
    "evaluate",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "evaluator": ["Evaluator", "evaluate"],
    },
)
