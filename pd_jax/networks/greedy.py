"""What a network plays: the action that it values most, or now and then a random one."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.errors import ObservationsError, UserError
from pd_jax.networks.continuous import mean_actions, noisy_actions
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.policy import count_params
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.types import LaneRange, PolicyApply


def epsilon_greedy(key: Array, q_values: Array, epsilon: Array | float, lanes: LaneRange | None = None) -> Array:
    """Greedy actions, each replaced by a uniform one with probability epsilon.

    Args:
      key: PRNG key of these decisions.
      q_values: ``[L, actions]``.
      epsilon: chance of a random action.
      lanes: which of those that the key is for these are; all of them by default.

    Returns:
      int32 ``[L]``.
    """
    explore_key, action_key = jax.random.split(key)
    lanes = lanes or LaneRange(0, len(q_values), len(q_values))
    random_actions = lanes.of(jax.random.randint(action_key, (lanes.total,), 0, q_values.shape[1]))
    explore = lanes.of(jax.random.uniform(explore_key, (lanes.total,))) < epsilon
    return jnp.where(explore, random_actions, greedy_actions(q_values)).astype(jnp.int32)


def play(
    key: Array, outputs: Array, epsilon: Array | float, task: Task | None = None, lanes: LaneRange | None = None
) -> Array:
    """What is played of a policy's outputs: greedy actions or random ones; of a continuous task, actions with noise.

    Args:
      key, epsilon, lanes: as for :func:`epsilon_greedy`, or for `pd_jax.networks.continuous.noisy_actions`.
      outputs: ``[L, O]``.
      task: whose actions they are; None is a discrete one.

    Returns:
      int32 ``[L]``, or float32 ``[L, components]``.
    """
    if task is not None and task.is_continuous:
        return noisy_actions(key, outputs, epsilon, task, lanes)
    return epsilon_greedy(key, outputs, epsilon, lanes)


def greedy_actions(q_values: Array) -> Array:
    """The best actions; the first of equals.

    Args:
      q_values: Q-values or logits, ``[L, actions]``.

    Returns:
      int32 ``[L]``.
    """
    return jnp.argmax(q_values, axis=-1).astype(jnp.int32)


class GreedyPolicy(abc.ABC):
    """A network that plays one task: teachers and students are such policies.

    Attributes:
      variables: the network's, as ``apply`` takes them.
    """

    variables: Any

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abc.abstractmethod
    def task(self) -> Task:
        """The game it plays."""

    @property
    @abc.abstractmethod
    def apply(self) -> PolicyApply:
        """``(variables, observations [N, ...]) -> float32 [N, actions]``, to be traced."""

    @property
    def player(self) -> PolicyApply | LanePolicy:
        """The policy as it plays its game: behind its senses, if it has its own."""
        return self.apply

    @property
    def shown(self) -> Task:
        """The game as its environment shows it; :attr:`task` is how the policy sees it."""
        return self.task

    @property
    def senses(self) -> Senses | None:
        """What it senses of the game; None if it sees what the game shows."""
        return None

    @property
    @abc.abstractmethod
    def gives_logits(self) -> bool:
        """Whether the outputs are a policy's logits instead of Q-values."""

    @property
    def num_outputs(self) -> int:
        """O: as many as there are actions, or of a Gaussian twice as many as an action has components."""
        return self.task.num_actions

    @property
    def num_params(self) -> int:
        """Number of scalars, LayerNorm's included."""
        return count_params(self.variables)

    def initial_state(self, num_lanes: int) -> np.ndarray | None:
        """What the first :meth:`act` of an episode takes: None, for a policy without memory.

        Args:
          num_lanes: observations in a batch.
        """
        return None

    def outputs(self, observations: Array | np.ndarray) -> Array:
        """Q-values (or logits, see ``gives_logits``) of a batch. Compiled once for each N.

        Args:
          observations: uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``.

        Returns:
          float32 ``[N, actions]``.

        Raises:
          ObservationsError: another shape or dtype; a UserError and a ValueError.
        """
        observations = check_observations(observations, self.task, self.name)
        # Computation follows the variables.
        with tracing_for(platform_of(self.variables)):
            return self._forward(self.variables, observations)

    def decide(
        self, observations: Array | np.ndarray, state: np.ndarray | None = None
    ) -> tuple[Array, np.ndarray | None]:
        """What :meth:`outputs` gives, and the state for the next call.

        Args:
          observations: as for :meth:`outputs`.
          state: what :meth:`initial_state` or the call before gave.

        Raises:
          ObservationsError: as :meth:`outputs`.
        """
        return self.outputs(observations), state

    def note(self, state: np.ndarray | None, actions: Array | np.ndarray) -> np.ndarray | None:
        """The state after actions were played, for a policy that sees its last ones; :meth:`act` notes what it gives.

        Args:
          state: as :meth:`decide` left it, for the actions of that decision.
          actions: that were played, whoever chose them: int ``[N]``, or float32 ``[N, components]``.
        """
        return state

    @property
    def carries(self) -> str:
        """What its state is for, in words; ``""`` of a policy without."""
        return ""

    def act(
        self,
        observations: Array | np.ndarray,
        state: np.ndarray | None = None,
        *,
        epsilon: float = 0.0,
        key: Array | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The actions to play: greedy ones, or with probability ``epsilon`` random ones; of a continuous task those
        without noise, or with ``epsilon`` of the policy's own.

        Actions are NumPy's, as emulators take them. Inside jit, ``apply`` and :func:`greedy_actions` do the same; of a
        continuous task `pd_jax.networks.continuous.noisy_actions` does.

        Args:
          observations: as for :meth:`outputs`.
          state: what :meth:`initial_state` or the call before gave.
          epsilon: chance of a uniformly random action, for each lane anew; scores are taken with 0.05. Of a continuous
            task, the scale of the noise: 1 plays a Gaussian policy's samples.
          key: PRNG key of this call's chances, such as ``jax.random.key(step)``; needed with an ``epsilon`` above 0.

        Returns:
          NumPy actions int32 ``[N]``, or float32 ``[N, components]`` of a continuous task, and the state for the next
          call.

        Raises:
          ObservationsError: as :meth:`outputs`.
          UserError: ``epsilon`` is not between 0 and 1, or has no key.
        """
        if not 0.0 <= epsilon <= 1.0:
            raise UserError(f"epsilon: {epsilon!r} is not between 0 and 1")
        if epsilon > 0.0 and key is None:
            raise UserError("epsilon: random actions need a key, such as key=jax.random.key(step)")
        outputs, state = self.decide(observations, state)
        if self.task.is_continuous:
            actions = _means(outputs, self.task) if key is None else _noisy(key, outputs, epsilon, self.task)
        else:
            actions = _greedy(outputs) if key is None else _epsilon_greedy(key, outputs, epsilon)
        return np.asarray(actions), self.note(state, actions)

    @functools.cached_property
    def _forward(self) -> Callable[[Any, Any], Array]:
        return jax.jit(self.apply)


# Shared by all policies: compiled once for each shape of outputs.
_greedy = jax.jit(greedy_actions)
_epsilon_greedy = jax.jit(epsilon_greedy)
_means = jax.jit(mean_actions, static_argnums=1)
_noisy = jax.jit(noisy_actions, static_argnums=3)


def check_observations(observations: Any, task: Task, name: str) -> Any:
    """Returns a batch of observations unless it is none of the task's.

    Args:
      observations: NumPy's or JAX's, or nested lists.
      task: says what a batch looks like.
      name: of the policy, for the message.

    Raises:
      ObservationsError: another shape or dtype.
    """
    shape, dtype = task.observation_shape, task.observation_dtype
    wanted = f"{name} takes {dtype} [{', '.join(map(str, ('N', *shape)))}]"
    if not hasattr(observations, "dtype"):
        try:
            observations = np.asarray(observations)
        except ValueError:
            raise ObservationsError(f"observations are no array; {wanted}") from None
    if observations.ndim != len(shape) + 1 or observations.shape[1:] != shape or observations.dtype != dtype:
        single = "; one observation is a batch of one: observations[None]" if observations.shape == shape else ""
        raise ObservationsError(f"observations are {observations.dtype} {list(observations.shape)}; {wanted}{single}")
    return observations
