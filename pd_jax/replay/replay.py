"""The replay of a run: a store of play for each of its games, on its devices, with one owner."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pd_jax.replay import columns, rings
from pd_jax.replay.relabel import Relabelled, Relabeller
from pd_jax.replay.rings import ReplayState
from pd_jax.system import host_memory
from pd_jax.system.devices import Bound, DeviceGroup, tracing_for
from pd_jax.types import Trajectory


class RingSize(NamedTuple):
    """What the rings of one game hold, on all devices together; see `pd_jax.replay.rings.init`."""

    num_lanes: int
    capacity_per_lane: int
    observation_shape: tuple[int, ...]
    observation_dtype: Any
    num_actions: int
    stack: int | None = None
    last_actions: int = 0
    action_shape: tuple[int, ...] = ()


class Replay:
    """Rings of several games, split by lane over devices. Nobody else writes them.

    Args:
      sizes: of each game's rings; the lanes are a multiple of the devices.
      devices: that hold them.
    """

    def __init__(self, sizes: Sequence[RingSize], devices: DeviceGroup) -> None:
        self._devices = devices
        self._insert = devices.here.map(rings.insert, donate=(0,))
        self._stored = tuple(self._allocate(size) for size in sizes)

    @property
    def stored(self) -> tuple[ReplayState, ...]:
        """What a learner draws from: the rings of each game, ``[D, L / D, ...]``. The next write takes them over."""
        return self._stored

    def insert(self, game: int, trajectory: Trajectory) -> None:
        """Stores a rollout ``[T, L, ...]`` of a game."""
        self._set(game, self._insert(self._stored[game], self._devices.split(trajectory, axis=1)))

    def steps_held(self, game: int) -> int:
        """Time steps that each lane of a game holds."""
        return int(self._devices.first(self._stored[game].size))

    def keep_newest(self, game: int, num_steps: int) -> None:
        """Forgets all but the newest time steps of each lane of a game."""
        self._set(game, rings.keep_newest(self._stored[game], num_steps))

    def skip(self, game: int, num_steps: int) -> None:
        """Leaves out time steps of a game, whose rings are empty, as if others had been written over them since."""
        self._set(game, rings.skip(self._stored[game], num_steps))

    def relabel(self, game: int, relabeller: Relabeller, variables: Any, on_block: Callable[[], None]) -> Relabelled:
        """Gives all that is stored of a game another teacher's outputs.

        Args:
          game: its place.
          relabeller: with the teacher's network.
          variables: of the teacher.
          on_block: called now and then; what it raises leaves the replay unusable.
        """
        relabelled = relabeller.relabel(self._stored[game], variables, on_block)
        self._set(game, relabelled.stored)
        return relabelled

    def to_host(self) -> list[ReplayState]:
        """Copies of the rings ``[L, C, ...]``, as `pd_jax.replay.columns.to_steps` gives them.

        What was held by any number of devices can be taken up by any other.
        """
        return [_to_steps(jax.tree.map(_fold, state)) for state in self._stored]

    def template(self) -> list[ReplayState]:
        """Shapes and dtypes of :meth:`to_host`."""
        return [_steps_shapes(state) for state in self._stored]

    def from_host(self, copies: Sequence[ReplayState]) -> None:
        """Takes up what :meth:`to_host` gave, in the place of what there is."""
        with tracing_for(self._devices.platform):
            stored = [_from_steps(state) for state in copies]
        self._stored = tuple(jax.tree.map(self._unfold, state) for state in stored)

    def _set(self, game: int, state: ReplayState) -> None:
        self._stored = (*self._stored[:game], state, *self._stored[game + 1 :])

    def _allocate(self, size: RingSize) -> ReplayState:
        here = self._devices.here
        init = Bound(_empty, (size.num_lanes // self._devices.size, *size[1:]))
        state: ReplayState = here.map(init)(np.zeros(here.size))
        # Until play is stored in them: while the programs are compiled, which takes the most memory beside.
        host_memory.forget_zeros(state)
        return state

    def _unfold(self, array: np.ndarray) -> Any:
        return self._devices.split(array) if array.ndim else self._devices.replicate(array)


def _empty(*arguments: Any) -> ReplayState:
    """Empty rings, beside an array that tells a device that they are its own."""
    return rings.init(*arguments[:-1])


def _fold(leaf: Any) -> np.ndarray:
    """``[D, L / D, ...]`` as ``[L, ...]``; of what all devices agree on, ``[D]``, one."""
    array = np.asarray(leaf)
    return array.reshape(-1, *array.shape[2:]) if array.ndim > 1 else array[0]


def _to_steps(state: ReplayState) -> ReplayState:
    """Rings on the host without what their columns are filled up with: what checkpoints hold."""
    steps: dict[str, Any] = {name: np.ascontiguousarray(rings.steps_of(state, name)) for name in state.step_shapes}
    return dataclasses.replace(state, **steps)


def _from_steps(state: ReplayState) -> ReplayState:
    """The rings that :func:`_to_steps` gave."""
    stored: dict[str, Any] = {
        name: columns.from_steps(np.asarray(getattr(state, name)), shape) for name, shape in state.step_shapes.items()
    }
    return dataclasses.replace(state, **stored)


def _steps_shapes(state: ReplayState) -> ReplayState:
    """Shapes and dtypes of :func:`_to_steps` for rings ``[D, L / D, ...]``."""
    devices, lanes, capacity = state.flags.shape

    def of(name: str, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, getattr(state, name).dtype)

    steps = {
        name: of(name, devices * lanes, capacity, *([math.prod(shape)] if shape else []))
        for name, shape in state.step_shapes.items()
    }
    return dataclasses.replace(state, **steps, position=of("position"), size=of("size"))
