"""Scenes by the equations of their games: what leans right leans right."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor

from pd_jax.environments.tasks import TASKS
from pd_jax.video import scenes
from pd_jax.video.scenes import SCENE_SIZE, SCENES


def centre(picture: np.ndarray, colour: str) -> tuple[float, float]:
    """Mean x and y (upwards) of the pixels of a colour, in a scene's pixels."""
    rows, columns = np.nonzero((picture == np.array(ImageColor.getrgb(colour))).all(axis=-1))
    return float(columns.mean()) / 4, SCENE_SIZE[1] - float(rows.mean()) / 4


def test_every_task_of_numbers_whose_actions_are_chosen_has_a_scene() -> None:
    assert set(SCENES) == {name for name, task in TASKS.items() if task.kind == "vector" and not task.is_continuous}
    for name, draw in SCENES.items():
        picture = draw(np.zeros(TASKS[name].observation_shape, np.float32))
        assert picture.shape == (4 * SCENE_SIZE[1], 4 * SCENE_SIZE[0], 3) and picture.dtype == np.uint8


@pytest.mark.parametrize("angle", [-0.2, 0.0, 0.2])
def test_a_pole_leans_as_far_as_it_does(angle: float) -> None:
    # Position, velocity, angle, angular velocity: the pole's middle is half its length (0.5) from its foot.
    picture = SCENES["cartpole"](np.array([1.2, 0.0, angle, 0.0], np.float32))
    unit = SCENE_SIZE[0] / 5.4
    assert centre(picture, scenes._WOOD)[0] == pytest.approx(80 + unit * (1.2 + 0.5 * np.sin(angle)), abs=1.0)


def test_links_hang_down_and_stand_up() -> None:
    def middle(first: float, second: float) -> tuple[float, float]:
        angles = [np.cos(first), np.sin(first), np.cos(second), np.sin(second), 0.0, 0.0]
        return centre(SCENES["acrobot"](np.array(angles, np.float32)), scenes._WOOD)

    x, y = middle(0.0, 0.0)
    assert (x, y) == (pytest.approx(80, abs=1), pytest.approx(SCENE_SIZE[1] / 2 - 23, abs=3))
    assert middle(np.pi, 0.0)[1] == pytest.approx(SCENE_SIZE[1] / 2 + 23, abs=3)
    # The first link to the right, the second folded back onto it.
    assert middle(np.pi / 2, np.pi)[0] == pytest.approx(80 + 11.5, abs=2)


def test_a_ship_is_above_its_pad_and_a_leg_that_touches_shows() -> None:
    def ship(x: float, y: float, angle: float = 0.0, legs: float = 0.0) -> np.ndarray:
        return SCENES["lunarlander"](np.array([x, y, 0, 0, angle, 0, legs, legs], np.float32))

    assert centre(ship(0.0, 0.5), scenes._PIVOT)[0] == pytest.approx(80, abs=1)
    assert centre(ship(0.5, 0.5), scenes._PIVOT)[0] == pytest.approx(120, abs=1)
    assert centre(ship(0.0, 1.0), scenes._PIVOT)[1] > centre(ship(0.0, 0.5), scenes._PIVOT)[1] + 20
    touching = ship(0.0, 0.0, legs=1.0) == np.array(ImageColor.getrgb(scenes._GOAL))
    assert (
        touching.all(axis=-1).any() and not (ship(0.0, 0.0) == np.array(ImageColor.getrgb(scenes._GOAL))).all(-1).any()
    )
