"""Temperatures that are found from the play: those at which a teacher's policy has a given mean entropy.

The entropy of ``softmax(q / τ)`` rises with τ, from 0 (if no best actions are equal) to the logarithm of the number of
actions, in every state and so in the mean. That makes τ the root of a monotone function, and a measure of the outputs'
scale: outputs that are multiplied by c have c times the τ, and ``q / τ`` stays what it was. With a power of two for c
it stays so to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax import losses
from pd_jax.learner.objective import AutoTemperature
from pd_jax.learner.rule import LearnerState
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import AXIS, DeviceGroup

SAMPLES = 4096
"""Stored steps of a game, drawn with replacement, whose mean entropy is taken."""
# Of τ over the largest gap, in powers of two. Where τ is smaller, float32 gaps are 0 or certain.
_LOWEST, _HIGHEST = -40.0, 20.0
# Halvings of that range that leave less of it than float32 can tell apart.
_HALVINGS = 40


def temperature_of(teacher_q: Array, mask: Array, target: Array) -> tuple[Array, Array]:
    """The temperature at which the teacher's policy has a given entropy, in the mean over some states.

    It is found by bisection in the logarithm of τ over the largest gap between two outputs of one state.

    Args:
      teacher_q: float32 ``[G, N, A]``, outputs of the teachers of G games.
      mask: bool ``[G, A]``, True where the game has the action.
      target: float32 ``[G]``, mean entropies in nats, above 0 and below the logarithm of the number of actions.

    Returns:
      ``(temperature, entropy)``, float32 ``[G]`` each: τ > 0, and the mean entropy at it. That is above the target
      where so many best actions are equal that no temperature has less. Where all outputs are equal in all states, or
      there is one action, every temperature is as good, and it is 1.
    """
    mask = mask[:, None, :]
    best = jnp.max(jnp.where(mask, teacher_q, -jnp.inf), axis=-1, keepdims=True)
    gaps = jnp.where(mask, teacher_q - best, 0.0)
    scale = jnp.max(-gaps, axis=(1, 2))
    has_gaps = scale > 0.0
    scale = jnp.where(has_gaps, scale, 1.0)
    gaps = gaps / scale[:, None, None]

    def entropy(power: Array) -> Array:
        each = losses.policy_entropy(gaps, temperature=jnp.exp2(power)[:, None, None], mask=mask)
        return each.mean(axis=1)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2.0
        is_less = entropy(middle) < target
        return jnp.where(is_less, middle, low), jnp.where(is_less, high, middle)

    low, high = jnp.full_like(scale, _LOWEST), jnp.full_like(scale, _HIGHEST)
    _, power = lax.fori_loop(0, _HALVINGS, halve, (low, high))
    power = jnp.where(has_gaps, power, 0.0)
    return scale * jnp.exp2(power), entropy(power)


def sample_outputs(stored: ReplayState, num_actions: int, devices: DeviceGroup, key: Array) -> Array:
    """Outputs of stored decisions, drawn from the replays of all devices.

    They are the same, and in the same order, for any number of devices that the lanes could be dealt out to.

    Args:
      stored: a game's replay on one device.
      num_actions: A, as wide as the outputs become; zeros follow those that the game has.
      devices: on which this is mapped.
      key: the same on all.

    Returns:
      float32 ``[N, A]``, N about ``SAMPLES``; the same on every device.
    """
    share = max(1, SAMPLES // devices.size)
    groups = math.gcd(stored.flags.shape[0], share)
    first_group = lax.axis_index(AXIS) * groups
    lanes, slots = rings.place(stored, key, share, num_groups=groups, first_group=first_group)
    outputs = rings.take(stored, "teacher_q", lanes, slots)
    outputs = jnp.pad(outputs, ((0, 0), (0, num_actions - outputs.shape[-1])))
    everything: Array = lax.all_gather(outputs, AXIS, tiled=True)
    return everything


def settle(
    auto: AutoTemperature,
    mask: Array,
    devices: DeviceGroup,
    state: LearnerState,
    stored: Sequence[ReplayState],
    *,
    games: tuple[int, ...],
) -> tuple[LearnerState, tuple[Array, Array]]:
    """Finds the temperatures of some games from what their replays hold; what one device does.

    The keys of the sampling are the same in all runs, so that students of one recording, whatever their seeds, have the
    same temperature.

    Args:
      auto: of the run.
      mask: bool ``[G, A]``.
      devices: on which this is mapped.
      state: of the learner.
      stored: a replay for each game.
      games: places of those whose temperature is found; their replays are not empty.

    Returns:
      the state with these temperatures, and what :func:`temperature_of` gives of ``games``.
    """
    keys = jax.random.split(jax.random.key(0), len(stored))
    outputs = jnp.stack([sample_outputs(stored[game], mask.shape[-1], devices, keys[game]) for game in games])
    places = jnp.array(games)
    found, entropy = temperature_of(outputs, mask[places], jnp.asarray(auto.target, jnp.float32)[places])
    assert state.temperature is not None
    temperature = state.temperature.at[places].set(found)
    return dataclasses.replace(state, temperature=temperature), (found, entropy)
