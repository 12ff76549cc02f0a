"""The on-device store of play: every frame once, stacks rebuilt exactly when a minibatch is drawn.

A lane is one environment. Each lane owns a ring of ``C`` slots, written a whole rollout at a time, so all lanes share
one write position. EnvPool's 4-stack is the last four frames of the episode, padded at its start with copies of the
first one; a step therefore costs one 84x84 frame instead of four, plus its flags and the teacher's outputs. At the
paper's size, 540,000 steps of one game, that is 3.8 GB.

`pd_jax.replay.columns` says how all of it lies in memory.

``FrameRings`` is what every store of play has, and ``allocate``, ``append``, ``draw`` and ``gather`` work on any; a
``ReplayState`` keeps the teacher's outputs beside it, for distillation.

Everything here is pure and jittable, and moves nothing between host and device. Donate the state to ``insert``
(``jax.jit(insert, donate_argnums=0)``): the rollout is then written in place, whatever the capacity.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.replay import columns
from pd_jax.system.devices import target_platform
from pd_jax.types import Batch, Trajectory

STACK = 4
IS_FIRST = 1
IS_DECISION = 2
# Draws per sample wanted. The draws of a batch are pooled, so it can be filled unless three in four are refused, while
# steps that may not be sampled (terminal observations, the oldest 3 slots) are a few in a hundred at the very most.
CANDIDATES = 4
# A group of lanes that gives a single sample has no pool to speak of: of 16 draws all are refused once in 1e16 batches
# even where one in ten is.
FEWEST_CANDIDATES = 16


@flax.struct.dataclass
class FrameRings:
    """Rings of ``C`` slots for ``L`` lanes; the step inserted as number ``t`` from 0 is in slot ``t % C``.

    Attributes:
      observations: newest frames ``(H, W)``, or vectors ``(D,)``, in their own dtype, as `pd_jax.replay.columns` stores
        them; ``[L, ...]``.
      flags: uint8 ``[L, C]``, the sum of ``IS_FIRST`` and ``IS_DECISION`` where they hold; 0 in empty slots. The
        other bits are free for whoever adds to the rings.
      position: int32 scalar, the slot the next step goes to. It and ``size`` never exceed ``C``, so that they cannot
        overflow; a count of all steps ever inserted would.
      size: int32 scalar, how many slots of each lane are filled.
      observation_shape: ``(H, W)`` for frames, ``(D,)`` for vectors.
      stack: steps in an observation, that of the slot and those before it: 4 for frames and 1 for vectors by default.
    """

    observations: Array
    flags: Array
    position: Array
    size: Array
    observation_shape: tuple[int, ...] = flax.struct.field(pytree_node=False)
    stack: int = flax.struct.field(pytree_node=False)

    @property
    def capacity(self) -> int:
        """C, the slots of a lane."""
        return self.flags.shape[-1]

    @property
    def step_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one step in each column, by the column's name."""
        return {"observations": self.observation_shape, "flags": ()}

    @property
    def steps_back(self) -> int:
        """How many steps before its own an example reaches at most."""
        return self.stack - 1


@flax.struct.dataclass
class ReplayState(FrameRings):
    """What a student learns from.

    Attributes:
      teacher_q: float32, the teacher's outputs, vectors ``(A,)``.
      num_actions: A.
      actions: of a student that sees its last actions, what was played at each step: uint8, or of a continuous task
        float32 vectors; None of others.
      last_actions: how many of them it sees.
      action_shape: of one action.
    """

    teacher_q: Array
    num_actions: int = flax.struct.field(pytree_node=False)
    actions: Array | None = None
    last_actions: int = flax.struct.field(pytree_node=False, default=0)
    action_shape: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())

    @property
    def step_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one step in each column, by the column's name."""
        own: dict[str, tuple[int, ...]] = {"teacher_q": (self.num_actions,)}
        if self.actions is not None:
            own["actions"] = self.action_shape
        return {**super().step_shapes, **own}

    @property
    def steps_back(self) -> int:
        """How many steps before its own an example reaches at most."""
        return max(self.stack - 1, self.last_actions)


R = TypeVar("R", bound=FrameRings)


def init(
    num_lanes: int,
    capacity_per_lane: int,
    observation_shape: tuple[int, ...],
    observation_dtype: jax.typing.DTypeLike,
    num_actions: int,
    stack: int | None = None,
    last_actions: int = 0,
    action_shape: tuple[int, ...] = (),
) -> ReplayState:
    """Returns an empty store, allocated in full.

    Args:
      num_lanes: L, the lanes this device holds.
      capacity_per_lane: C, in steps.
      observation_shape: of one step of one lane: ``(84, 84)`` for Atari's newest frame, ``(D,)`` for vectors.
      observation_dtype: of the observations, kept as it is.
      num_actions: A, the width of ``teacher_q``.
      stack: steps in an observation; by default 4 of frames and 1 of vectors.
      last_actions: that the student sees beside; 0 stores no actions.
      action_shape: of one action: ``()`` of a task that chooses among at most 256, ``(D,)`` of a continuous one.

    Raises:
      ValueError: a size is below 1, or ``observation_shape`` is neither a frame nor a vector.
    """
    if num_actions < 1:
        raise ValueError(f"num_actions must be at least 1, got {num_actions}")
    common = allocate(num_lanes, capacity_per_lane, observation_shape, observation_dtype, stack)
    teacher_q = jnp.zeros((num_lanes, *columns.stored_shape(capacity_per_lane, (num_actions,))), jnp.float32)
    if not last_actions:
        return ReplayState(**common, teacher_q=teacher_q, num_actions=num_actions)
    stored = columns.stored_shape(capacity_per_lane, tuple(action_shape))
    return ReplayState(
        **common,
        teacher_q=teacher_q,
        num_actions=num_actions,
        actions=jnp.zeros((num_lanes, *stored), jnp.float32 if action_shape else jnp.uint8),
        last_actions=last_actions,
        action_shape=tuple(action_shape),
    )


def allocate(
    num_lanes: int,
    capacity_per_lane: int,
    observation_shape: tuple[int, ...],
    observation_dtype: jax.typing.DTypeLike,
    stack: int | None = None,
) -> dict[str, Any]:
    """Returns the fields of empty ``FrameRings``, for whoever adds columns to them.

    Args:
      num_lanes, capacity_per_lane, observation_shape, observation_dtype, stack: as for ``init``.

    Raises:
      ValueError: a size is below 1, or ``observation_shape`` is neither a frame nor a vector.
    """
    if len(observation_shape) not in (1, 2):
        raise ValueError(f"observation_shape is {observation_shape}; it must be a frame (H, W) or a vector (D,)")
    if stack is None:
        stack = STACK if len(observation_shape) == 2 else 1
    if min(num_lanes, capacity_per_lane, stack, *observation_shape) < 1:
        raise ValueError("num_lanes, capacity_per_lane and observation_shape must be at least 1")
    stored = columns.stored_shape(capacity_per_lane, tuple(observation_shape))
    return {
        "observations": jnp.zeros((num_lanes, *stored), observation_dtype),
        "flags": jnp.zeros((num_lanes, capacity_per_lane), jnp.uint8),
        "position": jnp.zeros((), jnp.int32),
        "size": jnp.zeros((), jnp.int32),
        "observation_shape": tuple(observation_shape),
        "stack": stack,
    }


def insert(state: ReplayState, trajectory: Trajectory) -> ReplayState:
    """Appends a rollout to every lane, over the oldest steps once the rings are full.

    Consecutive rollouts must continue one another: a frame's predecessors are the slots before it.

    Args:
      state: donate it, or all of it is copied.
      trajectory: ``[T, L, ...]`` with ``T <= C``. ``rewards`` are not kept, and ``actions`` for a student that sees its
        last ones alone.

    Raises:
      AssertionError: shapes or the observations' dtype are not those of ``state``.
      ValueError: the rollout is longer than the rings.
    """
    flags = IS_FIRST * trajectory.is_first.astype(jnp.uint8) + IS_DECISION * trajectory.is_decision.astype(jnp.uint8)
    others = {"teacher_q": trajectory.teacher_q}
    if state.actions is not None:
        others["actions"] = trajectory.actions
    return append(state, trajectory.observations, flags, **others)


@jax.named_scope("insert")
def append(state: R, observations: Array, flags: Array, **others: Array) -> R:
    """As ``insert``, for rings of any kind.

    Args:
      state: donate it, or all of it is copied.
      observations: newest frames ``[T, L, H, W]`` or vectors ``[T, L, D]``, with ``T <= C``.
      flags: uint8 ``[T, L]``.
      **others: the other columns, ``[T, L, ...]`` each; stored in the dtypes of ``state``.

    Raises:
      AssertionError: shapes or the observations' dtype are not those of ``state``.
      ValueError: the rollout is longer than the rings.
    """
    num_lanes, capacity, length = len(state.flags), state.capacity, len(flags)
    chex.assert_type([observations, flags], [state.observations.dtype, state.flags.dtype])
    rollout = others | {"observations": observations, "flags": flags}
    for name, shape in state.step_shapes.items():
        chex.assert_shape(rollout[name], (length, num_lanes, *shape))
    if length > capacity:
        raise ValueError(f"a rollout of {length} steps does not fit into {capacity} slots per lane")
    written: dict[str, Any] = {}
    for name, steps in rollout.items():
        column = getattr(state, name)
        written[name] = columns.write(column, steps.astype(column.dtype), state.position, capacity)
    return dataclasses.replace(
        state,
        **written,
        position=(state.position + length) % capacity,
        size=jnp.minimum(state.size + length, capacity),
    )


def keep_newest(state: R, num_steps: int) -> R:
    """Forgets all but the newest steps of each lane; the rings fill up again.

    Args:
      state: also with further leading axes.
      num_steps: kept in each lane, if it has so many.
    """
    return dataclasses.replace(state, size=jnp.minimum(state.size, num_steps))


def skip(state: R, num_steps: int) -> R:
    """Rings as if so many steps had been inserted of which none is left: the next goes where it would have gone.

    Args:
      state: empty; also with further leading axes.
      num_steps: not stored. As many as there are slots have to follow before all is as it would have been.
    """
    return dataclasses.replace(state, position=(state.position + num_steps % state.capacity) % state.capacity)


def sample(
    state: ReplayState, key: Array, batch_size: int, *, num_groups: int = 1, first_group: int | Array = 0
) -> Batch:
    """Draws steps uniformly, with replacement, among all decisions whose whole stack is still stored.

    As ``fetch`` of what ``place`` draws.

    Returns:
      ``observations`` as from ``gather`` and the ``teacher_q`` stored with them.
    """
    return fetch(state, *place(state, key, batch_size, num_groups=num_groups, first_group=first_group))


def place(
    state: ReplayState, key: Array, batch_size: int, *, num_groups: int = 1, first_group: int | Array = 0
) -> tuple[Array, Array]:
    """Where the steps of a ``sample`` are, by groups of lanes.

    With groups, the lanes fall into equally many consecutive ones, each of which gives its equal share of the batch by
    a key of its own: what a device draws of the groups it holds does not depend on which device holds the others.

    Args:
      state: at least one such step must be stored; otherwise the batch holds arbitrary slots.
      key: a PRNG key.
      batch_size: B.
      num_groups: N, divides the lanes and B.
      first_group: the number of this store's first group, among those of all devices.

    Returns:
      lanes and slots, int32 ``[B]`` each.
    """
    num_lanes = state.flags.shape[0]
    if num_lanes % num_groups or batch_size % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {num_lanes} lanes and a batch of {batch_size}")
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(first_group + jnp.arange(num_groups))
    return _draw(state, keys, batch_size // num_groups)


def fetch(state: ReplayState, lanes: Array, slots: Array) -> Batch:
    """The steps at some places: ``observations`` as from ``gather`` and the ``teacher_q`` stored with them.

    Args:
      state: the store.
      lanes, slots: int32 ``[B]`` each, as from ``place``.
    """
    return Batch(observations=gather(state, lanes, slots), teacher_q=take(state, "teacher_q", lanes, slots))


def draw(state: FrameRings, key: Array, batch_size: int, *, following: int = 0) -> tuple[Array, Array]:
    """Where the steps of a ``sample`` are.

    Args:
      state: at least one such step must be stored; otherwise the places are arbitrary.
      key: a PRNG key.
      batch_size: B.
      following: steps after each that must be stored too.

    Returns:
      lanes and slots, int32 ``[B]`` each.
    """
    return _draw(state, key[None], batch_size, following)


def _draw(state: FrameRings, keys: Array, share: int, following: int = 0) -> tuple[Array, Array]:
    """As ``draw``: ``share`` steps by each of ``keys`` ``[N]`` from its own lanes, the groups' after one another."""
    num_groups = len(keys)
    num_lanes, capacity = state.flags.shape
    draws = max(CANDIDATES * share, FEWEST_CANDIDATES)
    # The remainder of 32 random bits favours some slots by C / 2**32, at the paper's 540,000 steps 1.3e-4: nothing a
    # run could notice. jax.random.randint would take four more rounds of threefry, most of a sample's fixed cost.
    bits = jax.vmap(lambda key: jax.random.bits(key, (2, draws), jnp.uint32))(keys)
    lanes_per_group = num_lanes // num_groups
    lanes = (bits[:, 0] % lanes_per_group).astype(jnp.int32) + lanes_per_group * jnp.arange(num_groups)[:, None]
    ages = (bits[:, 1] % jnp.maximum(state.size - following, 1).astype(jnp.uint32)).astype(jnp.int32)
    slots = (state.position - state.size + ages) % capacity
    usable = has_flag(state, lanes, slots, IS_DECISION) & (_history(state, lanes, slots) <= ages)
    # The first usable draws in order of drawing; should they be too few, they are repeated in turn.
    order = jnp.arange(draws)
    usable_first = jnp.sort(jnp.where(usable, order, order + draws), axis=-1) % draws
    turns = jnp.arange(share) % jnp.maximum(usable.sum(axis=-1, keepdims=True), 1)
    chosen = jnp.take_along_axis(usable_first, turns, axis=-1)
    lanes, slots = (jnp.take_along_axis(places, chosen, axis=-1).ravel() for places in (lanes, slots))
    return lanes, slots


def gather(state: FrameRings, lanes: Array, slots: Array) -> Array:
    """Observations as the policy saw them: frames stacked by EnvPool's rule, vectors of a window one after another.

    Step ``k`` of the ``n`` in an observation at slot ``t`` is step ``max(t - (n - 1 - k), start)``, where ``start`` is
    the latest first step of an episode up to ``t``.

    Args:
      state: the store.
      lanes: int32 ``[B]``.
      slots: int32 ``[B]`` places in the ring, in ``[0, C)``, not times. The caller sees to it that the slot is filled
        and that the steps before it have not been overwritten.

    Returns:
      ``[B, H, W, n]``, oldest frame first, or ``[B, n D]``, oldest vector first.
    """
    is_vector = len(state.observation_shape) == 1
    if is_vector and state.stack == 1:
        return take(state, "observations", lanes, slots)
    steps_back = jnp.minimum(jnp.arange(state.stack - 1, -1, -1), _history(state, lanes, slots)[:, None])
    steps = take(state, "observations", lanes[:, None], (slots[:, None] - steps_back) % state.capacity)
    if is_vector:
        return steps.reshape(len(lanes), -1)
    if target_platform() == "cpu":
        # Alone, a frame is copied in one go; fused with what turns the stacks, its bytes are looked up one by one.
        steps = lax.optimization_barrier(steps)
    return columns.to_frames(steps, state.observation_shape).transpose(0, 2, 3, 1)


def steps_of(state: FrameRings, name: str) -> np.ndarray:
    """A column of rings ``[..., L, ...]`` on the host, as `pd_jax.replay.columns.to_steps` gives it."""
    return columns.to_steps(np.asarray(getattr(state, name)), state.capacity, state.step_shapes[name])


def bytes_per_step(state: FrameRings) -> float:
    """Device memory per step of one lane, in bytes; also for states with further leading axes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / state.flags.size


def reach(state: FrameRings) -> int:
    """How many slots before its own an example reaches at most: so many of the oldest steps may have none."""
    return state.steps_back


def last_actions(state: ReplayState, lanes: Array, slots: Array) -> tuple[Array, Array]:
    """What was played in the steps before some, the newest first.

    Args:
      state: the store, which keeps actions.
      lanes, slots: int32 ``[B]`` each, as for ``gather``.

    Returns:
      actions ``[B, n]`` or ``[B, n, D]``, and bool ``[B, n]``: whether the step is of the same episode.
    """
    back = jnp.arange(1, state.last_actions + 1)
    is_there = back <= _history(state, lanes, slots)[:, None]
    return take(state, "actions", lanes[:, None], (slots[:, None] - back) % state.capacity), is_there


def _history(state: FrameRings, lanes: Array, slots: Array) -> Array:
    """How many slots before each an example reaches: back to the start of the episode, at most :func:`reach`; 0 where
    observations are of one step."""
    steps_back = jnp.full_like(slots, state.steps_back)
    for steps in range(state.steps_back - 1, -1, -1):
        is_start = has_flag(state, lanes, (slots - steps) % state.capacity, IS_FIRST)
        steps_back = jnp.where(is_start, steps, steps_back)
    return steps_back


def has_flag(state: FrameRings, lanes: Array, slots: Array, flag: int) -> Array:
    """Whether the steps at some places have a flag, bool ``[B]``."""
    return (take(state, "flags", lanes, slots) & flag) != 0


def take(state: FrameRings, name: str, lanes: Array, slots: Array) -> Array:
    """The steps of a column at some places, as `pd_jax.replay.columns.take` gives them; all are in range."""
    return columns.take(getattr(state, name), lanes, slots, state.step_shapes[name])
