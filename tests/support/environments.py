"""An environment whose values are known, for the tests of what learns."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.environments.envpool import TimeStep


class CountingEnvironment:
    """Episodes of three steps that pay ``reward`` each, in jit; the reset steps between them pay ``reset_reward``.

    They end by themselves, or are cut off if ``is_cut_off``. A ``task`` of its own may have longer vectors, the rest of
    which are zeros, and more actions, which all do the same.
    """

    num_lanes = 4
    stepping = "jit"
    task = types.SimpleNamespace(
        frame_shape=(4,), observation_shape=(4,), observation_dtype="float32", num_actions=2, is_continuous=False
    )

    def __init__(
        self, reward: float = 1.0, reset_reward: float = 0.0, *, is_cut_off: bool = False, task: Any = None
    ) -> None:
        self.reward, self.reset_reward, self.is_cut_off = reward, reset_reward, is_cut_off
        self.task = task or self.task

    def reset(self) -> tuple[jax.Array, TimeStep]:
        return jnp.zeros(self.num_lanes, jnp.int32), self._timestep(jnp.arange(self.num_lanes) % 3)

    def step(self, handle: jax.Array, actions: jax.Array, previous: TimeStep) -> tuple[jax.Array, TimeStep]:
        return handle, self._timestep((previous.observations.argmax(axis=-1) + 1) % 4)

    def _timestep(self, count: jax.Array) -> TimeStep:
        # 0 is the first observation of an episode, 3 the last one. Callers may donate every array: none is here twice.
        return TimeStep(
            observations=jax.nn.one_hot(count, *self.task.observation_shape),
            rewards=jnp.where(count == 0, self.reset_reward, self.reward),
            is_first=count == 0,
            terminated=(count == 3) & (not self.is_cut_off),
            truncated=(count == 3) & self.is_cut_off,
            game_over=count > 2,
        )
