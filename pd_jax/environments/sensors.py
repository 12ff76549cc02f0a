"""What a student senses of a stream of time steps: `Senses` computed, purely and to be traced.

Everything is by lane. What a lane senses depends on its own steps and on the key of each step, and not on who plays,
nor on the groups that lanes are stepped in.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.screens import halves_up, pixel_weights
from pd_jax.environments.senses import FULL_SIZE, Senses
from pd_jax.types import LaneRange


@flax.struct.dataclass
class SensorState:
    """What the sensors of ``L`` lanes hold.

    Attributes:
      history: ``[L, stack, *sample]``, the samples of the observation, oldest first.
      under_way: ``[L, delay, *sample]``, samples that have not arrived, oldest first.
    """

    history: Array
    under_way: Array


def start(senses: Senses, num_lanes: int) -> SensorState:
    """The state before the first step, which opens an episode in every lane."""
    shape = senses.sample_shape
    return SensorState(
        jnp.zeros((num_lanes, senses.stack, *shape), senses.dtype),
        jnp.zeros((num_lanes, senses.delay, *shape), senses.dtype),
    )


def sense(
    senses: Senses,
    state: SensorState,
    shown: Array,
    is_first: Array,
    key: Array,
    lanes: LaneRange | None = None,
    also: Array | None = None,
) -> SensorState:
    """Takes in a step.

    Args:
      senses: what is sensed.
      state: of the lanes.
      shown: what they show: stacks uint8 ``[L, 84, 84, n]``, newest frame last, or vectors float32 ``[L, D]``.
      is_first: bool ``[L]``, it opens an episode: nothing of the one before is sensed any more.
      key: PRNG key of this step's noise and losses, for all lanes.
      lanes: which of those that the key is for these are; all of them by default.
      also: the consoles' memory, float32 ``[L, 128]`` from 0 to 1, for senses that have it beside frames.

    Returns:
      the state after it.
    """
    noise_key, loss_key = jax.random.split(key)
    lanes = lanes or LaneRange(0, len(is_first), len(is_first))
    sample = _with_noise(senses, chosen(senses, shown), noise_key, lanes)
    if senses.num_also:
        assert also is not None
        sample = jnp.concatenate([sample.reshape(len(sample), -1), _bytes(senses, also)], axis=1)
    begins = is_first.reshape(-1, *[1] * sample.ndim)
    arrived, under_way = sample, state.under_way
    if senses.delay:
        under_way = jnp.where(begins, sample[:, None], under_way)
        arrived, under_way = under_way[:, 0], jnp.concatenate([under_way[:, 1:], sample[:, None]], axis=1)
    if senses.missing:
        is_lost = lanes.of(jax.random.uniform(loss_key, (lanes.total,))) < senses.missing
        is_held = (is_lost & ~is_first).reshape(-1, *[1] * (sample.ndim - 1))
        arrived = jnp.where(is_held, state.history[:, -1], arrived)
    history = jnp.concatenate([state.history[:, 1:], arrived[:, None]], axis=1)
    return SensorState(jnp.where(begins, arrived[:, None], history), under_way)


def chosen(senses: Senses, shown: Any) -> Array:
    """The samples of some steps as they leave the sensors, without noise.

    Args:
      senses: what is sensed.
      shown: stacks uint8 ``[..., 84, 84, n]``, newest frame last, or vectors float32 ``[..., D]``.

    Returns:
      ``[..., *sample]``.
    """
    if senses.sees_frames:
        return smaller(shown[..., -1], senses.size)
    vectors: Array = jnp.asarray(shown)
    return vectors if senses.components is None else vectors[..., np.array(senses.components)]


def newest(state: SensorState) -> Array:
    """The newest sample of every lane, ``[L, *sample]``: what a replay stores of the step."""
    return state.history[:, -1]


def observation(senses: Senses, state: SensorState) -> Array:
    """What a student sees now: ``[L, size, size, frames]``, oldest frame first, or ``[L, window x numbers]``; with a
    memory beside, lines ``[L, frames x (size x size + bytes)]``."""
    history = state.history
    return history.transpose(0, 2, 3, 1) if history.ndim == 4 else history.reshape(len(history), -1)


def smaller(frames: Any, size: int) -> Array:
    """Frames uint8 ``[..., 84, 84]`` as uint8 ``[..., size, size]``: means over areas, exactly, halves up.

    In whole numbers, so that every platform gives the same bits; `pd_jax.environments.screens.smaller` is the same of
    NumPy's.
    """
    frames = jnp.asarray(frames)
    if size == FULL_SIZE:
        return frames
    pixels, weights, unit = pixel_weights(FULL_SIZE, size)
    sums = frames.astype(jnp.int32)
    for axis in (-1, -2):
        moved = jnp.moveaxis(sums, axis, -1)
        sums = jnp.moveaxis((moved[..., pixels] * weights).sum(axis=-1), -1, axis)
    return halves_up(sums, unit * unit).astype(jnp.uint8)


def _bytes(senses: Senses, memory: Array) -> Array:
    """The bytes of the memory that are sensed, uint8 ``[L, bytes]``, from numbers of 0 to 1."""
    places = senses.also_components
    numbers = memory if places is None else memory[:, np.array(places)]
    return jnp.round(numbers * 255.0).astype(jnp.uint8)


def _with_noise(senses: Senses, sample: Array, key: Array, lanes: LaneRange) -> Array:
    if not senses.is_noisy:
        return sample
    deviations = jnp.asarray(senses.noise, jnp.float32)
    noise = deviations * lanes.of(jax.random.normal(key, (lanes.total, *sample.shape[1:])))
    if senses.sees_frames:
        return jnp.clip(jnp.round(sample + noise), 0, 255).astype(jnp.uint8)
    return sample + noise
