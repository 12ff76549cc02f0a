"""Pictures of tasks that show numbers: what the numbers say, and nothing that they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

SCENE_SIZE = (160, 105)
"""Width and height of a scene in a screen's pixels."""
_DETAIL = 8
"""Pixels of a picture for one of these."""
_FINER = 2
"""Drawn so many times as large, for smooth edges."""
_SKY, _GROUND, _WOOD, _METAL, _PIVOT, _GOAL, _FIRE = (
    "#E9EDF2",
    "#7C8796",
    "#C8843C",
    "#2B3440",
    "#6F7BD0",
    "#E04F5F",
    "#F5A914",
)


class _Sheet:
    """Paper for shapes, measured in a scene's pixels from its lower left corner."""

    def __init__(self) -> None:
        self._unit = _DETAIL * _FINER // 2
        self._image = Image.new("RGB", (SCENE_SIZE[0] * self._unit, SCENE_SIZE[1] * self._unit), _SKY)
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, point: np.ndarray) -> tuple[float, float]:
        return float(point[0]) * self._unit, (SCENE_SIZE[1] - float(point[1])) * self._unit

    def polygon(self, points: np.ndarray, colour: str) -> None:
        self._draw.polygon([self._at(point) for point in points], colour)

    def disc(self, middle: np.ndarray, radius: float, colour: str) -> None:
        (x, y), size = self._at(middle), radius * self._unit
        self._draw.ellipse((x - size, y - size, x + size, y + size), colour)

    def bar(self, begin: np.ndarray, end: np.ndarray, width: float, colour: str) -> None:
        """A thick line with round ends."""
        along = (end - begin) / max(float(np.hypot(*(end - begin))), 1e-9)
        across = np.array([-along[1], along[0]]) * width / 2
        self.polygon(np.array([begin + across, end + across, end - across, begin - across]), colour)
        self.disc(begin, width / 2, colour)
        self.disc(end, width / 2, colour)

    def pixels(self) -> np.ndarray:
        """Uint8 ``[H, W, 3]``, four times as fine as a scene's own pixels."""
        size = SCENE_SIZE[0] * _DETAIL // 2, SCENE_SIZE[1] * _DETAIL // 2
        return np.asarray(self._image.resize(size, Image.Resampling.BOX))


def _cartpole(observation: np.ndarray) -> np.ndarray:
    """Position, velocity, angle (from upright, clockwise) and angular velocity; it ends beyond 2.4 to either side."""
    sheet, floor = _Sheet(), 26.0
    unit = SCENE_SIZE[0] / 5.4
    middle = SCENE_SIZE[0] / 2
    sheet.polygon(_box(middle, floor - 1, SCENE_SIZE[0], 1.2), _GROUND)
    for end in (-2.4, 2.4):
        sheet.polygon(_box(middle + end * unit, floor - 1, 1.4, 8), _GOAL)
    x, angle = middle + observation[0] * unit, observation[2]
    sheet.polygon(_box(x, floor + 4.5, 15, 7), _METAL)
    for side in (-4, 4):
        sheet.disc(np.array([x + side, floor + 0.6]), 2.0, _METAL)
    pivot = np.array([x, floor + 7])
    # The equations of motion have half its length, 0.5.
    sheet.bar(pivot, pivot + unit * np.array([np.sin(angle), np.cos(angle)]), 2.8, _WOOD)
    sheet.disc(pivot, 1.5, _PIVOT)
    return sheet.pixels()


def _acrobot(observation: np.ndarray) -> np.ndarray:
    """Cosine and sine of both angles, the second one relative to the first; it ends above one link's length."""
    sheet = _Sheet()
    cos1, sin1, cos2, sin2 = observation[:4]
    pivot, unit = np.array([SCENE_SIZE[0] / 2, SCENE_SIZE[1] / 2]), 23.0
    sheet.polygon(_box(pivot[0], pivot[1] + unit, SCENE_SIZE[0], 1.2), _GOAL)
    elbow = pivot + unit * np.array([sin1, -cos1])
    hand = elbow + unit * np.array([sin1 * cos2 + cos1 * sin2, -(cos1 * cos2 - sin1 * sin2)])
    sheet.bar(pivot, elbow, 4.4, _WOOD)
    sheet.bar(elbow, hand, 4.4, _WOOD)
    for joint in (pivot, elbow):
        sheet.disc(joint, 2.6, _PIVOT)
    return sheet.pixels()


def _lunarlander(observation: np.ndarray) -> np.ndarray:
    """Place relative to the pad, velocities, angle (anticlockwise), its velocity, and whether each leg touches.

    The hills are no part of what is seen, and are not drawn.
    """
    sheet, floor = _Sheet(), 14.0
    x, y, angle = observation[0], observation[1], observation[4]
    sheet.polygon(_box(SCENE_SIZE[0] / 2, floor - 7, 36, 14), _GROUND)
    for side in (-1, 1):
        pole = np.array([SCENE_SIZE[0] / 2 + side * 18, floor])
        sheet.bar(pole, pole + np.array([0, 9]), 0.8, _METAL)
        sheet.polygon(pole + np.array([[0, 9], [7, 7], [0, 5]]), _FIRE)
    ship = np.array([SCENE_SIZE[0] / 2 * (1 + x), floor + 7 + y * (SCENE_SIZE[1] - floor) * 0.62])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for side, touches in ((-1, observation[6]), (1, observation[7])):
        leg = np.array([[side * 3, -2], [side * 7, -7]]) @ turn.T + ship
        sheet.bar(leg[0], leg[1], 1.6, _GOAL if touches else _METAL)
    hull = np.array([[-4.5, 5], [-5.5, 0], [-5.5, -3.5], [5.5, -3.5], [5.5, 0], [4.5, 5]])
    sheet.polygon(hull @ turn.T + ship, _PIVOT)
    return sheet.pixels()


def _box(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Corners of a box around a point."""
    across, up = width / 2, height / 2
    return np.array([[x - across, y - up], [x + across, y - up], [x + across, y + up], [x - across, y + up]])


SCENES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"cartpole": _cartpole, "acrobot": _acrobot, "lunarlander": _lunarlander}
)
"""By the task's name: an observation float32 ``[D]`` to a picture uint8 ``[H, W, 3]`` of :data:`SCENE_SIZE`'s shape."""
