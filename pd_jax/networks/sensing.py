"""A policy that senses a task in its own way, as play sees it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax import Array

from pd_jax.environments import sensors
from pd_jax.environments.senses import Senses
from pd_jax.networks.lane_policy import LanePolicy, as_lane_policy, note_actions
from pd_jax.types import LaneRange, PolicyApply

if TYPE_CHECKING:
    # EnvPool takes seconds to import.
    from pd_jax.environments.envpool import TimeStep


@dataclasses.dataclass(frozen=True)
class SensingPolicy:
    """A policy behind its senses: a `LanePolicy` of what the task shows, whose state is also that of its sensors.

    Attributes:
      senses: what it senses.
      policy: of what is sensed.
    """

    senses: Senses
    policy: PolicyApply | LanePolicy

    def start(self, num_lanes: int) -> tuple[sensors.SensorState, Any]:
        """The state of the sensors, and that of the policy."""
        return sensors.start(self.senses, num_lanes), as_lane_policy(self.policy).start(num_lanes)

    def decide(self, variables: Any, timestep: TimeStep, state: Any, key: Array) -> tuple[Array, Any]:
        """Its outputs for what it senses of what the lanes show."""
        sensor_key, policy_key = jax.random.split(key)
        sensor_state, own = state
        sensor_state, seen = sense_step(self.senses, sensor_state, timestep, sensor_key)
        outputs, own = as_lane_policy(self.policy).decide(variables, seen, own, policy_key)
        return outputs, (sensor_state, own)

    def note(self, state: Any, actions: Any) -> Any:
        """The state after actions were played, for a policy that sees its last ones."""
        sensor_state, own = state
        return sensor_state, note_actions(self.policy, own, actions)

    def sensed(self, state: Any) -> np.ndarray:
        """What it senses at the step that left this state, ``[L, ...]``."""
        return np.asarray(_observation(self.senses, state[0]))


def sense_step(
    senses: Senses, state: sensors.SensorState, timestep: TimeStep, key: Array, lanes: LaneRange | None = None
) -> tuple[sensors.SensorState, TimeStep]:
    """Senses a time step.

    Args:
      senses: what is sensed.
      state: of the sensors, before.
      timestep: what the lanes show; it has :attr:`Senses.beside`.
      key: PRNG key of the step's noise.
      lanes: which of those that the key is for these are.

    Returns:
      the sensors' state, and the time step with what is sensed as its observations.
    """
    shown = timestep.observations if senses.beside is None else timestep.beside
    also = None
    if senses.num_also:
        # Whichever of the two the task shows, the other is beside.
        both = timestep.observations, timestep.beside
        shown, also = both if senses.task.kind == "atari" else both[::-1]
    assert shown is not None
    state = sensors.sense(senses, state, shown, timestep.is_first, key, lanes, also)
    seen = dataclasses.replace(timestep, observations=sensors.observation(senses, state), beside=None)
    return state, seen


class LaneSensors:
    """Senses of lanes that are stepped from the host.

    Args:
      senses: what is sensed.
      num_lanes: L.
      seed: of the noise.
    """

    def __init__(self, senses: Senses, num_lanes: int, seed: int = 0) -> None:
        self._senses = senses
        self._state = sensors.start(senses, num_lanes)
        self._key = jax.random.key(seed)
        self._steps = 0

    def see(self, timestep: TimeStep) -> np.ndarray:
        """Takes in a time step of all lanes, and gives what they sense now, ``[L, ...]``."""
        key = jax.random.fold_in(self._key, self._steps)
        self._steps += 1
        self._state, seen = _sense_step(self._senses, self._state, timestep, key)
        return np.asarray(seen.observations)


_observation = jax.jit(sensors.observation, static_argnums=0)
_sense_step = jax.jit(sense_step, static_argnums=0)


def with_senses(policy: PolicyApply | LanePolicy, senses: Senses | None) -> PolicyApply | LanePolicy:
    """The policy behind its senses; itself where it sees what the task shows."""
    return policy if senses is None or senses.is_plain else SensingPolicy(senses, policy)


def beside_of(policy: PolicyApply | LanePolicy) -> Literal["ram", "frames"] | None:
    """What a policy senses that its task does not show: what `Environment` is to have beside it."""
    return policy.senses.beside if isinstance(policy, SensingPolicy) else None
