"""Sequences of stored play, for students with memory: where they are, and what their steps show.

A window is ``burn_in`` steps that are gone through to remember, and ``length`` steps that are learnt from. It may reach
over the end of an episode, where the memory is set back.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.replay import rings
from pd_jax.replay.rings import FrameRings


class Stretch(NamedTuple):
    """Stretches of stored play that do not follow one another.

    Attributes:
      length: steps of each lane that each has.
      before: steps at the beginning of each that are not learnt from.
    """

    length: int
    before: int


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which windows there are.

    Attributes:
      length: steps of a sequence that are learnt from.
      burn_in: steps before these.
      segment: 0 where the steps of a lane all follow one another. Otherwise the rings hold stretches of so many steps
        that do not, and windows keep within these: those whose sequences are the parts of ``length`` steps that the
        last ``segment - before`` steps of a stretch fall into, so that each step is in one sequence.
      before: steps at the beginning of a stretch that are not learnt from.
    """

    length: int
    burn_in: int
    segment: int = 0
    before: int = 0

    @property
    def steps(self) -> int:
        """Of a window."""
        return self.burn_in + self.length


def place(
    state: FrameRings, windows: Windows, key: Array, count: int, *, num_groups: int = 1, first_group: int | Array = 0
) -> tuple[Array, Array]:
    """Draws windows with replacement, each as likely as every other.

    Where steps follow one another, a window begins anywhere from the oldest step whose stack is whole; so the first and
    the last steps that are stored are in fewer windows than others.

    Args:
      state: the store; it holds a window, or what is past its end does not count, see :func:`is_learnt`.
      windows: which there are.
      key: a PRNG key.
      count: S, sequences.
      num_groups, first_group: as for `pd_jax.replay.rings.place`; the groups divide S.

    Returns:
      lanes, and the slots of the first steps of the sequences (after the burn-in), int32 ``[S]`` each.
    """
    num_lanes, capacity = state.flags.shape
    if num_lanes % num_groups or count % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {num_lanes} lanes and {count} sequences")
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(first_group + jnp.arange(num_groups))
    bits = jax.vmap(lambda key: jax.random.bits(key, (3, count // num_groups), jnp.uint32))(keys)
    per_group = num_lanes // num_groups
    lanes = _below(bits[:, 0], per_group) + per_group * jnp.arange(num_groups)[:, None]
    if windows.segment:
        parts = (windows.segment - windows.before) // windows.length
        stretches = jnp.maximum(state.size // windows.segment, 1)
        ages = _below(bits[:, 1], stretches) * windows.segment + _below(bits[:, 2], parts) * windows.length
        ages = ages + windows.before
    else:
        most = jnp.maximum(state.size - windows.steps, 0)
        first = jnp.minimum(rings.reach(state), most)
        ages = first + _below(bits[:, 1], most - first + 1) + windows.burn_in
    return lanes.ravel(), ((state.position - state.size + ages) % capacity).ravel()


def slots_of(state: FrameRings, starts: Array, first: int, count: int) -> Array:
    """Slots of ``count`` steps of each sequence from the one numbered ``first`` on, int32 ``[S, count]``.

    Args:
      state: the store.
      starts: int32 ``[S]``, as from :func:`place`.
      first: 0 is the first step that is learnt from; those of the burn-in are before it.
      count: steps.
    """
    return (starts[:, None] + first + jnp.arange(count)) % state.capacity


def is_learnt(state: FrameRings, lanes: Array, starts: Array, length: int) -> Array:
    """Which steps of sequences are decisions that are stored, bool ``[S, length]``."""
    slots = slots_of(state, starts, 0, length)
    # Of a store that does not hold a window yet, the end is not there.
    is_stored = (starts - (state.position - state.size))[:, None] % state.capacity + jnp.arange(length) < state.size
    return rings.has_flag(state, lanes[:, None], slots, rings.IS_DECISION) & is_stored


def observe(state: FrameRings, lanes: Array, slots: Array) -> tuple[Array, Array]:
    """What some steps show, and where they open an episode.

    Args:
      state: the store.
      lanes: int32 ``[S]``.
      slots: int32 ``[S, T]``.

    Returns:
      observations ``[S, T, ...]``, stacked as `pd_jax.replay.rings.gather` does, and bool ``[S, T]``.
    """
    of_steps = jnp.broadcast_to(lanes[:, None], slots.shape)
    seen = rings.gather(state, of_steps.ravel(), slots.ravel())
    return seen.reshape(*slots.shape, *seen.shape[1:]), rings.has_flag(state, of_steps, slots, rings.IS_FIRST)


def _below(bits: Array, count: int | Array) -> Array:
    """Numbers from 0 up to ``count``, as evenly as `pd_jax.replay.rings` draws them."""
    return (bits % jnp.asarray(count).astype(jnp.uint32)).astype(jnp.int32)
