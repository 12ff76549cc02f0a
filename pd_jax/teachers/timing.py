"""How fast a training goes, and what bounds it: stepping the environments, inference or updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.envs import Environment

_PROBE_STEPS = 32


class Pace:
    """Environment steps and seconds of the iterations that learn, without evaluations and checkpoints.

    The first one is left out, for it is compiled on the way; so are those that only fill a replay.
    """

    def __init__(self) -> None:
        """Nothing has been timed yet."""
        self.env_steps = 0
        self.seconds = 0.0
        self._compiled = False

    def count(self, env_steps: int, seconds: float, *, updates: int) -> None:
        """Adds one iteration."""
        if self._compiled and updates:
            self.env_steps += env_steps
            self.seconds += seconds
        self._compiled = True

    @property
    def env_steps_per_second(self) -> float | None:
        """None if no iteration was counted."""
        return self.env_steps / self.seconds if self.seconds else None

    def summarise(self, players: Sequence[tuple[Environment, Any]], variables: Any) -> dict[str, Any]:
        """Environment steps a second, the shares of the three kinds of work in the time, and the largest.

        Stepping and inference are timed for a moment, alone; what they leave of an iteration's time are the updates and
        all that belongs to them. Empty if no iteration was counted.

        Args:
          players: the environment of every game, idle now, which is reset, and the network that played it.
          variables: of the training.
        """
        if self.env_steps_per_second is None:
            return {}
        rounds_per_second = self.env_steps_per_second / sum(environment.num_lanes for environment, _ in players)
        stepping = sum(stepping_seconds(environment) for environment, _ in players) * rounds_per_second
        inference = (
            sum(inference_seconds(network, variables, environment) for environment, network in players)
            * rounds_per_second
        )
        shares = time_shares({"stepping": stepping, "inference": inference}, total=1.0)
        return {
            "env_steps_per_second": self.env_steps_per_second,
            "time_shares": shares,
            "bound_by": max(shares, key=lambda name: shares[name]),
        }


def time_shares(parts: Mapping[str, float], total: float) -> dict[str, float]:
    """Shares of ``parts`` in ``total``; ``updates`` are what is left. Should the parts be more, they are the total."""
    total = max(total, sum(parts.values()))
    shares = {name: part / total for name, part in parts.items()}
    return shares | {"updates": max(0.0, 1.0 - sum(shares.values()))}


def stepping_seconds(environment: Environment, steps: int = _PROBE_STEPS) -> float:
    """Seconds that one step of all lanes takes under random actions, stepped from the host and nothing else."""
    generator = np.random.default_rng(0)
    actions = generator.integers(environment.task.num_actions, size=(steps, environment.num_lanes), dtype=np.int32)
    environment.reset()
    is_last = np.zeros(environment.num_lanes, bool)
    started = time.perf_counter()
    for step in range(steps):
        is_last = np.asarray(environment.step_host(actions[step], is_last).is_last)
    return (time.perf_counter() - started) / steps


def inference_seconds(network: Any, variables: Any, environment: Environment, calls: int = _PROBE_STEPS) -> float:
    """Seconds that one decision of all lanes takes, nothing else running."""
    task = environment.task
    observations = jnp.zeros((environment.num_lanes, *task.observation_shape), task.observation_dtype)
    apply: Callable[[Any, Array], Array] = jax.jit(network.apply)
    jax.block_until_ready(apply(variables, observations))
    started = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(apply(variables, observations))
    return (time.perf_counter() - started) / calls
