"""Stored play with the outputs of another teacher, as if that one had labelled it when it was played.

A teacher that goes on learning leaves its old outputs in the replay. The frames are all there, so its new outputs are
computed from the very stacks that minibatches are made of: on the device, block by block, in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.replay import columns, rings
from pd_jax.replay.rings import ReplayState
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
          stored: with a device axis; donated.
          variables: of the new teacher, without a device axis.
          on_block: called after every block; what it raises leaves ``stored`` unusable.
        """
        num_lanes, capacity = stored.flags.shape[1:]
        position, size = (int(self._devices.first(value)) for value in (stored.position, stored.size))
        # Before the rings have wrapped around, what lies after the newest step is empty.
        end = size if position == size else capacity
        replicated = self._devices.replicate(variables)
        totals = np.zeros(2, np.int64)
        for begin in range(0, end, _BLOCK_SLOTS):
            begins = np.full(self._devices.size, begin, np.int32)
            teacher_q, counts = self._relabel_block(*_apart(stored), replicated, begins)
            stored = dataclasses.replace(stored, teacher_q=teacher_q)
            totals += np.asarray(counts).sum(axis=0)
            on_block()
        changed, decisions = totals
        return Relabelled(
            stored,
            steps=size * num_lanes * self._devices.size,
            changed=float(changed / decisions) if decisions else 0.0,
        )

    def lower(self, stored: ReplayState, variables: Any) -> jax.stages.Lowered:
        """What :meth:`relabel` runs for each block, before it is compiled; arguments may be shapes."""
        begins = jax.ShapeDtypeStruct((len(stored.flags),), jnp.int32)
        lowered: jax.stages.Lowered = self._relabel_block.lower(*_apart(stored), variables, begins)
        return lowered

    def _block(self, teacher_q: Array, others: ReplayState, variables: Any, begin: Array) -> tuple[Array, Array]:
        """One device's block of slots from ``begin`` on.

        Only the labels are handed over and given back: on a CPU all else would be copied on its way through.

        Returns:
          the labels, and int32 ``[2]``: decisions with another best action, and decisions.
        """
        stored = dataclasses.replace(others, teacher_q=teacher_q)
        num_lanes, capacity = stored.flags.shape
        shape = stored.step_shapes["teacher_q"]
        # Where steps share rows, the last row may reach past the end of the rings; there, the last step stands in.
        slots_stored = columns.slots_of(stored.teacher_q, shape)
        length = min(_BLOCK_SLOTS, slots_stored)
        lanes = jnp.arange(num_lanes)

        def label(slot: Array) -> Array:
            """As many at once as the rollout labels: on most backends the very same bits come out."""
            slots = jnp.full(num_lanes, slot)
            outputs: Array = self._apply(variables, rings.gather(stored, lanes, slots))
            return outputs.astype(stored.teacher_q.dtype)

        # The last block begins early enough to fit, and computes a part of the one before it again.
        start = jnp.minimum(begin, slots_stored - length)
        slots = start + jnp.arange(length)
        within = jnp.minimum(slots, capacity - 1)
        before = columns.block(stored.teacher_q, start, length, shape)
        after = jnp.swapaxes(lax.map(label, within), 0, 1)
        is_decision = rings.has_flag(stored, lanes[:, None], within[None], rings.IS_DECISION)
        decides = is_decision & (slots >= begin) & (slots < capacity)
        changed = decides & (before.argmax(-1) != after.argmax(-1))
        counts = jnp.stack([changed.sum(), decides.sum()])
        return columns.set_block(stored.teacher_q, start, after), counts


def _apart(stored: ReplayState) -> tuple[Array, ReplayState]:
    """The labels, and all else."""
    others: Any = None
    return stored.teacher_q, dataclasses.replace(stored, teacher_q=others)
