"""Scores, their uncertainty, and what goes into ``summary.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pd_jax.evaluation.statistics import Scores, floored_mean, geometric_mean, percent_of_teacher, summarise_scores

T = TypeVar("T")


def build_summary(
    teacher_scores: Mapping[str, Scores],
    student_scores: Mapping[str, Scores],
    *,
    student_parameters: int,
    teacher_parameters: int,
    wall_seconds: float,
    env_steps: int,
    updates: int,
    random_scores: Mapping[str, float] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """The contents of ``summary.json``.

    Args:
      teacher_scores: by game, episode returns ``[episodes]`` or what ``summarise_scores`` made of them.
      student_scores: likewise, for the same games and under the same protocol.
      student_parameters: of the one student.
      teacher_parameters: of all teachers together, so that ``compression`` says how much smaller the student is.
      wall_seconds: the whole run's time.
      env_steps: control steps played for training.
      updates: minibatch updates.
      random_scores: by game, the score of random play; a game without one has no normalised percentage.
      **extra: more entries, such as ``command`` or ``network``.

    Returns:
      A mapping that JSON can hold. ``games`` has an entry per game; a percentage that is undefined is None, and so is
      a geometric mean over it. Beside the means of the percentages as they are stands what `floored_mean` gives.
    """
    if teacher_scores.keys() != student_scores.keys() or not teacher_scores:
        raise ValueError(f"teachers play {sorted(teacher_scores)} and the student plays {sorted(student_scores)}")
    games = {}
    for game in teacher_scores:
        teacher, student = _summarised(teacher_scores[game]), _summarised(student_scores[game])
        random = (random_scores or {}).get(game)
        games[game] = {
            **{f"teacher_{name}": teacher[key] for name, key in _SCORE_NAMES.items()},
            **{f"student_{name}": student[key] for name, key in _SCORE_NAMES.items()},
            "random_score": random,
            "percent_of_teacher": percent_of_teacher(student["mean"], teacher["mean"]),
            "percent_of_teacher_normalised": (
                None if random is None else percent_of_teacher(student["mean"], teacher["mean"], random)
            ),
            "episodes": student["episodes"],
            "teacher_episodes": teacher["episodes"],
        }
    return {
        "games": games,
        "geometric_mean_percent": geometric_mean([game["percent_of_teacher"] for game in games.values()]),
        "geometric_mean_percent_normalised": geometric_mean(
            [game["percent_of_teacher_normalised"] for game in games.values()]
        ),
        **floored_mean({name: game["percent_of_teacher_normalised"] for name, game in games.items()}),
        "student_parameters": int(student_parameters),
        "teacher_parameters": int(teacher_parameters),
        "compression": teacher_parameters / student_parameters,
        "wall_seconds": wall_seconds,
        "env_steps": int(env_steps),
        "updates": int(updates),
        **extra,
    }


def one_or_list(values: Sequence[T]) -> T | list[T]:
    """What a summary says where there is one for each game: with one game, just that one."""
    return values[0] if len(values) == 1 else list(values)


_SCORE_NAMES = {"score": "mean", "standard_error": "standard_error", "ci95": "ci95"}


def _summarised(scores: Scores) -> Mapping[str, Any]:
    return scores if isinstance(scores, Mapping) else summarise_scores(scores)
