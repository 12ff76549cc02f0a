"""What a student has forgotten of its old games while others were added, as its summary says it."""

from __future__ import annotations

import dataclasses
import math

from pd_jax.runs.summary import GameSummary, Summary


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """What is forgotten of one game.

    Attributes:
      before: the student's score before anything was added.
      percent: what is lost of it, as a share of what it lay above random play; negative where the student plays better,
        None where the share means nothing.
    """

    before: float
    percent: float | None


def forgotten_in(game: GameSummary) -> Forgotten | None:
    """What is forgotten of a game; None of one that was not there before, and in runs that add none."""
    before, percent = (_number(game.about.get(name)) for name in ("score_before", "forgotten_percent"))
    return None if before is None else Forgotten(before, percent)


def has_forgotten(summary: Summary) -> bool:
    """Whether there is anything to tell of it."""
    return any(forgotten_in(game) is not None for game in summary.games.values())


def forgetting_notes(summary: Summary) -> list[str]:
    """Lines below a table of scores: how games were added, which were left out, and what ``forgotten`` means."""
    notes = []
    adding = summary.get("adding")
    if isinstance(adding, dict) and isinstance(adding.get("games"), list):
        notes.append(f"added: {', '.join(map(str, adding['games']))}; {_way(adding)}")
    begun = summary.get("init_from")
    if isinstance(begun, dict) and isinstance(begun.get("left_out"), list) and begun["left_out"]:
        notes.append(f"left out of {begun.get('source')}: {', '.join(map(str, begun['left_out']))}")
    if has_forgotten(summary):
        notes.append(
            f"games played for each score: {', '.join(f'{game.episodes:,}' for game in summary.games.values())}"
        )
        notes.append(
            "before: the student's score before games were added; forgotten: what is lost of it, of what it lay above "
            "random play; below 0 % it plays better"
        )
    return notes


def _way(adding: dict[str, object]) -> str:
    """How games were added, in a few words."""
    if adding.get("learn") == "head":
        return "the new head alone learnt"
    if adding.get("penalty") == "none":
        return f"all of it learnt, the old games on too, with a new share of {adding.get('new_share')}"
    held = f"{adding.get('penalty')} of weight {adding.get('penalty_weight')}"
    return f"all of it learnt, from new play alone, held by {held}"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
