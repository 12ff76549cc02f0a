"""What EnvPool makes of raw screens: 84x84 frames and stacks of four, in NumPy alone.

`pd_jax.deploy.runtime` puts this module into the one file that an exported policy is run by, so it imports nothing of
pd_jax.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

SCREEN_SHAPE = (210, 160)
"""Of a screen of the Arcade Learning Environment, height first."""
FRAME_SHAPE = (84, 84)
STACK = 4
"""Frames in a stack."""

RAM_SCALE = np.float32(1 / 255)
"""What each byte of a console's memory is multiplied by, where it is what a policy sees."""


class FrameStack:
    """The newest four frames of lanes that are played side by side, as EnvPool stacks them.

    Args:
      num_lanes: games played side by side.

    Attributes:
      planes: uint8 ``[num_lanes, 4, 84, 84]``, oldest frame first; zeros before the first screens.

    Raises:
      ValueError: no lanes.

    Example:
      One game. ``screens`` are grey, as ALE's ``getScreenGrayscale`` gives them: the one that the game opens with, then
      the last two of the four that an action is held for::

        stack = FrameStack()
        frames = stack.push(screens, is_first=np.array([True]))   # screens [1, 1, 210, 160]
        frames = stack.push(screens, is_first=np.array([False]))  # screens [1, 2, 210, 160]
    """

    def __init__(self, num_lanes: int = 1) -> None:
        if num_lanes < 1:
            raise ValueError(f"{num_lanes} lanes; at least 1")
        self.planes = np.zeros((num_lanes, STACK, *FRAME_SHAPE), np.uint8)
        self._is_open = np.zeros(num_lanes, bool)

    def push(self, screens: np.ndarray, is_first: np.ndarray, lanes: np.ndarray | None = None) -> np.ndarray:
        """Adds a frame to stacks, the maximum of some screens, or fills them with it where a game opens.

        Args:
          screens: uint8 ``[n, K, 210, 160]``, grey; K is 2 but where a game opens, when it may be 1.
          is_first: bool ``[n]``, the screens open a game: the stack is four copies of its first frame.
          lanes: which lanes these are; by default all of them.

        Returns:
          their stacks, uint8 ``[n, 84, 84, 4]``, oldest frame first, as policies see them.

        Raises:
          ValueError: screens of another shape or dtype, or not one for each lane; or a lane has not been opened yet.
        """
        lanes = np.arange(len(self.planes)) if lanes is None else np.asarray(lanes)
        screens, is_first = np.asarray(screens), np.asarray(is_first)
        if screens.dtype != np.uint8 or screens.ndim != 4 or screens.shape[2:] != SCREEN_SHAPE or not screens.shape[1]:
            raise ValueError(f"screens are {screens.dtype} {list(screens.shape)}, not uint8 [n, K, 210, 160]")
        if len(screens) != len(lanes) or is_first.shape != (len(lanes),) or is_first.dtype != bool:
            raise ValueError(
                f"{len(screens)} screens and is_first {is_first.dtype} {list(is_first.shape)} for {len(lanes)} lanes"
            )
        if not (is_first | self._is_open[lanes]).all():
            raise ValueError("a lane that no game has opened yet: its first screens take is_first")
        self._is_open[lanes] = True
        frames = shrink(screens.max(axis=1))
        self.planes[lanes] = np.concatenate([self.planes[lanes, 1:], frames[:, None]], axis=1)
        self.planes[lanes[is_first]] = frames[is_first, None]
        return np.ascontiguousarray(self.planes[lanes].transpose(0, 2, 3, 1))


class _Taps(NamedTuple):
    """Which pixels each output pixel is the mean of along one axis, and their weights, ``[outputs, taps]``."""

    pixels: np.ndarray
    weights: np.ndarray


@functools.cache
def _taps(size: int, wanted: int) -> _Taps:
    edges = np.arange(wanted + 1) * (size / wanted)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.where(overlap > 1e-3, overlap, 0) / (size / wanted)
    most = int((weights > 0).sum(axis=1).max())
    first = (weights > 0).argmax(axis=1)
    taken = np.minimum(first[:, None] + np.arange(most), size - 1)
    kept = np.take_along_axis(weights, taken, axis=1)
    # At the far edge the last pixel is taken once.
    kept[np.diff(taken, axis=1, prepend=-1) == 0] = 0
    return _Taps(taken, kept.astype(np.float32))


def shrink(screens: np.ndarray) -> np.ndarray:
    """Screens uint8 ``[L, 210, 160]`` as frames uint8 ``[L, 84, 84]``: means over areas, as OpenCV's ``INTER_AREA``.

    Added up in float32 in OpenCV's order, along rows and then down, so that halves fall as they do there.
    """
    rows, columns = (_taps(size, wanted) for size, wanted in zip(SCREEN_SHAPE, FRAME_SHAPE, strict=True))
    narrow = _add_up(screens.astype(np.float32).swapaxes(1, 2), columns)
    return np.rint(_add_up(narrow.swapaxes(1, 2), rows)).astype(np.uint8)


def pixel_weights(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Which pixels of a line each pixel of a shorter line is the mean of, in whole numbers.

    Args:
      size: pixels of the line.
      wanted: pixels of the shorter one.

    Returns:
      places of pixels and their weights, int32 ``[wanted, taps]`` each, and what the weights of each pixel add up to.
    """
    unit = size // math.gcd(size, wanted)
    step = wanted // math.gcd(size, wanted)
    # Pixel i of the shorter line is from i * unit to (i + 1) * unit, where a pixel of the longer one is `step` wide.
    begins = np.arange(wanted) * unit
    taps = max(-(-(begin + unit) // step) - begin // step for begin in begins.tolist())
    pixels = begins[:, None] // step + np.arange(taps)
    ends = np.minimum((pixels + 1) * step, begins[:, None] + unit)
    weights = np.maximum(ends - np.maximum(pixels * step, begins[:, None]), 0)
    return np.minimum(pixels, size - 1).astype(np.int32), weights.astype(np.int32), unit


def halves_up(sums: Any, unit: int) -> Any:
    """Whole numbers >= 0 over a whole number, rounded, halves up; NumPy's or JAX's."""
    return (2 * sums + unit) // (2 * unit)


def smaller(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 ``[..., 84, 84]`` as uint8 ``[..., size, size]``: means over areas, exactly, halves up."""
    if size == FRAME_SHAPE[0]:
        return frames
    pixels, weights, unit = pixel_weights(FRAME_SHAPE[0], size)
    # 255 * unit^2 is below 2^31 for both sizes.
    sums = frames.astype(np.int32)
    for axis in (-1, -2):
        taps = [sums.take(places, axis) for places in pixels.T]
        shape = (-1, *[1] * (-1 - axis))
        parts = [tap * weight.reshape(shape) for tap, weight in zip(taps, weights.T, strict=True)]
        sums = functools.reduce(np.add, parts)
    return halves_up(sums, unit * unit).astype(np.uint8)


def _add_up(values: np.ndarray, taps: _Taps) -> np.ndarray:
    """Weighted sums along the second axis, tap by tap."""
    parts = (
        values[:, pixels] * weights[:, None] for pixels, weights in zip(taps.pixels.T, taps.weights.T, strict=True)
    )
    total = next(parts)
    for part in parts:
        total = total + part
    return total
