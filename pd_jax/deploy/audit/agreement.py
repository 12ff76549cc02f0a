"""Where student and teacher agree: over all states and by kind, and which choices are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pd_jax.deploy.audit.intervals import Games
from pd_jax.deploy.audit.kinds import Kind
from pd_jax.deploy.audit.play import Play
from pd_jax.deploy.audit.states import cost, divergence
from pd_jax.deploy.pairs import Reading


def agreement_table(play: Play, name: str, kinds: Sequence[Kind], reading: Reading) -> dict[str, Any]:
    """Agreement, KL and cost over all states of a play, and by kind.

    Args:
      play: whose states.
      name: of the play, as kinds call it.
      kinds: of states.
      reading: how outputs become policies.

    Returns:
      ``overall``, and ``kinds``: rows with ``family``, ``name``, ``states``, ``share`` of all states, and with
      intervals ``agreement``, ``kl`` (nats) and ``cost`` (the teacher's best output minus its output for the student's
      choice).
    """
    games = Games(play.games)
    agrees = play.choices("student") == play.choices("teacher")
    measures = (agrees, divergence(play, reading), cost(play))

    def row(mask: np.ndarray) -> dict[str, Any]:
        agreement, kl, dear = measures
        return {
            "states": int(mask.sum()),
            "share": float(mask.mean()),
            "agreement": games.share(agreement, mask),
            "kl": games.mean(kl, mask),
            "cost": games.mean(dear, mask),
        }

    return {
        "overall": row(np.ones(len(play), bool)),
        "kinds": [
            {"family": kind.family, "name": kind.name, "cluster": kind.number} | row(kind.masks[name]) for kind in kinds
        ],
    }


def confusion(play: Play, action_names: Sequence[str]) -> dict[str, Any]:
    """Which choices are taken for which.

    Args:
      play: whose states.
      action_names: of the game.

    Returns:
      ``counts`` int ``[teacher's choice][student's choice]``, and for each action the shares of states in which the
      student and the teacher choose it, with the difference and its interval.
    """
    count = len(action_names)
    teacher, student = play.choices("teacher"), play.choices("student")
    counts = np.bincount(teacher * count + student, minlength=count * count).reshape(count, count)
    games, everywhere = Games(play.games), np.ones(len(play), bool)
    actions = []
    for action, name in enumerate(action_names):
        by_student, by_teacher = student == action, teacher == action
        excess = by_student.astype(np.float64) - by_teacher
        actions.append(
            {
                "action": name,
                "student": games.share(by_student, everywhere),
                "teacher": games.share(by_teacher, everywhere),
                "difference": games.mean(excess, everywhere),
            }
        )
    return {"actions": list(action_names), "counts": counts.tolist(), "shares": actions}
