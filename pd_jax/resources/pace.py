"""How fast a training goes, and what bounds it: stepping the environments, inference or updates."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.system.kept import kept

_PROBE_STEPS = 32
_PROBE_SECONDS = 0.5
_MAX_PROBES = 20
# Beyond this, parts that were timed alone and a whole that was timed in training contradict each other.
_TOLERANCE = 1.1


class Pace:
    """Environment steps and seconds of the iterations that learn, without evaluations and checkpoints.

    The first one is left out, for it is compiled on the way; so are those that only fill a replay.
    """

    def __init__(self) -> None:
        """Nothing has been timed yet."""
        self._env_steps: list[int] = []
        self._seconds: list[float] = []
        self._compiled = False

    def count(self, env_steps: int, seconds: float, *, updates: int) -> None:
        """Adds one iteration."""
        if self._compiled and updates:
            self._env_steps.append(env_steps)
            self._seconds.append(seconds)
        self._compiled = True

    @property
    def env_steps_per_second(self) -> float | None:
        """None if no iteration was counted."""
        return sum(self._env_steps) / sum(self._seconds) if self._seconds else None

    def summarise(self, players: Sequence[tuple[Environment, Any]], variables: Any) -> dict[str, Any]:
        """Environment steps a second, the shares of the three kinds of work in the time, and the largest.

        Stepping and inference are timed for a moment, alone, as in training; what they leave
        of the median iteration's time are the updates and all that belongs to them. Empty if no iteration was counted;
        the shares are None if stepping and inference alone now take longer than iterations did, as on a machine that
        is busier than it was.

        Args:
          players: the environment of every game, idle now, which is reset, and the network that played it.
          variables: of the training.
        """
        if self.env_steps_per_second is None:
            return {}
        lanes = sum(environment.num_lanes for environment, _ in players)
        per_round = (lanes * seconds / steps for steps, seconds in zip(self._env_steps, self._seconds, strict=True))
        parts = {
            "stepping": sum(stepping_seconds(environment) for environment, _ in players),
            "inference": sum(inference_seconds(network, variables, environment) for environment, network in players),
        }
        shares = time_shares(parts, total=statistics.median(per_round))
        return {
            "env_steps_per_second": self.env_steps_per_second,
            "time_shares": shares,
            "bound_by": None if shares is None else max(shares, key=lambda name: shares[name]),
        }


def time_shares(parts: Mapping[str, float], total: float) -> dict[str, float] | None:
    """Shares of ``parts`` in ``total``; ``updates`` are what is left.

    None if the parts are clearly more than the total: times that contradict each other say nothing of shares.
    """
    whole = math.fsum(parts.values())
    if whole > _TOLERANCE * total:
        return None
    shares = {name: part / max(total, whole) for name, part in parts.items()}
    return shares | {"updates": max(0.0, 1.0 - math.fsum(shares.values()))}


def stepping_seconds(environment: Environment, steps: int = _PROBE_STEPS) -> float:
    """Seconds that one step of all lanes takes under random actions, stepped as in play, and nothing else."""
    if environment.stepping == "host":
        return _host_stepping_seconds(environment, steps)
    actions = jnp.asarray(_random_actions(environment, steps))

    def step(carry: tuple[Array, TimeStep], chosen: Array) -> tuple[tuple[Array, TimeStep], None]:
        handle, timestep = carry
        return environment.step(handle, chosen, timestep), None

    play = jax.jit(lambda carry: lax.scan(step, carry, actions)[0])
    carry = environment.reset()

    def once() -> None:
        nonlocal carry
        carry = jax.block_until_ready(play(carry))

    return _fastest(once) / steps


def _host_stepping_seconds(environment: Environment, steps: int) -> float:
    """As :func:`stepping_seconds`, all groups at once."""
    actions = _random_actions(environment, steps)
    environment.reset()

    def once() -> None:
        for chosen in actions:
            for group, lanes in enumerate(environment.groups):
                environment.send(group, chosen[lanes.start : lanes.stop])
            for group in range(len(environment.groups)):
                environment.receive(group)

    return _fastest(once) / steps


def _random_actions(environment: Environment, steps: int) -> np.ndarray:
    """Uniform ones for every step and lane: ``[steps, lanes]``, or ``[steps, lanes, components]``."""
    task, generator = environment.task, np.random.default_rng(0)
    shape = (steps, environment.num_lanes, *task.action_shape)
    if task.is_continuous:
        return generator.uniform(task.action_low, task.action_high, size=shape).astype(np.float32)
    return generator.integers(task.num_actions, size=shape, dtype=np.int32)


def inference_seconds(network: Any, variables: Any, environment: Environment, calls: int = _PROBE_STEPS) -> float:
    """Seconds that one decision of all lanes takes inside a compiled scan over random observations, nothing else."""
    task = environment.task
    generator = np.random.default_rng(0)
    shape = (calls, environment.num_lanes, *task.observation_shape)
    if task.observation_dtype == "uint8":
        observations = jnp.asarray(generator.integers(256, size=shape, dtype=np.uint8))
    else:
        observations = jnp.asarray(generator.standard_normal(shape), task.observation_dtype)

    decide = _decisions_of(network)
    return _fastest(lambda: jax.block_until_ready(decide(variables, observations))) / calls


@kept(4)
def _decisions_of(network: Any) -> Callable[[Any, Array], Array]:
    @jax.jit
    def decide(variables: Any, observations: Array) -> Array:
        return lax.map(lambda seen: network.apply(variables, seen).argmax(axis=-1), observations)

    return decide


def _fastest(call: Callable[[], Any]) -> float:
    """The fewest seconds that a call took, of one or more after the first, which compiles it."""
    call()
    seconds: list[float] = []
    while not seconds or (math.fsum(seconds) < _PROBE_SECONDS and len(seconds) < _MAX_PROBES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
