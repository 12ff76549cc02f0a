"""What stands out, and what does not, in states that were made for it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from pd_jax.config.audit import BoundsConfig
from pd_jax.deploy.audit.agreement import agreement_table, confusion
from pd_jax.deploy.audit.findings import (
    biases,
    disagreements,
    inherited,
    ordered,
    outside_findings,
    score_findings,
    wrong_by_reference,
    wrong_by_return,
)
from pd_jax.deploy.audit.kinds import Kind
from pd_jax.deploy.audit.play import Play
from pd_jax.deploy.audit.scores import more_lost, returns_summary, share_lacking, share_lost, tail_lacking
from pd_jax.deploy.audit.states import Later
from pd_jax.deploy.pairs import Reading
from support.made_play import made_play

NAMES = ("NOOP", "UP", "DOWN")
BOUNDS = BoundsConfig()


def one_hot(choices: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[choices]


def played(**choices: np.ndarray) -> Play:
    """A thousand decisions of twenty games, by whoever chooses what is given."""
    return dataclasses.replace(made_play([50] * 20), outputs={who: one_hot(each) for who, each in choices.items()})


def kind(family: str, name: str, mask: np.ndarray, number: int | None = None) -> Kind:
    return Kind(family, name, {"shown": mask, "teacher": mask}, number)


@pytest.fixture
def teacher() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, 1000)


def test_a_student_that_is_its_teacher_has_no_bias_and_no_weak_kind(teacher: np.ndarray) -> None:
    play = played(student=teacher, teacher=teacher)
    kinds = [kind("cluster", "cluster 1", np.arange(1000) % 3 == 0, 1)]
    assert biases(confusion(play, NAMES), BOUNDS) == []
    assert disagreements(play, "shown", kinds, BOUNDS) == []


def test_a_choice_that_is_taken_too_often_is_named_with_both_shares(teacher: np.ndarray) -> None:
    student = np.where((teacher == 0) & (np.arange(1000) % 2 == 0), 2, teacher)
    table = confusion(played(student=student, teacher=teacher), NAMES)
    (finding,) = biases(table, BOUNDS)
    share, taught = (student == 2).mean(), (teacher == 2).mean()
    assert finding.sentence.startswith(
        f"Chooses DOWN in {100 * share:.0f} % of the states, where its teacher chooses it"
    )
    assert f"in {100 * taught:.0f} % of the same ones; mostly in the place of NOOP." in finding.sentence
    assert (finding.measured, finding.baseline) == (share, taught)
    assert finding.severity == pytest.approx(share - taught)
    for row in range(3):
        for column in range(3):
            assert table["counts"][row][column] == ((teacher == row) & (student == column)).sum()
    # Swapped at random, nothing is chosen too often.
    generator = np.random.default_rng(1)
    shuffled = np.where(generator.random(1000) < 0.2, generator.permutation(teacher), teacher)
    assert biases(confusion(played(student=shuffled, teacher=teacher), NAMES), BOUNDS) == []


def test_of_two_kinds_the_one_that_explains_is_named_and_not_the_one_around_it(teacher: np.ndarray) -> None:
    position = np.random.default_rng(2).random(1000)
    wrong = position > 0.8
    student = np.where(wrong, (teacher + 1) % 3, teacher)
    play = played(student=student, teacher=teacher)
    kinds = [kind("number", f"x is above {edge}", position > edge) for edge in (0.4, 0.6, 0.8, 0.9)]
    findings = disagreements(play, "shown", kinds, BOUNDS)
    assert [("x is above 0.8" in finding.sentence) for finding in findings] == [True]
    assert "does as its teacher in 0 %; elsewhere in 100 %" in findings[0].sentence
    assert findings[0].severity == pytest.approx(wrong.mean())
    # A fifth of them alone is as much as its share is worth, and too few are not looked at.
    assert disagreements(play, "shown", [kind("number", "few", position > 0.98)], BOUNDS) == []


def later_of(play: Play, after: np.ndarray) -> Later:
    everywhere = np.ones(len(play), bool)
    return Later(after, after, everywhere, everywhere)


def test_a_teacher_that_gets_less_than_it_expects_is_named_where_it_does(teacher: np.ndarray) -> None:
    play = played(student=teacher, teacher=teacher)
    values = 10 * np.ones(1000)
    play = dataclasses.replace(play, outputs={who: outputs * 10 for who, outputs in play.outputs.items()})
    left = np.arange(1000) % 5 == 0
    kinds = [kind("number", "x is below 0", left), kind("cluster", "cluster 2", ~left, 2)]
    noise = np.random.default_rng(0).normal(size=1000)
    findings, table = wrong_by_return(play, kinds, later_of(play, np.where(left, 2.0, 9.0) + noise), 20, BOUNDS)
    (finding,) = findings
    told = finding.sentence
    assert told.startswith("The teacher is wrong by its own later return where x is below 0 (20 % of its states): ")
    numbers = re.search(r"it expects 10 there, and 20 steps later that has come to ([0-9.]+); elsewhere 10", told)
    assert numbers is not None and float(numbers.group(1)) == pytest.approx(2.0, abs=0.3)
    assert "copies 100 % of these choices" in finding.sentence
    assert table["typical_value"] == pytest.approx(10.0)
    row = next(row for row in table["kinds"] if row["name"] == "x is below 0")
    assert row["shortfall"]["value"] == pytest.approx(8.0, abs=0.3) and row["copied"]["value"] == 1.0
    # Off by the same everywhere is how values are.
    findings, _ = wrong_by_return(play, kinds, later_of(play, values - 4 + noise), 20, BOUNDS)
    assert findings == []


def test_a_teacher_that_differs_from_a_reference_is_named_where_it_does(teacher: np.ndarray) -> None:
    left = np.arange(1000) % 5 == 0
    reference = np.where(left, (teacher + 1) % 3, teacher)
    play = played(student=teacher, teacher=teacher, reference=reference)
    kinds = [kind("cluster", "cluster 3", left, 3)]
    (finding,), table = wrong_by_reference({"shown": play, "teacher": play}, kinds, "another", BOUNDS)
    assert finding.sentence == (
        "The teacher chooses otherwise than another in 100 % of the states in cluster 3 (20 % of all); elsewhere in "
        "0 %. The student copies 100 % of these choices."
    )
    assert finding.cluster == 3 and table["agreement"]["value"] == 0.8


def returns(mean: float, seed: int, spread: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, 20)


def test_scores_are_findings_where_they_are_surely_lower() -> None:
    def of(student: np.ndarray, teacher: np.ndarray) -> list[Any]:
        scores = {"student": returns_summary(student), "teacher": returns_summary(teacher)}
        lacking, tail = share_lacking(student, teacher, 0.0), tail_lacking(student, teacher, 0.0)
        return score_findings(scores, lacking, tail, BOUNDS)

    good = returns(20.0, 0)
    assert of(returns(19.5, 1), good) == []
    (lower,) = of(returns(12.0, 1), good)
    assert lower.kind == "score" and lower.severity == pytest.approx(0.4, abs=0.1)
    # The mean is about the same; four games in twenty are lost.
    lost = np.concatenate([returns(24.5, 1)[:16], [2.0, 3.0, 4.0, 5.0]])
    assert abs(lost.mean() - good.mean()) < 1.0
    (tail,) = of(lost, good)
    assert tail.kind == "tail" and "worst tenth of its games comes to 2.5" in tail.sentence


def test_outside_is_a_finding_where_the_student_loses_more_than_its_teacher() -> None:
    def row(student: float, teacher: float) -> dict[str, Any]:
        inside, outside = (returns(20.0, 0), returns(20.0, 1)), (returns(student, 2), returns(teacher, 3))
        return {
            "name": "mode 1",
            "student_lost": share_lost(inside[0], outside[0], 0.0),
            "teacher_lost": share_lost(inside[1], outside[1], 0.0),
            "more_lost": more_lost((inside[0], outside[0]), (inside[1], outside[1]), 0.0),
        }

    assert outside_findings([row(5.0, 5.0), row(18.0, 20.0)], BOUNDS) == []
    assert inherited([row(5.0, 5.0), row(18.0, 20.0), row(5.0, 19.0)]) == ["mode 1"]
    (finding,) = outside_findings([row(5.0, 19.0)], BOUNDS)
    assert finding.sentence.startswith("With mode 1 loses 7") and finding.kind == "outside"


def test_causes_stand_before_what_follows_from_them_and_the_larger_before_the_smaller(teacher: np.ndarray) -> None:
    student = np.where((teacher == 0) & (np.arange(1000) % 2 == 0), 2, teacher)
    (bias,) = biases(confusion(played(student=student, teacher=teacher), NAMES), BOUNDS)
    lower = dataclasses.replace(bias, kind="score", severity=0.9)
    region = dataclasses.replace(bias, kind="disagreement", severity=0.05)
    assert [each.kind for each in ordered([lower, region, bias])] == ["bias", "disagreement", "score"]


def test_agreement_is_told_by_kind(teacher: np.ndarray) -> None:
    left = np.arange(1000) < 250
    student = np.where(left & (np.arange(1000) % 2 == 0), (teacher + 1) % 3, teacher)
    play = played(student=student, teacher=teacher)
    table = agreement_table(play, "shown", [kind("cluster", "cluster 1", left, 1)], Reading(1.0, 1.0))
    assert table["overall"]["states"] == 1000 and table["overall"]["agreement"]["value"] == 0.875
    (row,) = table["kinds"]
    assert (row["states"], row["share"], row["agreement"]["value"]) == (250, 0.25, 0.5)
    assert row["cost"]["value"] == 0.5 and row["cluster"] == 1
