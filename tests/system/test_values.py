"""Whatever JSON holds, a value is right or a line says what is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.system.values import count, flat, number, section, show_setting, word

GOOD = {"student_score": 5, "student_standard_error": 0.5, "student_ci95": [4.0, 6.0], "episodes": 30}


def test_a_score_as_summaries_have_it() -> None:
    assert Score.from_entries(GOOD, "student", "") == Score(5.0, 0.5, 4.0, 6.0, 30)
    assert Score.from_entries(GOOD, "teacher", "") is None
    alone = {"teacher_score": -1.5, "teacher_standard_error": None, "teacher_ci95": [None, None], "episodes": 1}
    assert Score.from_entries(alone, "teacher", "") == Score(-1.5, None, None, None, 1)
    both = GOOD | {"teacher_score": 7.0, "teacher_episodes": 10}
    assert Score.from_entries(both, "teacher", "") == Score(7.0, None, None, None, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_score": "5"}, "x.student_score: '5' is not a finite number"),
        ({"student_score": None}, "x.student_score: null is not a number"),
        ({"student_score": True}, "x.student_score: true is not a finite number"),
        ({"student_score": math.nan}, "x.student_score: nan is not a finite number"),
        ({"student_score": -math.inf}, "x.student_score: -inf is not a finite number"),
        ({"student_score": 10**400}, "x.student_score: a huge number is not a finite number"),
        ({"student_score": [5]}, "x.student_score: a list is not a finite number"),
        ({"student_ci95": 3}, "x.student_ci95: 3 is not an interval, a list of two numbers"),
        ({"student_ci95": [1, 2, 3]}, "x.student_ci95: a list is not an interval, a list of two numbers"),
        ({"student_ci95": [6, 4]}, "x.student_ci95: 6 to 4 is not an interval"),
        ({"student_ci95": [None, 4]}, "x.student_ci95: null to 4 is not an interval"),
        ({"student_ci95": ["4", 6]}, "x.student_ci95: '4' is not a finite number"),
        ({"student_standard_error": -0.5}, "x.student_standard_error: -0.5 is negative"),
        ({"episodes": 0}, "x.episodes: 0 is not a number of games"),
        ({"episodes": None}, "x.episodes: null is not a number of games"),
        ({"episodes": 2.5}, "x.episodes: 2.5 is not a whole number from 0 on"),
        ({"episodes": -3}, "x.episodes: -3 is not a whole number from 0 on"),
    ],
)
def test_an_impossible_score_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Score.from_entries(GOOD | change, "student", "x.")
    assert str(error.value) == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON))
def test_any_json_is_a_score_or_one_line(entry: dict[str, Any]) -> None:
    try:
        score = Score.from_entries(entry, "student", "x.")
        assert score is None or math.isfinite(score.mean)
        number(entry, "episodes", "x.")
        count(entry, "episodes", "x.")
        word(entry, "episodes", "x.")
        section(entry, "episodes", "x.")
    except UserError as error:
        assert str(error).startswith("x.")  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_flat_values_can_be_compared_and_shown(mapping: dict[str, Any]) -> None:
    for value in flat(mapping).values():
        hash(value)
        assert show_setting(value).isprintable()


def test_settings_by_dotted_keys() -> None:
    assert flat({"a": 1, "b": {"c": [1, [2]], "d": {"e": None}}}) == {"a": 1, "b.c": (1, (2,)), "b.d.e": None}
    shown = [show_setting(value) for value in ((128, 64), 1e-4, True, None, "host", 81920)]
    assert shown == ["128-64", "0.0001", "true", "null", "host", "81920"]
