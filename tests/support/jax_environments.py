"""A JAX environment with gymnax's interface, small enough to be worked out by hand."""

from __future__ import annotations

from typing import Any

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Params:
    max_steps_in_episode: int = 9


@flax.struct.dataclass
class Point:
    position: jax.Array


class Walk:
    """A point on a line that actions move, at the cost of its distance from 0; an episode is over beyond 1.

    What it shows are the position, its square, 1 and 0, as a square.
    """

    def observation_space(self, params: Params) -> Any:
        return gymnasium.spaces.Box(-np.inf, np.inf, (2, 2), np.float32)

    def action_space(self, params: Params) -> Any:
        return gymnasium.spaces.Box(-0.5, 0.5, (1,), np.float32)

    def _seen(self, position: Any) -> Any:
        return jnp.stack([position, position**2, jnp.ones(()), jnp.zeros(())]).reshape(2, 2)

    def reset_env(self, key: Any, params: Params) -> tuple[Any, Point]:
        position = 0.1 * jax.random.normal(key)
        return self._seen(position), Point(position)

    def step_env(self, key: Any, state: Point, action: Any, params: Params) -> tuple[Any, Point, Any, Any, Any]:
        position = state.position + action[0]
        return self._seen(position), Point(position), -jnp.abs(position), jnp.abs(position) > 1.0, {}
