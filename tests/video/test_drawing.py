"""Pictures by their pixels: bars, marks, words that fit, and nothing of one pair in another's place."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageColor

from pd_jax.environments.tasks import get_task
from pd_jax.video import drawing
from pd_jax.video.drawing import CHANCE, DIFFERS, STUDENT, TEACHER, Canvas, Moment, Pair, Panel

BLUE = (10, 20, 200)
PANELS = (Panel("Teacher", "dqn", "student", TEACHER), Panel("Student", "net2", "teacher", STUDENT))


def pair(game: str = "pong", steps: int = 100, **changes: Any) -> Pair:
    task = get_task(game)
    size = (160, 210) if task.kind == "atari" else (160, 105)
    return dataclasses.replace(Pair(game, "same start", task.action_names, size, PANELS, steps), **changes)


def moment(of: Pair, **changes: Any) -> Moment:
    shares = np.zeros(len(of.action_names))
    chosen = len(shares) // 2
    shares[chosen] = 1.0
    values: dict[str, Any] = {
        "screen": np.full((of.screen_size[1], of.screen_size[0], 3), BLUE, np.uint8),
        "shares": shares,
        "labels": [f"{100 * share:.0f} %" for share in shares],
        "action": chosen,
        "wish": chosen,
        "other_wish": chosen,
        "score": 3.0,
        "step": 50,
        "seconds": 3.3,
        "is_chance": False,
        "ending": None,
        "differs": np.zeros(51, bool),
        "agreement": 1.0,
    }
    return Moment(**values | changes)


def count(picture: np.ndarray, colour: str) -> int:
    """Pixels of a colour."""
    return int((picture == np.array(ImageColor.getrgb(colour)[:3])).all(axis=-1).sum())


def draw(teacher: dict[str, Any], student: dict[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's and the student's half of a picture of Pong, without the legend."""
    of = pair()
    picture = Canvas([of], 2.0).draw([(moment(of, **teacher), moment(of, **(teacher if student is None else student)))])
    middle = picture.shape[1] // 2
    return picture[:-30, :middle], picture[:-30, middle:]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_bar_is_as_long_as_its_share(share: float) -> None:
    shares = np.array([0.0, 0.0, 0.0, share, 0.0, 0.0])
    whole, none = (count(draw({"shares": shares * 0 + part})[0], TEACHER) for part in (1.0, 0.0))
    found = count(draw({"shares": shares})[0], TEACHER)
    assert found - none == pytest.approx(share * (whole - none), abs=0.02 * whole)


def test_screens_are_shown_whole_and_sharp() -> None:
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 3)).astype(np.uint8)
    of = pair()
    picture = Canvas([of], 2.0).draw([(moment(of, screen=screen), moment(of, screen=screen[:, ::-1]))])
    for wanted in (screen, screen[:, ::-1]):
        doubled = wanted.repeat(2, axis=0).repeat(2, axis=1)
        corners = np.argwhere((picture[:-419, :-319] == doubled[0, 0]).all(axis=-1))
        assert any((picture[y : y + 420, x : x + 320] == doubled).all() for y, x in corners)


def test_marks_are_where_the_two_would_differ_and_nowhere_else() -> None:
    agree, differ = draw({}), draw({}, {"wish": 3, "other_wish": 2})
    assert count(agree[0], DIFFERS) == count(agree[1], DIFFERS) == 0
    assert count(differ[0], DIFFERS) == 0
    # A frame of three pixels around the screen of 320 x 420, at least.
    assert count(differ[1], DIFFERS) > 3 * 2 * (320 + 420)


def test_a_timeline_has_a_mark_for_each_difference() -> None:
    differs = np.zeros(51, bool)
    differs[[10, 30]] = True
    teacher, student = draw({"differs": differs}, {})
    assert count(student, DIFFERS) == 0
    marked = (teacher == np.array(ImageColor.getrgb(DIFFERS))).all(axis=-1)
    columns = np.flatnonzero(marked.any(axis=0))
    # Of 100 steps on 320 pixels, from the margin on.
    assert columns.tolist() == [16 + 32, 16 + 33, 16 + 96, 16 + 97]


def test_chance_has_a_colour_of_its_own() -> None:
    chosen, drawn = draw({}), draw({"is_chance": True})
    assert count(chosen[0], CHANCE) == 0 < count(drawn[0], CHANCE)
    assert count(drawn[0], TEACHER) < count(chosen[0], TEACHER)


def test_a_game_that_is_over_is_dim_and_has_no_action() -> None:
    going, over = draw({}), draw({"ending": "game over", "action": None, "other_wish": 2})
    assert count(going[0], "#0a14c8") == 320 * 420
    assert count(over[0], "#0a14c8") == count(over[0], DIFFERS) == 0


@settings(max_examples=12)
@given(
    games=st.lists(st.sampled_from(["pong", "seaquest", "cartpole", "freeway"]), min_size=1, max_size=7),
    scale=st.floats(1.0, 2.0),
)
def test_grids_are_even_and_no_pair_reaches_into_another(games: list[str], scale: float) -> None:
    pairs = [pair(game) for game in games]
    canvas = Canvas(pairs, scale)
    assert canvas.size[0] % 2 == canvas.size[1] % 2 == 0
    calm = [(moment(each), moment(each)) for each in pairs]
    wild = list(calm)
    changes: dict[str, Any] = {"other_wish": 0, "score": -88888.8, "step": 26_999, "seconds": 5999.0}
    changes |= {"differs": np.ones(500, bool), "agreement": 0.999, "shares": np.full(18, 7.0), "labels": ["100 %"] * 18}
    chosen = len(games) // 2
    wild[chosen] = (moment(pairs[chosen], **changes), moment(pairs[chosen], **changes))
    before, after = canvas.draw(calm), canvas.draw(wild)
    assert before.shape == (canvas.size[1], canvas.size[0], 3)
    rows, columns = np.nonzero((before != after).any(axis=-1))
    row, column = divmod(chosen, drawing.grid_columns(len(games)))
    width, height = canvas._pair_width, canvas._pair_height
    assert column * width <= columns.min() and columns.max() < (column + 1) * width
    assert row * height <= rows.min() and rows.max() < (row + 1) * height


@given(words=st.text(max_size=60), width=st.floats(0, 300))
def test_words_fit_or_are_cut(words: str, width: float) -> None:
    found = drawing.fitted(words, 12, width)
    assert found == "" or drawing.text_width(found, 12) <= width
    assert "\n" not in found
    if drawing.text_width(" ".join(words.split()), 12) <= width:
        assert found == " ".join(words.split())


def test_percents_are_rounded_down() -> None:
    assert [drawing.percent(share) for share in (1.0, 0.9999, 0.29, 0.0)] == ["100 %", "99 %", "29 %", "0 %"]


def test_scores_are_spelt_without_zeros() -> None:
    assert [drawing.spell(score) for score in (-21.0, 12345.0, 0.25)] == ["-21", "12,345", "0.2"]


def test_pixels_of_a_fraction_keep_the_mean_of_a_screen() -> None:
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 3)).astype(np.uint8)
    image = np.asarray(drawing.scaled(screen, 240, 315))
    assert image.shape == (315, 240, 3)
    assert image.mean() == pytest.approx(screen.mean(), abs=0.6)
