"""The states in which student and teacher are furthest apart, no two of one moment."""

from __future__ import annotations

from typing import Any

import numpy as np

from pd_jax.deploy.audit.play import Play
from pd_jax.deploy.audit.states import cost, divergence, log_probabilities
from pd_jax.deploy.pairs import Reading

# Nats. Less is how sums were rounded.
_LEAST = 1e-6


def worst_states(play: Play, reading: Reading, count: int, apart: int) -> list[int]:
    """The decisions with the largest KL from the teacher's policy to the student's.

    Args:
      play: whose decisions; its frames are kept.
      reading: how outputs become policies.
      count: wanted.
      apart: the least number of steps between two of one game. Games that open alike show the same frames: of those,
        one is taken.

    Returns:
      indices, the worst first; fewer where there are not so many.
    """
    kl = divergence(play, reading)
    chosen: list[int] = []
    seen: set[bytes] = set()
    for index in np.argsort(-kl, kind="stable").tolist():
        if len(chosen) == count or kl[index] <= _LEAST:
            break
        if any(
            play.games[index] == play.games[other] and abs(int(play.ages[index]) - int(play.ages[other])) < apart
            for other in chosen
        ):
            continue
        assert play.frames is not None
        shown = play.frames.frame(int(play.steps[index]), int(play.lanes[index])).tobytes()
        if shown not in seen:
            seen.add(shown)
            chosen.append(index)
    return chosen


def describe_states(play: Play, indices: list[int], reading: Reading) -> list[dict[str, Any]]:
    """All numbers of some states: where they are in the play, what both policies say, and what was seen of vectors."""
    kl, dear = divergence(play, reading), cost(play)
    teacher = np.exp(log_probabilities(play.outputs["teacher"], reading.temperature))
    student = np.exp(log_probabilities(play.outputs["student"], reading.student_temperature))
    return [
        {
            "game": int(play.games[index]),
            "step": int(play.ages[index]),
            "kl": float(kl[index]),
            "cost": float(dear[index]),
            "teacher_choice": int(play.choices("teacher")[index]),
            "student_choice": int(play.choices("student")[index]),
            "teacher_outputs": play.outputs["teacher"][index].tolist(),
            "student_outputs": play.outputs["student"][index].tolist(),
            "teacher_probabilities": teacher[index].tolist(),
            "student_probabilities": student[index].tolist(),
            "observation": None if play.vectors is None else play.vectors[index].tolist(),
        }
        for index in indices
    ]
