"""What stands out, in sentences: causes before what may follow from them, and the larger before the smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.config.audit import BoundsConfig
from pd_jax.deploy.audit.intervals import Games
from pd_jax.deploy.audit.kinds import Kind
from pd_jax.deploy.audit.play import Play
from pd_jax.deploy.audit.states import Later, describe

_REGIONS = ("cluster", "number", "loss", "action")
# What a teacher's return comes to cannot be told of states that were chosen by it.
_REGIONS_BEFORE = ("cluster", "number", "action")
_MOST_OF_A_KIND = 3
_LEAST_STATES = 30
_LOST = 0.5
_RANKS = ("bias", "disagreement", "teacher_return", "teacher_reference", "score", "tail", "outside")
_CAUSES = _RANKS[:4]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that stands out.

    Attributes:
      kind: ``bias``, ``disagreement``, ``teacher_return``, ``teacher_reference``, ``score``, ``tail`` or ``outside``.
      sentence: with the number and what it is compared with.
      severity: of the first four, the share of all states that it is about times how strongly; of others the share of
        the score.
      measured, baseline: what was found, and what it is compared with.
      bound: from where on it is a finding.
      setting: that sets the bound.
      cluster: number of the cluster that it is about, if it is.
    """

    kind: str
    sentence: str
    severity: float
    measured: float
    baseline: float | None
    bound: float
    setting: str
    cluster: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As in ``audit.json``."""
        return dataclasses.asdict(self)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Causes first (what is wrong in which states), then consequences (scores); each by severity."""
    return sorted(findings, key=lambda each: (each.kind not in _CAUSES, -each.severity))


def biases(confusion: Mapping[str, Any], bounds: BoundsConfig) -> list[Finding]:
    """Actions that the student chooses more often than its teacher does in the same states."""
    found, counts = [], np.array(confusion["counts"])
    for place, row in enumerate(confusion["shares"]):
        excess, low = row["difference"]["value"], row["difference"]["ci95"][0]
        if excess < bounds.bias or (low is not None and low <= 0):
            continue
        taken = np.where(np.arange(len(counts)) == place, 0, counts[:, place])
        instead = confusion["actions"][int(taken.argmax())]
        sentence = (
            f"Chooses {row['action']} in {_percent(row['student']['value'])} of the states, where its teacher chooses "
            f"it in {_percent(row['teacher']['value'])} of the same ones; mostly in the place of {instead}."
        )
        found.append(
            Finding(
                "bias", sentence, excess, row["student"]["value"], row["teacher"]["value"], bounds.bias, "bounds.bias"
            )
        )
    return found


def disagreements(play: Play, name: str, kinds: Sequence[Kind], bounds: BoundsConfig) -> list[Finding]:
    """Kinds of states in which the student follows its teacher far less than elsewhere."""
    differs = play.choices("student") != play.choices("teacher")

    def sentence(kind: Kind, mask: np.ndarray, rest: np.ndarray) -> str:
        told = (
            f"{_place(kind)} ({_percent(mask.mean())} of the states), does as its teacher in "
            f"{_percent(1 - differs[mask].mean())}; elsewhere in {_percent(1 - differs[rest].mean())}."
        )
        return told[0].upper() + told[1:]

    return _regions(
        "disagreement",
        differs.astype(np.float64),
        [(kind, kind.masks[name]) for kind in kinds if kind.family in _REGIONS],
        Games(play.games),
        bounds.disagreement,
        bounds,
        sentence,
        1.0,
        lambda mask: 1.0,
    )


def wrong_by_return(
    play: Play, kinds: Sequence[Kind], later: Later, steps: int, bounds: BoundsConfig
) -> tuple[list[Finding], dict[str, Any]]:
    """Kinds of states in which the teacher's own play came to less than it expected, more so than elsewhere.

    Args:
      play: the teacher's own.
      kinds: of states.
      later: what followed.
      steps: after which the teacher is asked again what it expects.
      bounds: from where on it is a finding.

    Returns:
      the findings; and ``kinds``, rows of what was expected and came, with the share of choices that the student
      copies.
    """
    known = later.is_known
    values = play.outputs["teacher"].max(axis=1).astype(np.float64)
    typical = float(np.sqrt((values[known] ** 2).mean())) if known.any() else 0.0
    copies = play.choices("student") == play.choices("teacher")
    inner = [(kind, kind.masks["teacher"][known]) for kind in kinds if kind.family in _REGIONS_BEFORE]
    told, came, copied = values[known], later.after[known], copies[known]
    returned, is_return_known = later.returns[known], later.is_return_known[known]
    games = Games(play.games[known])
    rows = [
        {
            "family": kind.family,
            "name": kind.name,
            "cluster": kind.number,
            "states": int(mask.sum()),
            "share": float(mask.mean()),
            "expected": games.mean(told, mask),
            "came": games.mean(came, mask),
            "shortfall": games.mean(told - came, mask),
            "returned": games.mean(returned, mask & is_return_known),
            "copied": games.share(copied, mask),
        }
        for kind, mask in inner
        if mask.any()
    ]
    table = {
        "states": int(known.sum()),
        "typical_value": typical,
        "shortfall": games.mean(told - came, np.ones(len(told), bool)) if len(told) else None,
        "kinds": rows,
    }
    if not typical:
        return [], table

    def sentence(kind: Kind, mask: np.ndarray, rest: np.ndarray) -> str:
        return (
            f"The teacher is wrong by its own later return {_place(kind)} ({_percent(mask.mean())} of its "
            f"states): it expects {describe(told[mask].mean())} there, and {steps} steps later that has come to "
            f"{describe(came[mask].mean())}; elsewhere {describe(told[rest].mean())} and "
            f"{describe(came[rest].mean())}. The student copies {_percent(copied[mask].mean())} of these choices."
        )

    found = _regions(
        "teacher_return",
        told - came,
        inner,
        games,
        bounds.shortfall,
        bounds,
        sentence,
        typical,
        lambda mask: float(copied[mask].mean()),
    )
    return found, table


def wrong_by_reference(
    plays: Mapping[str, Play], kinds: Sequence[Kind], reference: str, bounds: BoundsConfig
) -> tuple[list[Finding], dict[str, Any]]:
    """Kinds of states in which the teacher chooses otherwise than another one, more so than elsewhere.

    Args:
      plays: all of whose states count.
      kinds: of states.
      reference: what sentences call the other teacher.
      bounds: from where on it is a finding.

    Returns:
      the findings; and ``agreement`` over all states, and ``kinds``, rows with that and the share of choices copied.
    """
    names = list(plays)
    teacher, student, other = (
        np.concatenate([plays[name].choices(who) for name in names]) for who in ("teacher", "student", "reference")
    )
    offsets = np.cumsum([0, *(int(plays[name].games.max(initial=0)) + 1 for name in names)])
    games = Games(np.concatenate([plays[name].games + offset for name, offset in zip(names, offsets, strict=False)]))
    differs, copies = teacher != other, student == teacher
    inner = [
        (kind, np.concatenate([kind.masks[name] for name in names])) for kind in kinds if kind.family in _REGIONS_BEFORE
    ]
    table = {
        "agreement": games.share(~differs, np.ones(len(differs), bool)),
        "kinds": [
            {
                "family": kind.family,
                "name": kind.name,
                "cluster": kind.number,
                "states": int(mask.sum()),
                "share": float(mask.mean()),
                "agreement": games.share(~differs, mask),
                "copied": games.share(copies, mask),
            }
            for kind, mask in inner
            if mask.any()
        ],
    }

    def sentence(kind: Kind, mask: np.ndarray, rest: np.ndarray) -> str:
        return (
            f"The teacher chooses otherwise than {reference} in {_percent(differs[mask].mean())} of the states "
            f"{_place(kind)} ({_percent(mask.mean())} of all); elsewhere in {_percent(differs[rest].mean())}. The "
            f"student copies {_percent(copies[mask].mean())} of these choices."
        )

    found = _regions(
        "teacher_reference",
        differs.astype(np.float64),
        inner,
        games,
        bounds.reference,
        bounds,
        sentence,
        1.0,
        lambda mask: float(copies[mask].mean()),
    )
    return found, table


def score_findings(
    scores: Mapping[str, Any], lacking: Mapping[str, Any] | None, tail: Mapping[str, Any] | None, bounds: BoundsConfig
) -> list[Finding]:
    """What the student lacks of its teacher's score, and in its worst games."""
    found = []
    student, teacher = scores["student"], scores["teacher"]
    if _exceeds(lacking, bounds.loss):
        assert lacking is not None
        sentence = (
            f"Scores {describe(student['mean'])}, and its teacher {describe(teacher['mean'])} from the same starts: "
            f"{_percent(lacking['value'])} of what its teacher has above random play is lacking."
        )
        found.append(_of_scores("score", sentence, lacking["value"], student["mean"], teacher["mean"], bounds.loss))
    elif _exceeds(tail, bounds.loss):
        assert tail is not None
        own, taught = student["cvar10"]["value"], teacher["cvar10"]["value"]
        sentence = (
            f"The worst tenth of its games comes to {describe(own)}, that of its teacher to {describe(taught)}, though "
            f"the means are {describe(student['mean'])} and {describe(teacher['mean'])}."
        )
        found.append(_of_scores("tail", sentence, tail["value"], own, taught, bounds.loss))
    return found


def outside_findings(rows: Sequence[Mapping[str, Any]], bounds: BoundsConfig) -> list[Finding]:
    """Where the student loses more than its teacher does."""
    found = []
    for row in rows:
        more = row["more_lost"]
        if not _exceeds(more, bounds.outside):
            continue
        own, taught = row["student_lost"]["value"], row["teacher_lost"]["value"]
        sentence = (
            f"With {row['name']} loses {_percent(own)} of its score above random play, and its teacher "
            f"{_percent(max(taught, 0.0))} of its own."
        )
        found.append(Finding("outside", sentence, more["value"], own, taught, bounds.outside, "bounds.outside"))
    return found


def inherited(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the play outside in which student and teacher alike lose half of their score above random play, or more:
    no fault of the distillation, and nothing that either is good for."""
    both = ("student_lost", "teacher_lost")
    return [row["name"] for row in rows if all(row[who] and row[who]["value"] >= _LOST for who in both)]


def _of_scores(kind: str, sentence: str, severity: float, own: float, taught: float, bound: float) -> Finding:
    return Finding(kind, sentence, severity, own, taught, bound, "bounds.loss")


def _exceeds(measure: Mapping[str, Any] | None, bound: float) -> bool:
    if measure is None or not measure["value"] >= bound:
        return False
    low = measure["ci95"][0]
    return low is not None and low > 0


def _regions(
    kind: str,
    values: np.ndarray,
    candidates: Sequence[tuple[Kind, np.ndarray]],
    games: Games,
    bound: float,
    bounds: BoundsConfig,
    sentence: Callable[[Kind, np.ndarray, np.ndarray], str],
    scale: float,
    weight: Callable[[np.ndarray], float],
) -> list[Finding]:
    """Kinds of states in which a mean is above that of all others.

    One after another, each among the states that none before it is about: the kind that explains the most of the
    variance, as a regression tree splits (Breiman et al. 1984). So a wide kind around the one that matters is not
    named.
    """
    found: list[Finding] = []
    left = np.ones(len(values), bool)
    while len(found) < _MOST_OF_A_KIND:
        chosen = _next_region(values, candidates, games, left, bound * scale, bounds.states)
        if chosen is None:
            break
        region, mask, rest = chosen
        measured, baseline = float(values[mask].mean()), float(values[rest].mean())
        severity = float(mask.mean()) * min((measured - baseline) / scale, 1.0) * weight(mask)
        told = sentence(region, mask, rest)
        found.append(Finding(kind, told, severity, measured, baseline, bound, _SETTINGS[kind], region.number))
        left = rest
    return found


def _next_region(
    values: np.ndarray,
    candidates: Sequence[tuple[Kind, np.ndarray]],
    games: Games,
    left: np.ndarray,
    least_above: float,
    least_share: float,
) -> tuple[Kind, np.ndarray, np.ndarray] | None:
    """The kind that explains the most among the states that are left, its states and the others; None if none does."""
    ranked = []
    for region, mask in candidates:
        inside, rest = mask & left, ~mask & left
        count, others = int(inside.sum()), int(rest.sum())
        if count < max(_LEAST_STATES, least_share * len(values)) or others < _LEAST_STATES:
            continue
        above = float(values[inside].mean() - values[rest].mean())
        if above >= least_above:
            ranked.append((count * others * above**2, region, inside, rest))
    for _, region, inside, rest in sorted(ranked, key=lambda each: -each[0]):
        low = games.difference(values, inside, rest)["ci95"][0]
        if low is not None and low > 0:
            return region, inside, rest
    return None


_SETTINGS = {
    "disagreement": "bounds.disagreement",
    "teacher_return": "bounds.shortfall",
    "teacher_reference": "bounds.reference",
}


def _place(kind: Kind) -> str:
    return f"in {kind.name}" if kind.family == "cluster" else f"where {kind.name}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 or share < 0.0005 else f"{100 * share:.1f} %"
