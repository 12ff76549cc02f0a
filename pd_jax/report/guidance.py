"""What is told of a training that a teacher guided: its teacher, its start, and whether it has overtaken them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pd_jax.evaluation.scores import Score
from pd_jax.runs.summary import Summary

SURE = 2.0
"""Standard errors from which on one score counts as better than another."""


def errors_above(score: Score, other: Score) -> float | None:
    """Standard errors of the difference by which a score lies above another; None where they are not known, or 0."""
    if score.standard_error is None or other.standard_error is None:
        return None
    error = math.hypot(score.standard_error, other.standard_error)
    return (score.mean - other.mean) / error if error > 0 else None


def guidance_notes(told: Mapping[str, Any]) -> list[str]:
    """Lines on what was found out at the start of a training, as its summary has it under ``guidance``."""
    lines = [f"guided by {told['teacher']}: {_score(told, 'teacher')}"]
    if "scale" in told:
        lines.append(
            f"the logits of {told['start']} became Q-values: times {told['scale']:.4g}, plus {told['offset']:.4g}"
        )
    if "start" in told:
        lines.append(f"starts from {told['start']}: {_score(told, 'start')}")
    return lines


def result_note(told: Mapping[str, Any], score: Score) -> str:
    """A line on whether a trained network has overtaken its teacher: said only where it is sure.

    Args:
      told: as for :func:`guidance_notes`.
      score: of the network, under the protocol of its teacher's.
    """
    above = told.get("standard_errors_above_teacher")
    if above is None:
        difference = score.mean - told["teacher_score"]
        where = "as good as" if difference == 0 else "above" if difference > 0 else "below"
        return f"{where} its teacher; how sure that is, these scores do not say"
    if above > SURE:
        return f"overtakes its teacher by {above:.1f} standard errors"
    if above < -SURE:
        return f"is below its teacher by {-above:.1f} standard errors"
    side = "above" if above >= 0 else "below"
    return f"does not overtake its teacher for sure: {abs(above):.1f} standard errors {side}"


def summary_lines(summary: Summary) -> list[str]:
    """All that is told of the guidance of a training; nothing if it had none."""
    told = summary.get("guidance")
    if not isinstance(told, dict):
        return []
    (game,) = summary.games.values()
    notes = guidance_notes(told)
    return notes if game.teacher is None else [*notes, result_note(told, game.teacher)]


def _score(told: Mapping[str, Any], who: str) -> str:
    error = told.get(f"{who}_standard_error")
    spread = "" if error is None else f" ± {error:.1f}"
    return f"{told[f'{who}_score']:.1f}{spread} over {told['episodes']} episodes"
