"""Play of others as Minari keeps it (Younis et al. 2024), with a teacher's outputs: what a student can learn from it.

A Minari dataset holds whole or cut episodes of one environment, one after another. Here they are dealt out to lanes, an
episode to the lane that is the shortest so far, and the teacher says of each step what it would do there. Nothing in a
dataset is executed: its environment is never made.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.system.files import expand_home
from pd_jax.system.text import show
from pd_jax.teachers import Teacher
from pd_jax.teachers.committee import Fault
from pd_jax.types import Trajectory


@dataclasses.dataclass(frozen=True)
class MinariEpisodes:
    """The episodes of a dataset, checked against a task; NumPy arrays.

    Attributes:
      dataset: its id, such as ``"mujoco/halfcheetah/expert-v0"``.
      observations: of each episode float32 ``[T + 1, D]``: the last one is what its last action led to.
      actions: of each, as the task takes them, ``[T, ...]``.
      rewards: of each float32 ``[T]``.
    """

    dataset: str
    observations: tuple[np.ndarray, ...]
    actions: tuple[np.ndarray, ...]
    rewards: tuple[np.ndarray, ...]

    @property
    def num_steps(self) -> int:
        """Decisions in all of them."""
        return sum(map(len, self.rewards))


@dataclasses.dataclass(frozen=True)
class _Lanes:
    """Play side by side, time-major: as a `pd_jax.types.Trajectory` has it, without outputs."""

    observations: np.ndarray
    is_first: np.ndarray
    is_decision: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


def read_minari(path: str, task: Task) -> MinariEpisodes:
    """Reads a dataset of a task.

    Args:
      path: the dataset's directory, or its ``data`` inside it.
      task: whose observations and actions it is to have.

    Raises:
      UserError: Minari is not installed; there is no such dataset, or it is damaged, empty, of other observations or
        actions, or has NaN or infinite numbers in it.
    """
    try:
        import minari
    except ImportError:
        raise UserError("minari: needs the package Minari: pip install 'pd-jax[minari]' -c requirements.lock") from None
    if task.kind != "vector":
        raise UserError(f"minari: {task.name} shows frames as EnvPool makes them, which no Minari dataset holds")
    directory = Path(expand_home(path))
    if (directory / "data").is_dir():
        directory = directory / "data"
    if not directory.is_dir():
        raise UserError(f"minari: {show(path)} is no directory")
    try:
        dataset = minari.MinariDataset(os.fspath(directory))
        _check_spaces(path, dataset, task)
        episodes = [_read_episode(path, episode, task) for episode in dataset.iterate_episodes()]
    except UserError:
        raise
    except Exception as error:
        # Whatever a damaged file does to the libraries that read it.
        raise UserError(f"minari: {show(path)} is no dataset that can be read: {_first_line(error)}") from None
    if not episodes:
        raise UserError(f"minari: {show(path)} has no episode in it")
    observations, actions, rewards = zip(*episodes, strict=True)
    return MinariEpisodes(str(dataset.id), observations, actions, rewards)


class MinariPlay:
    """A dataset's play with a teacher's outputs, as live play would give it.

    Args:
      episodes: of the dataset.
      teacher: who says what it would do.
      task: of both.
      num_lanes: to deal the episodes out to.
      rollout_length: steps of a lane at a time.
      begin: rollouts to leave out, which are there already.

    Attributes:
      num_rollouts: that there are in all. Steps of longer lanes beyond those of the shortest, and beyond whole
        rollouts, are left out.
      num_left_out: such steps.
      finished_returns: of episodes that ended since the list was last cleared.

    Raises:
      UserError: there are too few steps for one rollout.
    """

    def __init__(
        self,
        episodes: MinariEpisodes,
        teacher: Teacher,
        task: Task,
        *,
        num_lanes: int,
        rollout_length: int,
        begin: int = 0,
    ) -> None:
        self._lanes = _deal_out(episodes, task, num_lanes)
        self._teacher, self._length, self._next = teacher, rollout_length, begin
        length = len(self._lanes.rewards)
        self.num_rollouts = length // rollout_length
        recorded = self._lanes.is_decision[: self.num_rollouts * rollout_length].sum()
        self.num_left_out = episodes.num_steps - int(recorded)
        self.finished_returns: list[float] = []
        self._returns = np.zeros(num_lanes)
        if not self.num_rollouts:
            raise UserError(
                f"minari: {episodes.num_steps:,} steps make {length:,} in each of {num_lanes} lanes, fewer than a "
                f"rollout_length of {rollout_length}; take fewer env.num_lanes or shorter rollouts"
            )
        for step in range(begin * rollout_length):
            self._count(step)
        self.finished_returns.clear()

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts, or all that are left."""
        for number in range(self._next, min(self._next + count, self.num_rollouts)):
            steps = slice(number * self._length, (number + 1) * self._length)
            own = {field.name: getattr(self._lanes, field.name)[steps] for field in dataclasses.fields(self._lanes)}
            seen = own["observations"]
            outputs: Any = np.asarray(self._teacher.outputs(seen.reshape(-1, *seen.shape[2:])))
            for step in range(steps.start, steps.stop):
                self._count(step)
            self._next = number + 1
            yield Trajectory(**own, teacher_q=outputs.reshape(*seen.shape[:2], -1))

    def take_faults(self) -> list[Fault]:
        """There are none to be told: a member of a committee that fails fails the recording."""
        return []

    def close(self) -> None:
        """There is nothing to end."""

    def _count(self, step: int) -> None:
        """Adds a step to the returns, and those of the episodes that end with it to the finished ones."""
        self._returns += self._lanes.rewards[step]
        ended = ~self._lanes.is_decision[step]
        self.finished_returns.extend(map(float, self._returns[ended]))
        self._returns[ended] = 0.0


def _check_spaces(path: str, dataset: Any, task: Task) -> None:
    """Raises a UserError unless observations and actions are the task's."""
    observations, actions = dataset.observation_space, dataset.action_space
    shape = getattr(observations, "shape", None)
    if shape != task.observation_shape:
        shown = f"observations of shape {list(shape)}" if shape is not None else type(observations).__name__
        raise UserError(f"minari: {show(path)} has {shown}, and {task.name} {list(task.observation_shape)}")
    if task.is_continuous:
        bounds = [np.ravel(np.asarray(getattr(actions, name, ()), np.float32)) for name in ("low", "high")]
        wanted_bounds = [np.asarray(bound, np.float32) for bound in (task.action_low, task.action_high)]
        if not all(map(np.array_equal, bounds, wanted_bounds)):
            wanted = f"{task.num_actions} from {list(task.action_low)} to {list(task.action_high)}"
            raise UserError(f"minari: {show(path)} has the actions {actions}, and {task.name} {wanted}")
        return
    num_actions, start = getattr(actions, "n", None), getattr(actions, "start", 0)
    if num_actions is None or int(num_actions) != task.num_actions or int(start) != 0:
        raise UserError(f"minari: {show(path)} has the actions {actions}, and {task.name} {task.num_actions} from 0 on")


def _read_episode(path: str, episode: Any, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, actions and rewards of an episode; raises a UserError if it is none of the task."""
    observations = np.asarray(episode.observations, task.observation_dtype)
    actions, rewards = np.asarray(episode.actions), np.asarray(episode.rewards, np.float32)
    where = f"minari: episode {episode.id} of {show(path)}"
    count = len(rewards)
    if observations.shape != (count + 1, *task.observation_shape) or len(actions) != count or not count:
        raise UserError(f"{where} has {len(observations)} observations, {len(actions)} actions and {count} rewards")
    if not (np.isfinite(observations).all() and np.isfinite(rewards).all()):
        raise UserError(f"{where} has NaN or infinite numbers in it")
    if task.is_continuous:
        # What was sent may lie beyond the range, and was clipped as it was played.
        is_known = actions.shape[1:] == task.action_shape and np.isfinite(actions).all()
    else:
        is_known = actions.ndim == 1 and ((actions >= 0) & (actions < task.num_actions)).all()
    if not is_known:
        raise UserError(f"{where} has actions that {task.name} has not")
    return observations, actions.astype(task.action_dtype), rewards


def _deal_out(episodes: MinariEpisodes, task: Task, num_lanes: int) -> _Lanes:
    """All episodes in lanes, cut off where the shortest lane ends."""
    dealt: list[list[int]] = [[] for _ in range(num_lanes)]
    lengths = np.zeros(num_lanes, int)
    for index, rewards in enumerate(episodes.rewards):
        lane = int(np.argmin(lengths))
        dealt[lane].append(index)
        lengths[lane] += len(rewards) + 1
    end = int(lengths.min())

    def lanes_of(each: tuple[np.ndarray, ...], last: Any) -> np.ndarray:
        """``[end, L, ...]``; ``last`` follows an episode's own steps, if it is not None."""
        joined = []
        for lane in dealt:
            parts = [each[index] if last is None else np.append(each[index], last, axis=0) for index in lane]
            # Of a lane without episodes there is nothing to be cut.
            joined.append(np.concatenate(parts)[:end] if parts else each[0][:0])
        return np.stack(joined, axis=1)

    first_steps = tuple(np.arange(len(rewards) + 1) == 0 for rewards in episodes.rewards)
    decisions = tuple(np.arange(len(rewards) + 1) < len(rewards) for rewards in episodes.rewards)
    nothing = functools.partial(np.zeros, dtype=episodes.actions[0].dtype)
    return _Lanes(
        observations=lanes_of(episodes.observations, None),
        is_first=lanes_of(first_steps, None),
        is_decision=lanes_of(decisions, None),
        actions=lanes_of(episodes.actions, nothing((1, *episodes.actions[0].shape[1:]))),
        rewards=lanes_of(episodes.rewards, np.zeros(1, np.float32)),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
