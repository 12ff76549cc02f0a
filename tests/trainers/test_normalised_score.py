"""Which weights of several games' network are kept: the mean of their shares of a reference's score above random."""

from __future__ import annotations

import dataclasses

import pytest

from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.scores import Score
from pd_jax.teachers.catalogue import find
from pd_jax.trainers.normalised_score import NormalisedScore, Reference, normalised_score, reference_of

UNKNOWN = dataclasses.replace(get_task("pong"), name="unheard_of", random_score=None, human_score=None)


def test_the_reference_is_a_human_else_the_bundled_teacher_else_nobody() -> None:
    # Mnih et al. (2015), although there is a bundled teacher too.
    assert reference_of(get_task("pong")) == Reference("human", 14.6)
    score = find("acrobot").metadata.evaluation["mean"]
    assert reference_of(get_task("acrobot")) == Reference("teacher acrobot", score)
    assert reference_of(UNKNOWN) is None
    assert reference_of(dataclasses.replace(get_task("acrobot"), name="unheard_of")) is None


def test_random_play_is_0_and_the_reference_1() -> None:
    pong, human = get_task("pong"), Reference("human", 14.6)
    for score, share in ((-20.7, 0.0), (14.6, 1.0), (-3.05, 0.5), (-21.0, -0.3 / 35.3)):
        assert normalised_score(score, pong, human) == pytest.approx(share)
    assert normalised_score(1.0, pong, None) is None
    assert normalised_score(1.0, UNKNOWN, human) is None


def test_the_score_of_several_games_is_the_mean_over_those_with_a_reference() -> None:
    scores = {"pong": Score.of([-3.05]), "freeway": Score.of([29.6]), "unheard_of": Score.of([1e6])}
    assert NormalisedScore([get_task("pong"), get_task("freeway")]).of(scores) == pytest.approx(0.75)
    partly = NormalisedScore([get_task("pong"), UNKNOWN])
    assert partly.of(scores) == pytest.approx(0.5)
    assert partly.unknown == ["unheard_of"]
    assert partly.normalised(scores) == {"pong": pytest.approx(0.5), "unheard_of": None}
    other = dataclasses.replace(UNKNOWN, name="freeway")
    assert NormalisedScore([UNKNOWN, other]).of(scores) is None


def test_what_one_game_is_judged_by_is_its_score() -> None:
    normalised = NormalisedScore([UNKNOWN])
    assert normalised.of({"unheard_of": Score.of([-7.0])}) == -7.0
    assert normalised.unknown == []
