"""Stored play with the outputs of another teacher, as if that one had labelled it when it was played.

A teacher that goes on learning leaves its old outputs in the replay. The frames are all there, so its new outputs are
computed from the very stacks that minibatches are made of: on the device, block by block, in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.replay import rings
from pd_jax.replay.rings import FrameRings, ReplayState
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import PolicyApply

_BLOCK_SLOTS = 64
"""Time steps in one call: a second's work for a CPU in Atari, so that a signal is soon heeded."""


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """A replay with new labels.

    Attributes:
      stored: the replay, with a device axis.
      steps: that it holds, in all lanes together.
      changed: share of the decisions among them whose best action is another now.
    """

    stored: ReplayState
    steps: int
    changed: float


class Relabeller:
    """Relabels replays.

    Args:
      apply: ``(variables, observations [N, ...]) -> float32 [N, A]``.
      devices: that hold the replays, split by lane.
    """

    def __init__(self, apply: PolicyApply, devices: DeviceGroup) -> None:
        self._apply = apply
        self._devices = devices
        self._relabel_block = devices.map(self._block, donate=(0,))

    def relabel(self, stored: ReplayState, variables: Any, on_block: Callable[[], None] = lambda: None) -> Relabelled:
        """Replaces ``teacher_q`` of every stored step.

        Steps whose stack is not whole any more (the oldest 3 of a full ring) get the outputs for another stack; they
        are never drawn.

        Args:
          stored: with a device axis; its ``teacher_q`` is donated.
          variables: of the new teacher, without a device axis.
          on_block: called after every block; what it raises leaves ``stored`` unusable.
        """
        num_lanes, capacity = stored.flags.shape[1:]
        position, size = (int(self._devices.first(value)) for value in (stored.position, stored.size))
        # Before the rings have wrapped around, what lies after the newest step is empty.
        end = size if position == size else capacity
        columns = {field.name: getattr(stored, field.name) for field in dataclasses.fields(FrameRings)}
        frames, teacher_q, replicated = FrameRings(**columns), stored.teacher_q, self._devices.replicate(variables)
        totals = np.zeros(2, np.int64)
        for begin in range(0, end, min(_BLOCK_SLOTS, capacity)):
            begins = np.full(self._devices.size, begin, np.int32)
            teacher_q, counts = self._relabel_block(teacher_q, frames, replicated, begins)
            totals += np.asarray(counts).sum(axis=0)
            on_block()
        changed, decisions = totals
        return Relabelled(
            dataclasses.replace(stored, teacher_q=teacher_q),
            steps=size * num_lanes * self._devices.size,
            changed=float(changed / decisions) if decisions else 0.0,
        )

    def _block(self, teacher_q: Array, frames: FrameRings, variables: Any, begin: Array) -> tuple[Array, Array]:
        """One device's block of slots from ``begin`` on.

        Returns:
          ``teacher_q`` ``[L, C, A]``, and int32 ``[2]``: decisions with another best action, and decisions.
        """
        num_lanes, capacity = frames.flags.shape
        length = min(_BLOCK_SLOTS, capacity)
        lanes = jnp.arange(num_lanes)

        def label(slot: Array) -> Array:
            """As many at once as the rollout labels: on most backends the very same bits come out."""
            slots = jnp.full(num_lanes, slot)
            outputs: Array = self._apply(variables, rings.gather(frames, lanes, slots))
            return outputs.astype(teacher_q.dtype)

        # The last block begins early enough to fit, and computes a part of the one before it again.
        start = jnp.minimum(begin, capacity - length)
        slots = start + jnp.arange(length)
        before = lax.dynamic_slice_in_dim(teacher_q, start, length, axis=1)
        after = jnp.swapaxes(lax.map(label, slots), 0, 1)
        flags = lax.dynamic_slice_in_dim(frames.flags, start, length, axis=1)
        decides = ((flags & rings.IS_DECISION) != 0) & (slots >= begin)
        changed = decides & (before.argmax(-1) != after.argmax(-1))
        counts = jnp.stack([changed.sum(), decides.sum()])
        return lax.dynamic_update_slice_in_dim(teacher_q, after, start, axis=1), counts
