"""What passes between the parts: policies, rollouts and minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
from jax import lax

__all__ = ["Batch", "LaneRange", "PolicyApply", "Trajectory"]

PolicyApply = Callable[..., Any]
"""``(variables, observations [L, ...]) -> float32 [L, actions]``: Q-values or logits."""


class LaneRange(NamedTuple):
    """Some of the lanes that play side by side: those from ``start`` up to ``stop``, of ``total``."""

    start: int
    stop: int
    total: int

    def of(self, values: jax.Array) -> jax.Array:
        """Theirs among the values of all, ``[total, ...]``."""
        return lax.slice_in_dim(values, self.start, self.stop)


@flax.struct.dataclass
class Trajectory:
    """A stretch of play: time-major, ``T`` steps of ``L`` lanes.

    Attributes:
      observations: the newest frame seen at each step, uint8 ``[T, L, 84, 84]`` (Atari), or float32 ``[T, L, D]``.
        Frame stacks are rebuilt from these by the replay. Of a student with senses of its own, what it sensed.
      is_first: bool ``[T, L]``, the observation opens an episode, so its stack is four copies of it.
      is_decision: bool ``[T, L]``, False on terminal observations. EnvPool resets a lane in the step *after* its
        terminal observation and ignores the action of that step: nothing was decided there.
      actions: int32 ``[T, L]``, or of a continuous task float32 ``[T, L, components]``.
      rewards: float32 ``[T, L]``, unclipped, for acting on the observation of the same index.
      teacher_q: float32 ``[T, L, A]``, the teacher's Q-values (or logits) for the observation of the same index; of a
        continuous task its outputs, as `pd_jax.networks.continuous` has them.
      sensed: what a student with senses of its own sensed at each step, ``[T, L, ...]``, of play that holds both: then
        ``observations`` are what the task shows.
    """

    observations: jax.Array
    is_first: jax.Array
    is_decision: jax.Array
    actions: jax.Array
    rewards: jax.Array
    teacher_q: jax.Array
    sensed: jax.Array | None = None


@flax.struct.dataclass
class Batch:
    """A minibatch for the student: of G games, or of one, then without the game axis.

    Attributes:
      observations: uint8 ``[G, B, 84, 84, 4]``, oldest frame first, or float32 ``[G, B, D]`` with D the length of the
        longest vector; shorter ones are followed by zeros.
      teacher_q: float32 ``[G, B, A]`` with A the size of the widest action set; 0 where a game has no such action.
      weights: float32 ``[G, B]``, what each example counts; None has all count the same.
      is_first: of a student with memory, bool ``[G, B, T]``, where an episode opens: an example is then a sequence of
        ``T`` steps, and all arrays have an axis ``T`` behind ``B``. Otherwise None, as are the next two.
      counts: float32 ``[G, B, T]``, what each step counts in what is measured: 0 where nothing was decided.
      before: observations ``[G, B, U, ...]`` and ``is_first`` ``[G, B, U]`` of the ``U`` steps before each sequence.
    """

    observations: jax.Array
    teacher_q: jax.Array
    weights: jax.Array | None = None
    is_first: jax.Array | None = None
    counts: jax.Array | None = None
    before: tuple[jax.Array, jax.Array] | None = None
