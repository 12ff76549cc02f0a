"""ale-py's vector environment behind the interface of EnvPool's: another build of the emulator, to the same play.

ale-py plays a game's frames one by one and shows the screen. What makes a control step of them is done here, as EnvPool
does it: no-ops and FIRE at a reset, an action held for four frames, the maximum of the last two, 84x84, stacks of four.
The same seeds and actions give the same rewards, ends and frames, with sticky actions too. One thing ale-py's vector
environment does not show, and nobody learns from: the frame in which a game ends. The one before stands in its place.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np

from pd_jax.environments.screens import SCREEN_SHAPE, FrameStack
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError

_FRAME_SKIP = 4
# ale-py counts frames in an int and adds one to this. Games are cut here, at control steps.
_NO_LIMIT = 2**30
_TASKS = "ale-py's games are those of Atari"


def check_backend(backend: str, *tasks: Task) -> None:
    """Raises a UserError unless the setting ``env.backend`` has these tasks on this machine."""
    for task in tasks if backend == "ale" else ():
        check_available(task)


def check_available(task: Task) -> None:
    """Raises a UserError unless ale-py is installed and has the task."""
    if task.ram:
        raise UserError(f"env.backend: the memory of {task.name} is read by EnvPool; envpool has it")
    if task.kind != "atari":
        raise UserError(f"env.backend: {_TASKS}, and {task.name} is none; envpool has it")
    if importlib.util.find_spec("ale_py") is None:
        raise UserError("env.backend: 'ale' needs ale-py, which is not installed: pip install 'pd-jax[ale]'")
    if importlib.util.find_spec("ale_py.vector_env") is None:
        raise UserError("env.backend: this ale-py has no vector environment; 0.12.1 does: pip install 'pd-jax[ale]'")
    from ale_py import roms

    if task.name not in roms.get_all_rom_ids():
        raise UserError(f"env.backend: ale-py has no game {task.name!r}; envpool has it")


class AlePool:
    """Lanes of one Atari game, stepped and reset as EnvPool's are; the methods are those of its Gymnasium interface.

    Args:
      task: the game.
      num_lanes: played side by side, each by a thread of ale-py's.
      seed: lane i gets ``seed + i``: of the emulator, and of the numbers of no-ops.
      max_noops, fire_reset, max_episode_steps, sticky_action_probability, episodic_life: as for
        `pd_jax.environments.envpool.Environment`.

    Attributes:
      lives: int32 ``[num_lanes]``, of the games as they are.

    Raises:
      UserError: ale-py is not installed, or has no such game, or another version of it.
    """

    def __init__(
        self,
        task: Task,
        num_lanes: int,
        seed: int,
        *,
        max_noops: int,
        max_episode_steps: int,
        sticky_action_probability: float = 0.0,
        episodic_life: bool = False,
        fire_reset: bool = True,
    ) -> None:
        check_available(task)
        fire = _fire_of(task)
        self._fire = fire if fire_reset else None
        self._max_steps = max_episode_steps
        self._episodic_life = episodic_life
        self._seeds = [seed + lane for lane in range(num_lanes)]
        self._seeded = False
        self._noops = [_Noops(lane_seed, max_noops) for lane_seed in self._seeds]
        self._lanes = [_open(task.name, sticky_action_probability) for _ in range(num_lanes)]
        # The screens whose maximum an observation is; where a game has ended early, the one before goes on showing.
        self._screens = np.zeros((2, num_lanes, *SCREEN_SHAPE), np.uint8)
        self._stacks = FrameStack(num_lanes)
        self._steps = np.zeros(num_lanes, np.int64)
        self._done = np.zeros(num_lanes, bool)
        self._over = np.zeros(num_lanes, bool)
        self.lives = np.zeros(num_lanes, np.int32)
        self._stepped: tuple[Any, ...] = ()

    @property
    def observation_space(self) -> Any:
        """Of all lanes, as ale-py's own are."""
        return self._lanes[0].observation_space

    def reset(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Starts every lane afresh: stacks ``[L, 4, 84, 84]`` and what is known of the lanes."""
        lanes = np.arange(len(self._lanes))
        self._begin(lanes, anew=np.ones(len(lanes), bool))
        return self._stacks.planes.copy(), self._info(lanes)

    def step(self, actions: np.ndarray, lanes: np.ndarray | None = None) -> tuple[Any, ...]:
        """Steps lanes, all of them by default; those whose game has ended begin another and ignore their action.

        Args:
          actions: int ``[lanes]``.
          lanes: in rising order.

        Returns:
          stacks uint8 ``[lanes, 4, 84, 84]``, rewards float32, whether the episodes ended by themselves, or at the
          limit, and what is known of the lanes: ``terminated`` (the game is over) and ``lives``.
        """
        lanes = np.arange(len(self._lanes)) if lanes is None else np.asarray(lanes)
        actions = np.asarray(actions)
        rewards = np.zeros(len(lanes), np.float32)
        waiting = self._done[lanes]
        if waiting.any():
            begun = lanes[waiting]
            is_new = self._over[begun] | (self._steps[begun] >= self._max_steps)
            self._begin(begun, anew=is_new if self._episodic_life else np.ones(len(begun), bool))
        if not waiting.all():
            rewards[~waiting] = self._play(lanes[~waiting], actions[~waiting])
        done, truncated = self._done[lanes], self._done[lanes] & (self._steps[lanes] >= self._max_steps)
        return self._stacks.planes[lanes], rewards, done & ~truncated, truncated, self._info(lanes)

    def send(self, actions: np.ndarray) -> None:
        """Steps all lanes, for :meth:`recv`."""
        self._stepped = self.step(actions)

    def recv(self) -> tuple[Any, ...]:
        """What :meth:`send` came to, as :meth:`step` returns it."""
        return self._stepped

    def _info(self, lanes: np.ndarray) -> dict[str, np.ndarray]:
        return {"terminated": self._over[lanes].astype(np.int32), "lives": self.lives[lanes]}

    def _play(self, lanes: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Holds the actions of lanes for four frames, or until their games end, and returns the rewards."""
        rewards, lives = np.zeros(len(lanes), np.float32), self.lives[lanes]
        playing = np.ones(len(lanes), bool)
        for frame in range(_FRAME_SKIP):
            into = frame - (_FRAME_SKIP - 2)
            index = np.flatnonzero(playing)
            rewards[index] += self._frame(lanes[index], actions[index], max(into, 0) if into >= 0 else None)
            playing &= ~self._over[lanes]
            if not playing.any():
                break
        # A game that ended on the way shows one screen, as EnvPool has it; a frame that ends a game is not shown.
        whole = lanes[playing]
        self._screens[0, whole] = self._screens[:, whole].max(axis=0)
        self._push(lanes)
        self._steps[lanes] += 1
        lost = (self.lives[lanes] > 0) & (self.lives[lanes] < lives)
        self._done[lanes] = (
            self._over[lanes] | (self._steps[lanes] >= self._max_steps) | (lost if self._episodic_life else False)
        )
        return rewards

    def _begin(self, lanes: np.ndarray, anew: np.ndarray) -> None:
        """Resets lanes; those not ``anew`` go on with the game that they have lost a life of."""
        fills = anew.copy()
        for lane in lanes[anew]:
            seed = None if self._seeded else self._seeds[lane]
            screens, info = self._lanes[lane].reset(seed=seed)
            self._screens[0, lane] = screens[0, -1]
            self._steps[lane], self._over[lane], self.lives[lane] = 0, False, info["lives"][0]
        self._seeded = True
        left = np.array([self._noops[lane].draw(self._fire is not None) for lane in lanes])
        while (left > 0).any():
            index = np.flatnonzero(left > 0)
            self._frame(lanes[index], np.zeros(len(index), np.int64), 0)
            ended = index[self._over[lanes[index]]]
            if len(ended):
                # ale-py begins a new game in the step after the last one.
                self._frame(lanes[ended], np.zeros(len(ended), np.int64), 0)
                fills[ended] = True
            left[index] -= 1
        if self._fire is not None:
            self._frame(lanes, np.full(len(lanes), self._fire), 0)
        self._push(lanes, fills)
        self._done[lanes] = False

    def _frame(self, lanes: np.ndarray, actions: np.ndarray, into: int | None) -> np.ndarray:
        """Plays one frame of lanes, notes what it shows in one of the two screens, and returns the rewards."""
        for lane, action in zip(lanes, actions, strict=True):
            self._lanes[lane].send(np.array([action], np.int32))
        rewards = np.zeros(len(lanes), np.float32)
        for index, lane in enumerate(lanes):
            screens, reward, terminated, _, info = self._lanes[lane].recv()
            if into is not None:
                self._screens[into, lane] = screens[0, -1]
            rewards[index], self._over[lane], self.lives[lane] = reward[0], terminated[0], info["lives"][0]
        return rewards

    def _push(self, lanes: np.ndarray, fills: np.ndarray | None = None) -> None:
        """Adds the newest frames to stacks, or fills whole stacks with them."""
        fills = np.zeros(len(lanes), bool) if fills is None else fills
        self._stacks.push(self._screens[:1, lanes].swapaxes(0, 1), fills, lanes)


class _Noops:
    """The numbers of no-ops that EnvPool's lanes draw: by `std::mt19937` and `std::uniform_int_distribution`."""

    def __init__(self, seed: int, maximum: int) -> None:
        self._words: Any = np.random.MT19937()
        # NumPy's own name for the seeding that the standard library of C++ has.
        self._words._legacy_seeding(seed)
        self._maximum = maximum

    def draw(self, is_fire_next: bool) -> int:
        """One to the maximum; one less before a FIRE, which counts."""
        # Lemire's way (2019), which libstdc++ takes since GCC 11.
        while True:
            product = int(self._words.random_raw()) * self._maximum
            if product % 2**32 >= 2**32 % self._maximum:
                return product // 2**32 + 1 - is_fire_next


@functools.cache
def _fire_of(task: Task) -> int | None:
    """The index of FIRE in the game's action set, if it has one; raises if the game is another than EnvPool's."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    console.loadROM(ale_py.roms.get_rom_path(task.name))
    actions = console.getMinimalActionSet()
    if len(actions) != task.num_actions or console.getScreenDims() != SCREEN_SHAPE:
        raise UserError(
            f"env.backend: ale-py's {task.name} has {len(actions)} actions and a screen of "
            f"{'x'.join(map(str, console.getScreenDims()))}, EnvPool's {task.num_actions} and 210x160"
        )
    return actions.index(ale_py.Action.FIRE) if ale_py.Action.FIRE in actions else None


def _open(game: str, sticky_action_probability: float) -> Any:
    """One lane: frames one by one, as they are on the screen."""
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        game,
        1,
        num_threads=1,
        frameskip=1,
        maxpool=False,
        stack_num=1,
        img_height=SCREEN_SHAPE[0],
        img_width=SCREEN_SHAPE[1],
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
        max_num_frames_per_episode=_NO_LIMIT,
        repeat_action_probability=sticky_action_probability,
    )
