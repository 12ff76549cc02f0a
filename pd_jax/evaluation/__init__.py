"""Scores: whole games under a protocol, their uncertainty, and what they are of another policy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.evaluation.evaluator import EpisodeScores, Evaluator, evaluate
    from pd_jax.evaluation.protocol import Protocol
    from pd_jax.evaluation.scores import Score
    from pd_jax.evaluation.statistics import bootstrap_ci, geometric_mean, percent_of_teacher

__all__ = [
    "EpisodeScores",
    "Evaluator",
    "Protocol",
    "Score",
    "bootstrap_ci",
    "evaluate",
    "geometric_mean",
    "percent_of_teacher",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "evaluator": ["EpisodeScores", "Evaluator", "evaluate"],
            "protocol": ["Protocol"],
            "scores": ["Score"],
            "statistics": ["bootstrap_ci", "geometric_mean", "percent_of_teacher"],
        },
    )
