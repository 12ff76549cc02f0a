"""EnvPool behind one small interface: lanes of one task, stepped inside jit or from the host."""

from __future__ import annotations

import warnings
from typing import Any

import envpool
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.tasks import Task


@flax.struct.dataclass
class TimeStep:
    """What ``L`` lanes show after one step.

    Attributes:
      observations: uint8 ``[L, 84, 84, 4]``, oldest frame first, or float32 ``[L, D]``.
      rewards: float32 ``[L]``, unclipped, for the action just taken.
      is_first: bool ``[L]``, the observation opens an episode: the action just given was ignored (EnvPool resets a
        lane in the step after its last one) and this was no transition.
      terminated: bool ``[L]``, the episode ended in a terminal state (with ``episodic_life``, or a life was lost).
      truncated: bool ``[L]``, the episode reached its step limit, whether or not it also ended there by itself.
      game_over: bool ``[L]``, the game itself ended or was cut off; differs from the two above only with
        ``episodic_life``.
    """

    observations: Array
    rewards: Array
    is_first: Array
    terminated: Array
    truncated: Array
    game_over: Array

    @property
    def is_last(self) -> Array:
        """bool ``[L]``: the observation closes an episode, and the next action will be ignored."""
        return self.terminated | self.truncated


@flax.struct.dataclass
class EpisodeStatistics:
    """Return and length of every lane's current game.

    Attributes:
      returns: float32 ``[L]``, unclipped.
      lengths: int32 ``[L]``, control steps; the no-ops that EnvPool plays in a reset, and with ``episodic_life`` after
        every lost life, are not among them.
    """

    returns: Array
    lengths: Array

    @classmethod
    def zeros(cls, num_lanes: int) -> EpisodeStatistics:
        """Statistics of lanes that have not moved yet."""
        return cls(jnp.zeros(num_lanes, jnp.float32), jnp.zeros(num_lanes, jnp.int32))

    def update(self, timestep: TimeStep, previous_game_over: Array) -> EpisodeStatistics:
        """Adds one step. A step after the end of a game starts a new count; the reset step itself adds nothing."""
        returns = jnp.where(previous_game_over, 0.0, self.returns)
        lengths = jnp.where(previous_game_over, 0, self.lengths)
        moved = (~timestep.is_first).astype(jnp.int32)
        return EpisodeStatistics(returns + timestep.rewards * moved, lengths + moved)


class Environment:
    """``num_lanes`` independent copies of a task.

    The same seed and the same actions give the same observations, bit for bit, through :meth:`step` inside jit and
    through :meth:`step_host`. EnvPool holds the emulators; ``handle`` only names them and orders the calls.

    Args:
      task: what to play.
      num_lanes: environments stepped together.
      seed: of the emulators; lane i gets ``seed + i`` from EnvPool.
      episodic_life: end an episode at every lost life (training only).
      max_noops: at least 1. A random number of no-op frames opens an Atari game, uniform over 0 to ``max_noops - 1``
        and followed by one FIRE in games that have this action, and over 1 to ``max_noops`` in the others.
      max_episode_steps: control steps before an episode is cut off; the task's own limit by default.
      sticky_action_probability: chance that an Atari frame repeats the action before it; 0 in the paper.
      num_threads: EnvPool's worker threads; 0 leaves the choice to EnvPool.

    Raises:
      ValueError: ``num_lanes`` or ``max_noops`` is below 1.
    """

    def __init__(
        self,
        task: Task,
        num_lanes: int,
        seed: int,
        *,
        episodic_life: bool = False,
        max_noops: int = 30,
        max_episode_steps: int | None = None,
        sticky_action_probability: float = 0.0,
        num_threads: int = 0,
    ) -> None:
        # EnvPool 1.2.5 draws the no-ops from [0, max_noops - 1], and dies of a segmentation fault when that is empty.
        if min(num_lanes, max_noops) < 1:
            raise ValueError(f"num_lanes and max_noops must be at least 1, got {num_lanes} and {max_noops}")
        self.task = task
        self.num_lanes = num_lanes
        options: dict[str, Any] = {}
        if task.kind == "atari":
            options = {
                "stack_num": 4,
                "frame_skip": 4,
                "noop_max": max_noops,
                "episodic_life": episodic_life,
                "reward_clip": False,
                "repeat_action_probability": sticky_action_probability,
                "full_action_space": False,
            }
        self._pool = envpool.make(
            task.env_id,
            env_type="gymnasium",
            num_envs=num_lanes,
            batch_size=num_lanes,
            seed=seed,
            max_episode_steps=max_episode_steps or task.max_episode_steps,
            num_threads=num_threads,
            **options,
        )
        with warnings.catch_warnings():
            # Built at first use and then kept. Gymnasium warns that it rounds CartPole's bounds to float32.
            warnings.simplefilter("ignore")
            _ = self._pool.observation_space
        self._handle, _, _, self._xla_step = self._pool.xla()

    def reset(self) -> tuple[Array, TimeStep]:
        """Starts every lane afresh and returns the handle for :meth:`step` with the first time step."""
        observations, _ = self._pool.reset()
        # One array for each field: callers may donate them all.
        timestep = TimeStep(
            observations=jnp.asarray(self._stacks_last(observations)),
            rewards=jnp.zeros(self.num_lanes, jnp.float32),
            is_first=jnp.ones(self.num_lanes, bool),
            terminated=jnp.zeros(self.num_lanes, bool),
            truncated=jnp.zeros(self.num_lanes, bool),
            game_over=jnp.zeros(self.num_lanes, bool),
        )
        return jnp.asarray(self._handle), timestep

    @jax.named_scope("stepping")
    def step(self, handle: Array, actions: Array, previous: TimeStep) -> tuple[Array, TimeStep]:
        """Steps every lane from inside jit.

        Args:
          handle: from :meth:`reset` or the step before; threading it through is what orders the calls.
          actions: int32 ``[L]``.
          previous: the time step the actions answer.
        """
        handle, outputs = self._xla_step(handle, actions)
        return handle, self._timestep(*outputs, is_first=previous.is_last)

    def step_host(self, actions: np.ndarray, is_first: np.ndarray, lanes: np.ndarray | None = None) -> TimeStep:
        """Steps every lane from Python, or some of them.

        Args:
          actions: int ``[L]``.
          is_first: bool ``[L]``, :attr:`TimeStep.is_last` of the time step the actions answer.
          lanes: those that are stepped, in rising order; the others stand still. Arguments and result are theirs alone.

        Returns:
          a time step of NumPy arrays.
        """
        lanes = None if lanes is None else np.asarray(lanes, np.int32)
        return self._timestep(*self._pool.step(np.asarray(actions, np.int32), lanes), is_first=is_first)

    def close(self) -> None:
        """Ends the emulators and their threads.

        Nothing that was compiled with :meth:`step` may be called afterwards: it holds EnvPool's bare address.
        """
        # EnvPool's own close() does nothing; its threads end with the object.
        del self._pool, self._xla_step

    def _stacks_last(self, observations: Any) -> Any:
        return observations.transpose(0, 2, 3, 1) if self.task.kind == "atari" else observations.astype(np.float32)

    def _timestep(
        self, observations: Any, rewards: Any, terminated: Any, truncated: Any, info: dict[str, Any], *, is_first: Any
    ) -> TimeStep:
        # With episodic_life `terminated` also marks lost lives; info["terminated"] is the emulator's own game over,
        # also where that falls on the step limit and EnvPool reports only `truncated`.
        game_over = (info["terminated"] != 0) if "terminated" in info else terminated
        return TimeStep(
            observations=self._stacks_last(observations),
            rewards=rewards.astype(np.float32),
            is_first=is_first,
            terminated=terminated | game_over,
            truncated=truncated,
            game_over=game_over | truncated,
        )
