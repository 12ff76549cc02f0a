"""Summaries made of returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_jax.evaluation.scores import Score
from pd_jax.runs.summary import Summary

Returns = Sequence[float]


def summary_of(
    teachers: Mapping[str, Returns],
    students: Mapping[str, Returns],
    *,
    random_scores: Mapping[str, float] | None = None,
    student_parameters: int,
    teacher_parameters: int,
    wall_seconds: float = 1.0,
    env_steps: int = 1000,
    updates: int = 100,
    **about: Any,
) -> Summary:
    """The summary of students beside teachers, by game, from what they returned in every game."""
    return Summary.compare(
        {game: Score.of(returns) for game, returns in teachers.items()},
        {game: Score.of(returns) for game, returns in students.items()},
        random_scores=random_scores,
        student_parameters=student_parameters,
        teacher_parameters=teacher_parameters,
        wall_seconds=wall_seconds,
        env_steps=env_steps,
        updates=updates,
        about=about,
    )
