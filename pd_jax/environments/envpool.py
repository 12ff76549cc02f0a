"""EnvPool behind one small interface: lanes of one task, stepped inside jit or from the host.

EnvPool's step inside jit exists for CPUs and CUDA. From the host lanes are stepped everywhere, in groups if so wanted:
while EnvPool steps one of them, a device decides for another. ale-py can stand in EnvPool's place, from the host.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.ale import AlePool
from pd_jax.environments.in_jit import InJit, Widths, widths_of
from pd_jax.environments.loaded import envpool
from pd_jax.environments.registered import JaxPool, is_registered, is_registered_in_jax, registered_pool
from pd_jax.environments.screens import RAM_SCALE, SCREEN_SHAPE
from pd_jax.environments.spaces import leaves_of, register
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.system.cores import is_confined, usable_cores
from pd_jax.system.devices import target_platform
from pd_jax.types import LaneRange


@flax.struct.dataclass
class TimeStep:
    """What ``L`` lanes show after one step.

    Attributes:
      observations: uint8 ``[L, 84, 84, 4]``, oldest frame first, or float32 ``[L, D]``; of an environment that shows
        colours, uint8 ``[L, 210, 160, 3]``, red, green and blue.
      rewards: float32 ``[L]``, unclipped, for the action just taken.
      is_first: bool ``[L]``, the observation opens an episode: the action just given was ignored (EnvPool resets a
        lane in the step after its last one) and this was no transition.
      terminated: bool ``[L]``, the episode ended in a terminal state (with ``episodic_life``, or a life was lost).
      truncated: bool ``[L]``, the episode reached its step limit, whether or not it also ended there by itself.
      game_over: bool ``[L]``, the game itself ended or was cut off; differs from the two above only with
        ``episodic_life``.
      beside: of an environment that has it, what a student senses and the task does not show: float32 ``[L, 128]`` of
        the consoles' memory, or uint8 ``[L, 84, 84, 4]``.
    """

    observations: Array
    rewards: Array
    is_first: Array
    terminated: Array
    truncated: Array
    game_over: Array
    beside: Array | None = None

    @property
    def is_last(self) -> Array:
        """bool ``[L]``: the observation closes an episode, and the next action will be ignored."""
        return self.terminated | self.truncated


def _own_threads() -> int:
    """EnvPool counts all cores of the machine, also those that this process may not use; 0 leaves it to do so."""
    return len(usable_cores()) if is_confined() else 0


def frames_first(observations: Any) -> Any:
    """Stacks ``[L, H, W, 4]`` as EnvPool gives them, ``[L, 4, H, W]``; vectors as they are."""
    return observations.transpose(0, 3, 1, 2) if observations.ndim == 4 else observations


def frames_last(observations: Any) -> Any:
    """Stacks ``[L, 4, H, W]`` as policies see them, ``[L, H, W, 4]``; vectors as they are."""
    return observations.transpose(0, 2, 3, 1) if observations.ndim == 4 else observations


def flatten(observations: Any, task: Task) -> Any:
    """A batch of observations as EnvPool gives them, or such vectors, as vectors of float32 ``[L, D]``."""
    if not hasattr(observations, "items"):
        flat = observations.reshape(observations.shape[0], math.prod(observations.shape[1:]))
        return flat.astype(np.float32)
    parts = dict(leaves_of(observations))
    # EnvPool's dict need not have the order of its specification.
    ordered = [parts[name] for name, _ in task.components] if task.components else list(parts.values())
    is_numpy = all(isinstance(part, np.ndarray) for part in ordered)
    vectors = [part.reshape(part.shape[0], math.prod(part.shape[1:])).astype(np.float32) for part in ordered]
    return np.concatenate(vectors, axis=1) if is_numpy else jnp.concatenate(vectors, axis=1)


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


class Received(NamedTuple):
    """What EnvPool gives of a step: stacks ``[L, 4, H, W]``, vectors or bytes; ``ended`` and ``beside`` are None if
    there is nothing of the kind."""

    observations: Any
    rewards: Any
    terminated: Any
    truncated: Any
    ended: Any
    beside: Any = None


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
      fire_reset: whether FIRE opens an Atari game that has this action. Without, it opens as the others do.
      num_threads: EnvPool's worker threads, of each group; 0 leaves the choice to EnvPool, or is one
        for each core where this process may not use all of the machine's. ale-py has one for each lane.
      mode, difficulty: of an Atari game, as the emulator numbers them; None is the game's own, which is all that
        ale-py's vector environment has.
      backend: ``"envpool"``, or ``"ale"`` for `pd_jax.environments.ale`: the same play by another build of the
        emulator, of Atari games and from the host.
      stepping: ``"jit"`` or ``"host"``: how those who play it are to step it.
      num_groups: that the lanes are stepped in from the host, at most as many as there are lanes; one in jit.
        What the lanes show does not depend on it.
      shows: of an Atari game: ``"stacks"`` of frames as policies see them, or ``"colours"``, the screen as people do.
        EnvPool's alone. The play is the same, and so are :attr:`ram`, rewards and ends.
      beside: of a game of Atari: what time steps have beside what the task shows, its ``"ram"`` or its ``"frames"``.
        EnvPool's alone.

    Attributes:
      groups: the lanes of each group.
      handle: what :meth:`step` is given first, as :meth:`reset` gives it.
      lives: int ``[lanes]``, after :meth:`reset` or :meth:`step_host`, of the lanes that it was about; None of a task
        that has none.
      ram: uint8 ``[lanes, 128]``, the memory of the consoles, likewise; None of a task or a back end that shows none.

    Raises:
      ValueError: ``num_lanes``, ``max_noops`` or ``num_groups`` is below 1, ``stepping`` or ``backend`` is neither, or
        there are several groups, or ale-py, in jit; or colours, or what is beside, are wanted of ale-py, or of a task
        without screens.
      UserError: ale-py is wanted, and is not installed or has no such game; or the game has no such mode or difficulty.
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
        fire_reset: bool = True,
        num_threads: int = 0,
        mode: int | None = None,
        difficulty: int | None = None,
        backend: Literal["envpool", "ale"] = "envpool",
        stepping: Literal["jit", "host"] = "jit",
        num_groups: int = 1,
        shows: Literal["stacks", "colours"] = "stacks",
        beside: Literal["ram", "frames"] | None = None,
    ) -> None:
        # Checked here: EnvPool 1.2.5 takes its options as they are, and has crashed on some.
        if min(num_lanes, max_noops, num_groups) < 1:
            raise ValueError(
                f"num_lanes, max_noops and num_groups must be at least 1, got {num_lanes}, {max_noops}, {num_groups}"
            )
        if stepping not in ("jit", "host"):
            raise ValueError(f"stepping must be 'jit' or 'host', got {stepping!r}")
        if stepping == "jit" and num_groups > 1:
            raise ValueError(f"inside jit all lanes are stepped together, not in {num_groups} groups")
        if backend not in ("envpool", "ale") or (backend == "ale" and stepping == "jit"):
            raise ValueError(f"backend must be 'envpool', or 'ale' from the host, got {backend!r} and {stepping!r}")
        if shows == "colours" and (backend == "ale" or not task.is_console):
            raise ValueError(f"colours are EnvPool's, of games of Atari; got {backend!r} and {task.name}")
        if (beside or task.ram) and (backend == "ale" or not task.is_console):
            raise ValueError(f"memory beside frames is EnvPool's, of games of Atari; got {backend!r} and {task.name}")
        if backend == "envpool" and not is_registered(task):
            register(task.pool_id)
        is_own = is_registered(task)
        if is_own and not is_registered_in_jax(task):
            # Gymnasium's are Python, and stepped from there, whatever device plays.
            stepping = "host"
        self.task = task
        self._beside = beside
        self._shows_ram = task.ram and shows == "stacks"
        self.num_lanes = num_lanes
        self.stepping = stepping
        bounds = np.linspace(0, num_lanes, min(num_groups, num_lanes) + 1).round().astype(int).tolist()
        self.groups = tuple(LaneRange(*each, num_lanes) for each in itertools.pairwise(bounds))
        options: dict[str, Any] = {"max_episode_steps": max_episode_steps or task.max_episode_steps}
        if task.is_console:
            options |= {
                "stack_num": 4,
                "frame_skip": 4,
                "noop_max": max_noops,
                "episodic_life": episodic_life,
                "reward_clip": False,
                "repeat_action_probability": sticky_action_probability,
                "full_action_space": False,
                "use_fire_reset": fire_reset,
            }
            if shows == "colours":
                height, width = SCREEN_SHAPE
                options |= {"gray_scale": False, "stack_num": 1, "img_height": height, "img_width": width}
            variant = {"mode": mode, "difficulty": difficulty}
            variant = {name: value for name, value in variant.items() if value is not None}
            if variant and backend == "ale":
                raise UserError("env.backend: ale-py's vector environment has the game's own mode and difficulty alone")
            options |= variant
        elif mode is not None or difficulty is not None:
            raise UserError(f"env.mode: {task.name} is no game of Atari, and has no modes or difficulties")

        def pool_of(lanes: LaneRange) -> Any:
            count, own_seed = lanes.stop - lanes.start, seed + lanes.start
            if is_own:
                return registered_pool(task, count, own_seed, options["max_episode_steps"])
            if backend == "ale":
                return AlePool(
                    task,
                    count,
                    own_seed,
                    max_noops=max_noops,
                    max_episode_steps=options["max_episode_steps"],
                    sticky_action_probability=sticky_action_probability,
                    episodic_life=episodic_life,
                    fire_reset=fire_reset,
                )
            try:
                return envpool.make(
                    task.pool_id,
                    env_type="gymnasium",
                    num_envs=count,
                    batch_size=count,
                    seed=own_seed,
                    num_threads=num_threads or _own_threads(),
                    **options,
                )
            except RuntimeError as error:
                # "Invalid game mode requested", "Invalid difficulty requested".
                if (mode, difficulty) == (None, None) or "nvalid" not in str(error):
                    raise
                wrong = "difficulty" if "difficulty" in str(error) else "mode"
                raise UserError(f"env.{wrong}: {task.name} has none of number {options[wrong]}") from None

        self._pools = [pool_of(lanes) for lanes in self.groups]
        with warnings.catch_warnings():
            # Built at first use and then kept. Gymnasium warns that it rounds CartPole's bounds to float32.
            warnings.simplefilter("ignore")
            for pool in self._pools:
                _ = pool.observation_space
        self.handle: Any = np.zeros(0, np.uint8)
        self.lives: np.ndarray | None = None
        self.ram: np.ndarray | None = None
        self._in_jit: InJit | JaxPool | None = None
        self._in_jit_elsewhere: Any = None
        self._width: Widths | None = None
        if stepping == "jit":
            (pool,) = self._pools
            if isinstance(pool, JaxPool):
                self._in_jit = pool
            elif target_platform() == "cpu":
                self._in_jit = InJit(pool)
                self.handle = self._in_jit.handle
            else:
                self._width = widths_of(pool)
                with self._width:
                    self.handle, _, _, self._in_jit_elsewhere = pool.xla()

    @property
    def kind(self) -> Hashable | None:
        """What is equal for environments whose :meth:`step` traces to the same program; None is like no other."""
        # A closed one has none: what is compiled of it fails when it is called.
        in_jit = getattr(self, "_in_jit", None)
        if not isinstance(in_jit, InJit):
            return None
        return self.task, self.num_lanes, self._beside, self._shows_ram, in_jit.kind

    def reset(self) -> tuple[Array, TimeStep]:
        """Starts every lane afresh and returns the handle for :meth:`step` with the first time step."""
        shown = [pool.reset() for pool in self._pools]
        observations = np.concatenate([self._as_seen(self._seen(*each)) for each in shown])
        self.lives, self.ram = (
            np.concatenate([info[name] for _, info in shown]) if all(name in info for _, info in shown) else None
            for name in ("lives", "ram")
        )
        if isinstance(self._in_jit, JaxPool):
            self.handle = self._in_jit.handle
        # One array for each field: callers may donate them all. Made by NumPy: JAX would compile each of them.
        count = self.num_lanes
        fields: dict[str, Any] = {
            "observations": observations,
            "rewards": np.zeros(count, np.float32),
            "is_first": np.ones(count, bool),
            "terminated": np.zeros(count, bool),
            "truncated": np.zeros(count, bool),
            "game_over": np.zeros(count, bool),
        }
        if self._beside is not None:
            fields["beside"] = _as_seen(np.concatenate([self._seen_beside(*each) for each in shown]))
        started: tuple[Array, TimeStep] = jax.device_put((self.handle, TimeStep(**fields)))
        return started

    @jax.named_scope("stepping")
    def step(self, handle: Any, actions: Array, previous: TimeStep) -> tuple[Any, TimeStep]:
        """Steps every lane from inside jit.

        Args:
          handle: from :meth:`reset` or the step before; threading it through is what orders the calls.
          actions: int32 ``[L]``; of a continuous task float32 ``[L, components]``, within its range.
          previous: the time step the actions answer.
        """
        outputs: Any
        if isinstance(self._in_jit, JaxPool):
            handle, outputs = self._in_jit.step_in_jit(handle, actions)
        elif self._in_jit is not None and target_platform() == "cpu":
            handle, outputs = self._in_jit.step(handle, actions)
        else:
            # Also of a program that is only compiled, for devices that are not there.
            if self._width is None:
                self._width = widths_of(self._pools[0])
            with self._width:
                if self._in_jit_elsewhere is None:
                    self._in_jit_elsewhere = self._pools[0].xla()[-1]
                handle, outputs = self._in_jit_elsewhere(handle, self._width.widened(actions))
                outputs = self._width.narrowed(outputs)
        return handle, self._timestep(*outputs, is_first=previous.is_last)

    def unwatched(self, play: Callable[..., Any]) -> Callable[..., Any]:
        """A function that steps, to be traced, as JAX calls it soonest.

        JAX keeps account of what has effects, in a millisecond of Python's for each call. Without, the end of the
        process waits for a program that still steps if it was told of its handle, by :meth:`wait_for`. The function has
        to return the handle of its last step.
        """
        return self._in_jit.unwatched(play) if isinstance(self._in_jit, InJit) else play

    def wait_for(self, handle: Array) -> None:
        """Says which handle the last call of an :meth:`unwatched` function gave."""
        # Of closed lanes the program tells.
        in_jit = getattr(self, "_in_jit", None)
        if isinstance(in_jit, InJit):
            in_jit.wait_for(handle)

    def send(self, group: int, actions: np.ndarray) -> None:
        """Has the lanes of a group stepped, while the caller does something else until :meth:`receive`.

        Args:
          group: its number.
          actions: int ``[lanes of the group]``, or as for :meth:`step`.
        """
        self._pools[group].send(np.asarray(actions, self.task.action_dtype))

    def receive(self, group: int) -> Received:
        """Waits for what :meth:`send` asked of a group, and returns it as EnvPool gives it, for :meth:`timestep`."""
        observations, rewards, terminated, truncated, info = self._pools[group].recv()
        seen, beside = self._seen(observations, info), self._seen_beside(observations, info)
        if not self.task.is_console:
            # Of several boxes EnvPool gives a dict; here, as the device takes one array.
            seen = flatten(seen, self.task)
        return Received(seen, rewards, terminated, truncated, info.get("terminated"), beside)

    def timestep(self, received: Received, is_first: Any) -> TimeStep:
        """The time step that was received.

        To be traced: so the frames go to the device as they are, and are turned there.

        Args:
          received: from :meth:`receive`.
          is_first: bool ``[L]``, :attr:`TimeStep.is_last` of the time step before it.
        """
        observations, rewards, terminated, truncated, ended, beside = received
        return self._made(observations, beside, rewards, terminated, truncated, ended, is_first=is_first)

    def step_host(self, actions: np.ndarray, is_first: np.ndarray, lanes: np.ndarray | None = None) -> TimeStep:
        """Steps every lane from Python, or some of them; they are in one group.

        Args:
          actions: int ``[L]``, or as for :meth:`step`.
          is_first: bool ``[L]``, :attr:`TimeStep.is_last` of the time step the actions answer.
          lanes: those that are stepped, in rising order; the others stand still. Arguments and result are theirs alone.

        Returns:
          a time step of NumPy arrays.
        """
        lanes = None if lanes is None else np.asarray(lanes, np.int32)
        (pool,) = self._pools
        received = pool.step(np.asarray(actions, self.task.action_dtype), lanes)
        self.lives, self.ram = (received[-1].get(name) for name in ("lives", "ram"))
        return self._timestep(*received, is_first=is_first)

    def close(self) -> None:
        """Ends the emulators and their threads.

        Nothing that was compiled with :meth:`step` may be called afterwards: on a CPU it fails, and elsewhere it holds
        EnvPool's bare address.
        """
        if self._in_jit is not None:
            self._in_jit.close()
        for pool in self._pools if is_registered(self.task) else ():
            pool.close()
        # EnvPool's own close() does nothing; its threads end with the object.
        del self._pools, self._in_jit, self._in_jit_elsewhere

    def _seen(self, observations: Any, info: Any) -> Any:
        """What the task shows, as EnvPool gives it."""
        return info["ram"] if self._shows_ram else observations

    def _seen_beside(self, observations: Any, info: Any) -> Any:
        """What is beside it, likewise."""
        return {None: None, "ram": info.get("ram"), "frames": observations}[self._beside]

    def _as_seen(self, observations: Any) -> Any:
        return _as_seen(observations) if self.task.is_console else flatten(observations, self.task)

    def _timestep(
        self, observations: Any, rewards: Any, terminated: Any, truncated: Any, info: dict[str, Any], *, is_first: Any
    ) -> TimeStep:
        seen, beside = self._seen(observations, info), self._seen_beside(observations, info)
        return self._made(seen, beside, rewards, terminated, truncated, info.get("terminated"), is_first=is_first)

    def _made(
        self,
        observations: Any,
        beside: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        ended: Any,
        *,
        is_first: Any,
    ) -> TimeStep:
        # With episodic_life `terminated` also marks lost lives; info["terminated"] is the emulator's own game over,
        # also where that falls on the step limit and EnvPool reports only `truncated`.
        game_over = (ended != 0) if ended is not None else terminated
        return TimeStep(
            observations=self._as_seen(observations),
            rewards=rewards.astype(np.float32),
            is_first=is_first,
            terminated=terminated | game_over,
            truncated=truncated,
            game_over=game_over | truncated,
            beside=None if beside is None else _as_seen(beside),
        )


def _as_seen(observations: Any) -> Any:
    """What is seen of consoles: of frames stacks ``[L, H, W, 4]``, of bytes of memory ``[L, 128]`` numbers from 0 to
    1."""
    if observations.ndim == 4:
        return frames_last(observations)
    # A product with a constant is the same on every platform, which a quotient need not be.
    return observations.astype(np.float32) * RAM_SCALE
