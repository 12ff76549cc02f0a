"""Scores: whole games under a protocol, their uncertainty, and what they are of another policy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.evaluation.evaluator import EpisodeScores, Evaluator, evaluate
    from pd_jax.evaluation.statistics import bootstrap_ci, geometric_mean, percent_of_teacher, summarise_scores

__all__ = [
    "EpisodeScores",
    "Evaluator",
    "bootstrap_ci",
    "evaluate",
    "geometric_mean",
    "percent_of_teacher",
    "summarise_scores",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "evaluator": ["EpisodeScores", "Evaluator", "evaluate"],
            "statistics": ["bootstrap_ci", "geometric_mean", "percent_of_teacher", "summarise_scores"],
        },
    )
