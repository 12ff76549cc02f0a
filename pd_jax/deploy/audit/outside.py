"""Play outside what was taught: sticky actions, more no-ops, other modes, noise, and a part of the frame hidden."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pd_jax.config.audit import AuditConfig
from pd_jax.deploy.audit.play import Disturbance
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError

_STACK = 4
_HIDDEN = 0
_PROBED = range(1, 17)


class Variation(NamedTuple):
    """One way in which play is other than what was taught.

    Attributes:
      name: short.
      options: of the environment, in the place of the protocol's.
      disturb: makes what comes between environment and policies; None if nothing does.
    """

    name: str
    options: Mapping[str, Any]
    disturb: Callable[[], Disturbance] | None = None


class Noise:
    """Adds normal noise to what the policies see; each frame has its own, which stays with it in the stack.

    Args:
      scales: standard deviation, of grey levels, or of each number of a vector ``[D]``.
      seed: of the noise.
    """

    def __init__(self, scales: float | np.ndarray, seed: int) -> None:
        self._scales = scales
        self._generator = np.random.default_rng(seed)
        self._stacks: np.ndarray | None = None

    def __call__(self, observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        if observations.ndim == 2:
            noisy: np.ndarray = observations + self._draw(observations.shape)
            return noisy.astype(np.float32)
        newest = observations[..., -1]
        newest = np.rint(newest + self._draw(newest.shape)).clip(0, 255).astype(np.uint8)
        filled = np.repeat(newest[..., None], _STACK, axis=-1)
        moved = filled if self._stacks is None else np.concatenate([self._stacks[..., 1:], newest[..., None]], -1)
        self._stacks = np.where(is_first[:, None, None, None], filled, moved)
        return self._stacks

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        drawn: np.ndarray = self._scales * self._generator.standard_normal(shape, dtype=np.float32)
        return drawn


class Occlusion:
    """Hides a square of the frames, at a place of its own in each game.

    Args:
      share: of the frame's area.
      seed: of the places.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._generator = np.random.default_rng(seed)
        self._places: np.ndarray | None = None

    def __call__(self, observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        lanes, height, width = observations.shape[:3]
        side = min(height, width, max(1, round(float(np.sqrt(self._share * height * width)))))
        drawn = self._generator.integers([height - side + 1, width - side + 1], size=(lanes, 2))
        self._places = drawn if self._places is None else np.where(is_first[:, None], drawn, self._places)
        hidden = np.array(observations)
        for lane, (top, left) in enumerate(self._places):
            hidden[lane, top : top + side, left : left + side] = _HIDDEN
        return hidden


def variations(config: AuditConfig, task: Task, spread: np.ndarray | None) -> list[Variation]:
    """What is played outside, with what the game has of it.

    Args:
      config: the settings.
      task: the game.
      spread: standard deviation of each number of a vector in the student's play; None of frames.
    """
    outside, seed = config.outside, config.seed
    if not outside.episodes:
        return []
    found: list[Variation] = []
    if task.kind == "atari":
        if outside.sticky_action_probability:
            sticky = outside.sticky_action_probability
            found.append(Variation(f"sticky actions {sticky:g}", {"sticky_action_probability": sticky}))
        found += [Variation(f"up to {most} no-ops", {"max_noops": most}) for most in outside.max_noops or ()]
        modes, difficulties = chosen_settings(config, task)
        found += [Variation(f"mode {mode}", {"mode": mode}) for mode in modes]
        found += [Variation(f"difficulty {difficulty}", {"difficulty": difficulty}) for difficulty in difficulties]
    if outside.noise:
        scales: Any = outside.noise * (255.0 if spread is None else spread)
        what = f"{scales:.3g} grey levels" if spread is None else f"{100 * outside.noise:g} % of the spread"
        found.append(Variation(f"noise of {what}", {}, functools.partial(Noise, scales, seed)))
    if outside.occlusion and task.kind == "atari":
        hide = functools.partial(Occlusion, outside.occlusion, seed)
        found.append(Variation(f"{100 * outside.occlusion:g} % of the frame hidden", {}, hide))
    return found


def chosen_settings(config: AuditConfig, task: Task) -> tuple[Sequence[int], Sequence[int]]:
    """Modes and difficulties that are played.

    Raises:
      UserError: one is wanted that the game does not have.
    """
    if task.kind != "atari" or config.env.backend == "ale" or not config.outside.episodes:
        return (), ()
    return (
        _chosen(task, "mode", "modes", config.outside.modes),
        _chosen(task, "difficulty", "difficulties", config.outside.difficulties),
    )


def _chosen(task: Task, name: str, key: str, wanted: Sequence[int] | None) -> Sequence[int]:
    known = known_settings(task)
    there = None if known is None else known[0 if name == "mode" else 1]
    if wanted is None:
        others = there[1:] if there is not None else [number for number in _PROBED if has_setting(task, name, number)]
        return others[:1]
    for number in wanted:
        if not (number in there if there is not None else has_setting(task, name, number)):
            listed = f" ({', '.join(map(str, there))})" if there is not None else ""
            raise UserError(f"outside.{key}: {task.name} has no {name} {number}{listed}")
    return wanted


@functools.cache
def known_settings(task: Task) -> tuple[Sequence[int], Sequence[int]] | None:
    """All modes and difficulties of a game, its own first, as ale-py tells them; None if it is not there to tell."""
    if importlib.util.find_spec("ale_py") is None:
        return None
    import ale_py

    if task.name not in ale_py.roms.get_all_rom_ids():
        return None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    console.loadROM(ale_py.roms.get_rom_path(task.name))
    return list(console.getAvailableModes()), list(console.getAvailableDifficulties())


@functools.cache
def has_setting(task: Task, name: str, number: int) -> bool:
    """Whether EnvPool's game has a mode or difficulty; asked of one emulator, since several end the process."""
    from pd_jax.environments.loaded import envpool

    try:
        envpool.make(task.env_id, env_type="gymnasium", num_envs=1, num_threads=1, **{name: number})
    except RuntimeError:
        return False
    return True
