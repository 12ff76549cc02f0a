"""Environments of the user's own, by name: vector environments of Gymnasium, and JAX ones with gymnax's interface.

Both are made to play as EnvPool's do: the step that ends an episode shows its last observation, and the step after it,
whose action counts for nothing, shows the first one of the next episode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.tasks import Task, add_task
from pd_jax.errors import UserError

MakeGymnasium = Callable[[int], Any]
"""``num_lanes -> gymnasium.vector.VectorEnv``."""
MakeJax = Callable[[], tuple[Any, Any]]
"""``() -> (environment, parameters)``, as ``gymnax.make(name)`` returns them."""
_MakePool = Callable[[int, int, int], "GymnasiumPool | JaxPool"]

_gymnasium: dict[str, _MakePool] = {}
_jax: dict[str, _MakePool] = {}


def register_gymnasium(name: str, make: MakeGymnasium, *, max_episode_steps: int | None = None) -> Task:
    """Has all commands' functions know a vector environment of Gymnasium by a name, for as long as the process runs.

    It is stepped from the host. One that resets nothing itself (``AutoresetMode.DISABLED``) can be cut off earlier than
    it ends; one that resets in the next step, as vector environments do by default, cannot.

    Args:
      name: of the task; given again, it stands for the later environment.
      make: makes the lanes.
      max_episode_steps: steps after which an episode is cut; None takes the environment's own limit.

    Returns:
      the task.

    Raises:
      UserError: the name is taken, its spaces are neither boxes nor (actions) discrete, it resets within the step that
        ends an episode, or nothing says how long an episode is.

    Example::

      from gymnasium.vector import AutoresetMode

      register_gymnasium(
          "my_pendulum",
          lambda lanes: gymnasium.make_vec(
              "Pendulum-v1", lanes, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED}
          ),
      )
    """
    environment = make(1)
    try:
        own = _own_limit(environment)
        mode = _autoreset_mode(environment)
        task = _task_of(
            name, environment.single_observation_space, environment.single_action_space, max_episode_steps or own
        )
    finally:
        environment.close()
    if mode not in ("NextStep", "Disabled"):
        raise UserError(
            f"{name}: resets itself in the step that ends an episode ({mode}), which hides the last observation; make "
            "it with autoreset_mode=AutoresetMode.DISABLED"
        )
    if mode == "NextStep" and own is not None and task.max_episode_steps < own:
        raise UserError(_cannot_be_cut(name, task.max_episode_steps, own))

    def make_pool(num_lanes: int, seed: int, limit: int) -> Any:
        if mode == "NextStep" and limit < task.max_episode_steps:
            raise UserError(_cannot_be_cut(name, limit, task.max_episode_steps))
        return GymnasiumPool(make(num_lanes), seed, limit)

    return _register(task, make_pool, _gymnasium, _jax)


def register_jax(name: str, make: MakeJax, *, max_episode_steps: int | None = None) -> Task:
    """Has all commands' functions know a JAX environment by a name, for as long as the process runs.

    Its interface is that of gymnax: ``reset_env(key, params) -> (observation, state)`` and ``step_env(key, state,
    action, params) -> (observation, state, reward, done, info)``, of one lane, to be traced; ``observation_space`` and
    ``action_space`` of the parameters. It is stepped inside jit, on whatever device plays.

    Args:
      name: of the task; given again, it stands for the later environment.
      make: makes the environment and its parameters.
      max_episode_steps: steps after which an episode is cut; None takes ``params.max_steps_in_episode``. A ``done`` on
        that step is taken for the cut.

    Returns:
      the task.

    Raises:
      UserError: the name is taken, its spaces are neither boxes nor (actions) discrete, or nothing says how long an
        episode is.

    Example::

      register_jax("my_catch", lambda: gymnax.make("Catch-bsuite"))
    """
    environment, params = make()
    limit = max_episode_steps or getattr(params, "max_steps_in_episode", None)
    task = _task_of(name, environment.observation_space(params), environment.action_space(params), limit)

    def make_pool(num_lanes: int, seed: int, limit: int) -> Any:
        return JaxPool(environment, params, task, num_lanes, seed, limit)

    return _register(task, make_pool, _jax, _gymnasium)


def registered_pool(task: Task, num_lanes: int, seed: int, max_episode_steps: int) -> GymnasiumPool | JaxPool:
    """The lanes of a registered task, with the methods of EnvPool's Gymnasium interface."""
    return {**_gymnasium, **_jax}[task.env_id](num_lanes, seed, max_episode_steps)


def is_registered(task: Task) -> bool:
    """Whether it is an environment of the user's."""
    return task.env_id in _gymnasium or task.env_id in _jax


def is_registered_in_jax(task: Task) -> bool:
    """Whether it is one that can be stepped inside jit."""
    return task.env_id in _jax


def _register(task: Task, make_pool: _MakePool, into: dict[str, _MakePool], other: dict[str, _MakePool]) -> Task:
    add_task(task)
    other.pop(task.env_id, None)
    into[task.env_id] = make_pool
    return task


def _cannot_be_cut(name: str, limit: int, own: int) -> str:
    return (
        f"{name}: resets itself, so it cannot be cut off after {limit:,} steps, before its own {own:,}; make it with "
        "autoreset_mode=AutoresetMode.DISABLED"
    )


class GymnasiumPool:
    """A vector environment of Gymnasium with the methods of EnvPool's Gymnasium interface.

    Args:
      environment: the lanes.
      seed: lane i gets ``seed + i``.
      max_episode_steps: after which an episode is cut.
    """

    def __init__(self, environment: Any, seed: int, max_episode_steps: int) -> None:
        self._environment = environment
        self._seed: int | None = seed
        self._limit = max_episode_steps
        self._resets_itself = _autoreset_mode(environment) == "NextStep"
        self._elapsed = np.zeros(environment.num_envs, np.int64)
        self._done = np.zeros(environment.num_envs, bool)
        self._sent: Any = None

    @property
    def observation_space(self) -> Any:
        """Of one lane."""
        return self._environment.single_observation_space

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts every lane afresh."""
        observations, _ = self._environment.reset(seed=self._seed)
        self._seed = None
        self._elapsed[:], self._done[:] = 0, False
        return self._flat(observations), {}

    def step(self, actions: np.ndarray, lanes: np.ndarray | None = None) -> tuple[Any, ...]:
        """Steps all lanes, and shows those that are named. Lanes whose episode has ended begin another."""
        count = self._environment.num_envs
        chosen = np.arange(count) if lanes is None else np.asarray(lanes)
        space = self._environment.action_space
        given = np.zeros(space.shape, space.dtype)
        given[chosen] = np.asarray(actions).reshape(len(chosen), *space.shape[1:])
        before = self._done.copy()
        if before.any() and not self._resets_itself:
            observations, rewards, terminated, truncated = self._begin_some(given, before)
        else:
            observations, rewards, terminated, truncated, _ = self._environment.step(given)
        self._elapsed = np.where(before, 0, self._elapsed + 1)
        terminated = np.asarray(terminated) & ~before
        truncated = (np.asarray(truncated) | (self._elapsed >= self._limit)) & ~before & ~terminated
        rewards = np.where(before, 0.0, rewards).astype(np.float32)
        self._done = terminated | truncated
        shown = self._flat(observations)
        return shown[chosen], rewards[chosen], terminated[chosen], truncated[chosen], {}

    def _begin_some(self, actions: np.ndarray, ended: np.ndarray) -> tuple[Any, ...]:
        """Resets the lanes that have ended, and steps the others."""
        first, _ = self._environment.reset(options={"reset_mask": ended})
        first = np.array(first)
        if ended.all():
            none = np.zeros(len(ended), bool)
            return first, np.zeros(len(ended)), none, none
        # All lanes of a vector environment are stepped: those that have just begun are begun once more afterwards.
        observations, rewards, terminated, truncated, _ = self._environment.step(actions)
        observations = np.array(observations)
        again, _ = self._environment.reset(options={"reset_mask": ended})
        observations[ended] = np.asarray(again)[ended]
        return observations, rewards, terminated, truncated

    def send(self, actions: np.ndarray) -> None:
        """Steps all lanes, for :meth:`recv`."""
        self._sent = self.step(actions)

    def recv(self) -> tuple[Any, ...]:
        """What :meth:`send` came to, as :meth:`step` returns it."""
        return self._sent

    def close(self) -> None:
        """Ends the environment."""
        self._environment.close()

    @staticmethod
    def _flat(observations: Any) -> np.ndarray:
        array = np.asarray(observations)
        return array.reshape(len(array), -1).astype(np.float32)


class JaxPool:
    """Lanes of a JAX environment, inside jit (:attr:`in_jit`) and with the methods of EnvPool's Gymnasium interface.

    Args:
      environment, params: as gymnax has them.
      task: that they are.
      num_lanes: that are stepped together.
      seed: lane i begins with the key of ``seed + i``.
      max_episode_steps: after which an episode is cut.
    """

    def __init__(
        self, environment: Any, params: Any, task: Task, num_lanes: int, seed: int, max_episode_steps: int
    ) -> None:
        self._step = jax.jit(self.step_lanes)
        self._environment, self._params, self._task = environment, params, task
        self._limit, self._num_lanes, self._seed = max_episode_steps, num_lanes, seed
        self.observation_space = environment.observation_space(params)
        self.state: Any = None
        self._sent: Any = None

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts every lane afresh."""
        keys = jax.vmap(jax.random.key)(jnp.arange(self._num_lanes) + self._seed)
        observations, self.state = jax.jit(self._begin)(keys)
        return np.asarray(observations), {}

    def step(self, actions: np.ndarray, lanes: np.ndarray | None = None) -> tuple[Any, ...]:
        """Steps lanes from the host, all of them by default; the others stand still."""
        chosen = np.arange(self._num_lanes) if lanes is None else np.asarray(lanes)
        given = np.zeros((self._num_lanes, *self._task.action_shape), self._task.action_dtype)
        given[chosen] = actions
        state, outputs = self._step(self.state, jnp.asarray(given))
        moved = jnp.zeros(self._num_lanes, bool).at[chosen].set(True)
        self.state = jax.tree.map(lambda new, old: _where(moved, new, old), state, self.state)
        return (*(np.asarray(array)[chosen] for array in outputs), {})

    def send(self, actions: np.ndarray) -> None:
        """Steps all lanes, for :meth:`recv`."""
        self._sent = self.step(actions)

    def recv(self) -> tuple[Any, ...]:
        """What :meth:`send` came to, as :meth:`step` returns it."""
        return self._sent

    def close(self) -> None:
        """There is nothing to end."""

    @property
    def handle(self) -> JaxLanes:
        """The lanes' state after :meth:`reset`, for :meth:`step_in_jit`."""
        return self.state

    def step_in_jit(self, handle: JaxLanes, actions: Array) -> tuple[JaxLanes, tuple[Any, ...]]:
        """As the step of `pd_jax.environments.in_jit.InJit`, to be traced."""
        state, outputs = self.step_lanes(handle, actions)
        return state, (*outputs, {})

    def step_lanes(self, state: JaxLanes, actions: Array) -> tuple[JaxLanes, tuple[Array, Array, Array, Array]]:
        """One step of every lane, to be traced.

        Returns:
          the lanes; observations ``[L, D]``, rewards, and which episodes ended by themselves or were cut off, ``[L]``.
        """
        keys = jax.vmap(jax.random.split)(state.keys)
        first, begun = self._begin(keys[:, 0])
        actions = actions.reshape(self._num_lanes, *self._task.action_shape)
        seen, states, rewards, done, *_ = jax.vmap(self._environment.step_env, in_axes=(0, 0, 0, None))(
            keys[:, 1], state.states, actions, self._params
        )
        elapsed = state.elapsed + 1
        cut = elapsed >= self._limit
        done = jnp.asarray(done, bool)
        moved = JaxLanes(states, keys[:, 0], elapsed, done | cut)
        after = jax.tree.map(lambda one, other: _where(state.is_over, one, other), begun, moved)
        observations = _where(state.is_over, first, self._flat(seen))
        rewards = jnp.where(state.is_over, 0.0, jnp.asarray(rewards, jnp.float32))
        playing = ~state.is_over
        return after, (observations, rewards, done & ~cut & playing, cut & playing)

    def _begin(self, keys: Array) -> tuple[Array, JaxLanes]:
        keys = jax.vmap(jax.random.split)(keys)
        observations, states = jax.vmap(self._environment.reset_env, in_axes=(0, None))(keys[:, 1], self._params)
        elapsed, none = jnp.zeros(self._num_lanes, jnp.int32), jnp.zeros(self._num_lanes, bool)
        return self._flat(observations), JaxLanes(states, keys[:, 0], elapsed, none)

    def _flat(self, observations: Array) -> Array:
        return jnp.reshape(observations, (self._num_lanes, -1)).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JaxLanes:
    """Lanes of a JAX environment.

    Attributes:
      states: the environment's, with an axis for the lanes.
      keys: PRNG keys ``[L]``.
      elapsed: int32 ``[L]``, steps of the current episode.
      is_over: bool ``[L]``, whether it has ended.
    """

    states: Any
    keys: Array
    elapsed: Array
    is_over: Array


def _where(mask: Array, one: Any, other: Any) -> Any:
    """``one`` where the mask ``[L]`` is True; of keys, too."""
    return jnp.where(mask.reshape(-1, *(1,) * (jnp.ndim(one) - 1)), one, other)


def _task_of(name: str, observations: Any, actions: Any, max_episode_steps: int | None) -> Task:
    """Raises a UserError if there are no networks for these spaces."""
    kind = type(observations).__name__
    if kind != "Box" or observations.shape is None:
        raise UserError(f"{name}: its observations are a {kind} space; those of students are boxes of numbers")
    if not max_episode_steps:
        raise UserError(f"{name}: nothing says how long an episode is; give max_episode_steps")
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    kind = type(actions).__name__
    if kind == "Discrete":
        if getattr(actions, "start", 0) != 0:
            raise UserError(f"{name}: its actions begin at {actions.start}; those of students begin at 0")
        num_actions = int(actions.n)
    elif kind == "Box" and len(actions.shape) <= 1:
        low, high = (_bounds(bound, actions.shape) for bound in (actions.low, actions.high))
        num_actions = len(low)
        if not all(-math.inf < below < above < math.inf for below, above in zip(low, high, strict=True)):
            raise UserError(f"{name}: its actions are no vector of numbers with bounds")
    else:
        raise UserError(f"{name}: its actions are a {kind} space; a student chooses one of several, or gives floats")
    return Task(
        name=name,
        env_id=name,
        kind="vector",
        num_actions=num_actions,
        observation_shape=(math.prod(observations.shape),),
        observation_dtype="float32",
        action_names=tuple(f"ACTION{index}" for index in range(num_actions)),
        random_score=None,
        human_score=None,
        max_episode_steps=int(max_episode_steps),
        action_low=low,
        action_high=high,
    )


def _bounds(bound: Any, shape: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(np.broadcast_to(np.asarray(bound, np.float64), shape or (1,)).ravel().tolist())


def _own_limit(environment: Any) -> int | None:
    """Steps after which a vector environment cuts an episode, if it says so."""
    # Of Gymnasium 1.4.0, that of the lanes: that of the whole leaves out a limit that was given to make_vec.
    for told in (*getattr(environment, "envs", ())[:1], environment):
        if limit := getattr(getattr(told, "spec", None), "max_episode_steps", None):
            return int(limit)
    return None


def _autoreset_mode(environment: Any) -> str:
    """``"NextStep"``, ``"SameStep"`` or ``"Disabled"``."""
    mode = (getattr(environment, "metadata", None) or {}).get("autoreset_mode", "NextStep")
    return str(getattr(mode, "value", mode))
