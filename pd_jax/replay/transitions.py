"""The replay of Q-learning: frames stored once, and transitions rebuilt from neighbouring slots.

A slot holds what a lane saw at one step, what it did there and what that paid; what it saw next is in the slot after.
No observation is stored twice: a step of Atari takes 7,065 bytes, against 56,457 for two stacks of four frames.
"""

from __future__ import annotations

import chex
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.replay import rings
from pd_jax.replay.rings import FrameRings

IS_TERMINAL = 4
"""Beside ``replay.IS_FIRST`` and ``replay.IS_DECISION``: nothing follows this observation, and its value is 0."""


@flax.struct.dataclass
class TransitionState(FrameRings):
    """What Q-learning learns from: `pd_jax.replay.rings.FrameRings` with what was done at each step.

    Attributes:
      actions: int32 ``[L, C]``.
      rewards: float32 ``[L, C]``, for acting on the observation of the same slot.
    """

    actions: Array
    rewards: Array

    @property
    def step_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one step in each column, by the column's name."""
        return {**super().step_shapes, "actions": (), "rewards": ()}


@flax.struct.dataclass
class Steps:
    """A stretch of play, time-major, ``T`` steps of ``L`` lanes.

    Attributes:
      observations: newest frames uint8 ``[T, L, H, W]``, or vectors ``[T, L, D]``.
      opens_game: bool ``[T, L]``, the observation opens a game, so that its stack is four copies of it. Where only an
        episode begins, after a lost life, EnvPool's stack goes on.
      is_last: bool ``[T, L]``, it closes one, whether that ended by itself or was cut off: nothing was decided there,
        for EnvPool ignores the action and resets.
      is_terminal: bool ``[T, L]``, it closes an episode that ended by itself.
      actions: int32 ``[T, L]``.
      rewards: float32 ``[T, L]``, for acting on the observation of the same index.
    """

    observations: Array
    opens_game: Array
    is_last: Array
    is_terminal: Array
    actions: Array
    rewards: Array


@flax.struct.dataclass
class Transitions:
    """A minibatch of ``B`` steps of Q-learning.

    Attributes:
      observations, next_observations: ``[B, H, W, 4]``, oldest frame first, or ``[B, D]``.
      actions: int32 ``[B]``.
      rewards: float32 ``[B]``.
      is_terminal: bool ``[B]``, the episode ended by itself in ``next_observations``: they are worth nothing. Where it
        was only cut off, they are what it would have gone on from.
    """

    observations: Array
    next_observations: Array
    actions: Array
    rewards: Array
    is_terminal: Array


def init(
    num_lanes: int,
    capacity_per_lane: int,
    observation_shape: tuple[int, ...],
    observation_dtype: jax.typing.DTypeLike,
) -> TransitionState:
    """Returns an empty store; the arguments are those of `pd_jax.replay.rings.init`."""
    slots = (num_lanes, capacity_per_lane)
    common = rings.allocate(*slots, observation_shape, observation_dtype)
    return TransitionState(**common, actions=jnp.zeros(slots, jnp.int32), rewards=jnp.zeros(slots, jnp.float32))


def insert(state: TransitionState, steps: Steps) -> TransitionState:
    """Appends a stretch of play that continues the one before, over the oldest steps once the rings are full.

    Args:
      state: donate it, or all of it is copied.
      steps: no longer than the rings.

    Raises:
      AssertionError, ValueError: as `pd_jax.replay.rings.append`.
    """
    chex.assert_equal_shape([steps.opens_game, steps.is_last, steps.is_terminal, steps.actions, steps.rewards])
    bits = (rings.IS_FIRST, steps.opens_game), (rings.IS_DECISION, ~steps.is_last), (IS_TERMINAL, steps.is_terminal)
    flags = sum((bit * holds.astype(jnp.uint8) for bit, holds in bits), jnp.zeros(steps.is_last.shape, jnp.uint8))
    return rings.append(state, steps.observations, flags, actions=steps.actions, rewards=steps.rewards)


def sample(state: TransitionState, key: Array, batch_size: int) -> Transitions:
    """Draws transitions uniformly, with replacement, among all whose two observations can be rebuilt.

    Terminal observations are no transitions, and neither are the resets that follow them; nor, as yet, is the newest
    step of each lane.

    Args:
      state: at least one transition must be stored; otherwise the batch holds arbitrary slots.
      key: a PRNG key.
      batch_size: B.
    """
    lanes, slots = rings.draw(state, key, batch_size, following=1)
    next_slots = (slots + 1) % state.capacity
    return Transitions(
        # The second stack reaches no further back than the first: one step less, or to the same start.
        observations=rings.gather(state, lanes, slots),
        next_observations=rings.gather(state, lanes, next_slots),
        actions=rings.take(state, "actions", lanes, slots),
        rewards=rings.take(state, "rewards", lanes, slots),
        is_terminal=rings.has_flag(state, lanes, next_slots, IS_TERMINAL),
    )
