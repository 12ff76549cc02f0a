"""Returns of whole games: their mean, their tail, and what a student lacks or loses."""

from __future__ import annotations

from typing import Any

import numpy as np

from pd_jax.deploy.audit.intervals import bootstrap, conditional_tail
from pd_jax.evaluation.scores import Score

TAIL = 0.1


def returns_summary(returns: np.ndarray) -> dict[str, Any] | None:
    """Mean, tail and worst game, with 95 % bootstrap intervals; None where no game was played to its end."""
    if not len(returns):
        return None
    return Score.of(returns).to_json() | {
        "cvar10": {"value": conditional_tail(returns, TAIL), "ci95": bootstrap(conditional_tail, returns)},
        "worst": float(returns.min()),
        "best": float(returns.max()),
        "returns": returns.tolist(),
    }


def share_lacking(student: np.ndarray, teacher: np.ndarray, random: float) -> dict[str, Any] | None:
    """What a student lacks of its teacher's score above random play, as a share, and its interval."""
    if not len(student) or not len(teacher) or teacher.mean() <= random:
        return None
    return _with_interval(lambda own, taught: _lost(taught.mean(), own.mean(), random), student, teacher)


def tail_lacking(student: np.ndarray, teacher: np.ndarray, random: float) -> dict[str, Any] | None:
    """The same of the worst tenth of games, as a share of the teacher's mean score above random play."""
    if not len(student) or not len(teacher) or teacher.mean() <= random:
        return None
    return _with_interval(
        lambda own, taught: (
            (conditional_tail(taught) - conditional_tail(own)) / (taught.mean() - random)
            if taught.mean() > random
            else np.nan
        ),
        student,
        teacher,
    )


def share_lost(inside: np.ndarray, outside: np.ndarray, random: float) -> dict[str, Any] | None:
    """What a policy loses outside of its own score above random play, as a share, and its interval."""
    if not len(inside) or not len(outside) or inside.mean() <= random:
        return None
    return _with_interval(lambda before, after: _lost(before.mean(), after.mean(), random), inside, outside)


def more_lost(
    student: tuple[np.ndarray, np.ndarray], teacher: tuple[np.ndarray, np.ndarray], random: float
) -> dict[str, Any] | None:
    """How much more a student loses outside than its teacher; each is given inside and outside."""
    arrays = (*student, *teacher)
    if any(not len(each) for each in arrays) or min(student[0].mean(), teacher[0].mean()) <= random:
        return None
    return _with_interval(
        lambda s0, s1, t0, t1: _lost(s0.mean(), s1.mean(), random) - _lost(t0.mean(), t1.mean(), random), *arrays
    )


def _lost(before: float, after: float, random: float) -> float:
    return (before - after) / (before - random) if before > random else np.nan


def _with_interval(statistic: Any, *samples: np.ndarray) -> dict[str, Any]:
    return {"value": float(statistic(*samples)), "ci95": bootstrap(statistic, *samples)}
