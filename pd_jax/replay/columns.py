"""How the steps of a ring lie in a device's memory, so that CPUs, GPUs and TPUs look them up and write them in place.

A column of the rings of ``L`` lanes and ``C`` slots is ``[L, C]`` if a step is a number, and ``[L, C, W]`` if it is a
vector or a frame of ``W`` numbers.

On a TPU that would be copied, all of it and in every call, before a step is looked up or written. It moves tiles of
8 x 128 numbers, and its compiler lays out an array in another order where the last axes do not fill such tiles. There

- vectors of up to 128 numbers share rows: ``[L, N, 128]``, ``k`` steps in a row, in which each has the next power of
  two of places, and ``N`` the next multiple of 8 from ``C / k`` on;
- longer vectors are filled up to whole rows, and these to a multiple of 8;
- frames are lines of pixels that are filled up to whole tiles: ``[L, C, R, 128]``. An Atari frame of 7,056 pixels takes
  7,168, or 1.6 % more.

Columns are made for the platform that is traced for; which of both a column is can be seen from it.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.system.devices import target_platform

_ROWS, _ROW = 8, 128
# Two places for a vector of one number keep the blocks that stored play is worked through in, of 64 steps, whole rows.
_FEWEST_PLACES = 2
_IN_BOUNDS = "promise_in_bounds"


def stored_shape(capacity: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one lane of a column, on the platform that is traced for.

    Args:
      capacity: C.
      shape: of a step: ``()``, ``(D,)`` or ``(H, W)``.

    Raises:
      ValueError: the step has more axes.
    """
    if len(shape) > 2:
        raise ValueError(f"a step of shape {shape} is neither a number nor a vector nor a frame")
    if target_platform() != "tpu" or not shape:
        return (capacity, math.prod(shape)) if shape else (capacity,)
    return _tiled_shape(capacity, shape)


def slots_of(column: Any, shape: tuple[int, ...]) -> int:
    """The slots that a column of all lanes has: C, or a few more on a TPU."""
    return int(column.shape[1]) * _per_row(column, shape)


def take(column: Array, lanes: Array, slots: Array, shape: tuple[int, ...]) -> Array:
    """Looks steps up, without bounds checks: all must be in range.

    Args:
      column: of all lanes.
      lanes, slots: int32 of any one shape ``[...]``.
      shape: of a step.

    Returns:
      ``[...]`` of numbers, ``[..., D]`` of vectors. Of frames the pixels in one line, which may be filled up, for
      :func:`to_frames`.
    """
    per_row = _per_row(column, shape)
    if per_row == 1:
        steps = column.at[lanes, slots].get(mode=_IN_BOUNDS)
        if column.ndim == 4:
            steps = steps.reshape(*steps.shape[:-2], -1)
        return steps[..., : shape[0]] if len(shape) == 1 else steps
    # What is smaller than a row is looked up one after another, and arrays with shorter rows would be copied.
    rows = column.at[lanes, slots // per_row].get(mode=_IN_BOUNDS)
    steps = rows.reshape(*slots.shape, per_row, _ROW // per_row)[..., : shape[0]]
    is_wanted = jnp.arange(per_row) == (slots % per_row)[..., None]
    return jnp.where(is_wanted[..., None], steps, jnp.zeros((), steps.dtype)).sum(axis=-2, dtype=steps.dtype)


def to_frames(pixels: Any, shape: tuple[int, ...]) -> Any:
    """Frames ``[..., H, W]`` from what :func:`take` gives of them; NumPy's or JAX's."""
    return pixels[..., : math.prod(shape)].reshape(*pixels.shape[:-1], *shape)


def write(column: Array, rollout: Array, position: Array, capacity: int) -> Array:
    """Writes a rollout of all lanes into a column, around the end of the rings.

    Two blocks of slots, one that ends at the latest with the ring and one from its start on, are read, merged and put
    back. Of a rollout rotated by the number of steps past the end, both take their share. Unlike a scatter these
    are contiguous copies on every backend, and unlike a branch they leave XLA no reason to copy the ring.

    Args:
      column: donate it, or all of it is copied.
      rollout: ``[T, L, *shape]`` of the column's dtype, ``T <= C``.
      position: int32, the slot of its first step.
      capacity: C.
    """
    length, shape = rollout.shape[0], rollout.shape[2:]
    per_row = _per_row(column, shape)
    if per_row > 1:
        return _write_rows(column, rollout, position, capacity)
    start = jnp.minimum(position, capacity - length)
    overhang = position - start
    rotated = jnp.swapaxes(jnp.roll(_filled_up(rollout, column), overhang, axis=0), 0, 1)
    is_past_end = (jnp.arange(length) < overhang).reshape(1, length, *[1] * (column.ndim - 2))
    column = _merge(column, rotated, ~is_past_end, start)
    return _merge(column, rotated, is_past_end, jnp.zeros_like(start))


def block(column: Array, start: Array, length: int, shape: tuple[int, ...]) -> Array:
    """A stretch of vectors of all lanes, ``[L, length, D]``.

    Args:
      column: of all lanes.
      start: int32, the first slot; where steps share rows, of a whole row, as is ``length``.
      length: in slots.
      shape: of a step.
    """
    per_row = _per_row(column, shape)
    rows = lax.dynamic_slice_in_dim(column, start // per_row, length // per_row, axis=1)
    return rows.reshape(len(column), length, -1)[..., : shape[0]]


def set_block(column: Array, start: Array, values: Array) -> Array:
    """Puts ``values`` where :func:`block` of the same start found such."""
    num_lanes, length, *shape = values.shape
    per_row = _per_row(column, tuple(shape))
    padded = _padded(values, column.shape[-1] // per_row)
    rows = padded.reshape(num_lanes, length // per_row, column.shape[-1])
    return lax.dynamic_update_slice_in_dim(column, rows, start // per_row, axis=1)


def to_steps(column: np.ndarray, capacity: int, shape: tuple[int, ...]) -> np.ndarray:
    """A column on the host without what fills it up: ``[..., L, C]`` of numbers, else ``[..., L, C, W]``.

    Args:
      column: ``[..., L, *stored]``, stored in either way.
      capacity: C.
      shape: of a step.
    """
    if not shape or column.shape[-2:] == (capacity, math.prod(shape)):
        return column
    stored = _tiled_shape(capacity, shape)
    leading = column.shape[: column.ndim - len(stored)]
    per_row = _ROW // _places(shape) if _is_short(shape) else 1
    steps = column.reshape(*leading, stored[0] * per_row, -1)
    return steps[..., :capacity, : math.prod(shape)]


def from_steps(steps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A column as it is stored on the platform that is traced for, from what :func:`to_steps` gave."""
    if not shape:
        return steps
    *leading, capacity, width = steps.shape
    stored = stored_shape(capacity, shape)
    if stored == (capacity, width):
        return steps
    per_row = _ROW // _places(shape) if _is_short(shape) else 1
    column = np.zeros((*leading, stored[0] * per_row, math.prod(stored[1:]) // per_row), steps.dtype)
    column[..., :capacity, :width] = steps
    return column.reshape(*leading, *stored)


def _tiled_shape(capacity: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """As :func:`stored_shape`, of a vector or a frame on a TPU."""
    if len(shape) == 2:
        return capacity, _whole(math.prod(shape), _ROWS * _ROW) // _ROW, _ROW
    if not _is_short(shape):
        return _whole(capacity, _ROWS), _whole(shape[0], _ROW)
    return _whole(math.ceil(capacity / (_ROW // _places(shape))), _ROWS), _ROW


def _whole(number: int, unit: int) -> int:
    """The next multiple of a unit."""
    return math.ceil(number / unit) * unit


def _per_row(column: Any, shape: tuple[int, ...]) -> int:
    """How many steps share a row of a column: a power of two, at most 64; 1 for all but short vectors on a TPU."""
    if not _is_short(shape) or column.shape[-1] == shape[0]:
        return 1
    return _ROW // _places(shape)


def _is_short(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and shape[0] <= _ROW


def _places(shape: tuple[int, ...]) -> int:
    """That a short vector has in a row."""
    return max(_FEWEST_PLACES, 1 << (shape[0] - 1).bit_length())


def _filled_up(rollout: Array, column: Array) -> Array:
    """A rollout ``[T, L, *shape]`` in the shape that steps have in a column, ``[T, L, ...]``."""
    if rollout.ndim == 2:
        return rollout
    leading, stored = rollout.shape[:2], column.shape[2:]
    return _padded(rollout.reshape(*leading, -1), math.prod(stored)).reshape(*leading, *stored)


def _padded(values: Array, width: int) -> Array:
    """Values ``[A, B, W]`` with zeros behind them, ``[A, B, width]``."""
    return jnp.pad(values, ((0, 0), (0, 0), (0, width - values.shape[-1])))


def _write_rows(column: Array, rollout: Array, position: Array, capacity: int) -> Array:
    """As :func:`write`, where steps share rows: blocks are of whole ones."""
    length, shape = rollout.shape[0], rollout.shape[2:]
    per_row, rows = _per_row(column, shape), column.shape[1]
    # Wherever a rollout begins within a row.
    block_rows = min(rows, (length - 1) // per_row + 2)
    size, places = block_rows * per_row, _ROW // per_row
    steps = jnp.pad(jnp.swapaxes(_padded(rollout, places), 0, 1), ((0, 0), (0, size - length), (0, 0)))
    start_row = jnp.minimum(position // per_row, rows - block_rows)
    start = start_row * per_row
    slots = start + jnp.arange(size)

    def put(column: Array, turn: Array, is_written: Array, row: Array) -> Array:
        turned = jnp.roll(steps, turn, axis=1).reshape(len(column), block_rows, _ROW)
        return _merge(column, turned, jnp.repeat(is_written, places).reshape(1, block_rows, _ROW), row)

    is_written = (slots >= position) & (slots < jnp.minimum(position + length, capacity))
    column = put(column, position - start, is_written, start_row)
    is_past_end = jnp.arange(size) < position + length - capacity
    return put(column, position - capacity, is_past_end, jnp.zeros_like(start_row))


def _merge(column: Array, steps: Array, is_written: Array, start: Array) -> Array:
    """Puts those of ``steps`` ``[L, n, ...]`` that are written into a column, from a slot (or row) on.

    Args:
      column: ``[L, N, ...]``.
      steps: what to put.
      is_written: bool, broadcasts to the shape of ``steps``.
      start: int32, the first slot.
    """
    stored = lax.dynamic_slice_in_dim(column, start, steps.shape[1], axis=1)
    merged = jnp.where(is_written, steps, stored)
    if target_platform() == "tpu":
        # Fused into the write, what is read of the column would be read of a copy.
        merged = lax.optimization_barrier(merged)
    return lax.dynamic_update_slice_in_dim(column, merged, start, axis=1)
