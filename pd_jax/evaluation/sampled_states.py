"""States out of a student's whole games, spread evenly over them, about which its teacher is asked afterwards."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.envpool import TimeStep, frames_first, frames_last
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.comparison import Comparison, Place, compare
from pd_jax.networks.lane_policy import LanePolicy, note_actions
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.types import PolicyApply

MOST = 2048
"""States that are kept: a second or two of a DQN on two CPU cores, and some MB."""
_BATCH = 64


class SampledStates:
    """Looks on while games are played, and keeps some of what was seen; see ``Evaluator.run``.

    How long the games are is not known before. So at first every decision is kept, and each time there are too many,
    every second is dropped. Each lane is kept at steps of its own.

    Args:
      task: what is played, as it is shown.
      most: states to keep.
      student: who plays, and its variables, if it has a state: what it gives depends on all that it has seen, so it
        goes along, and what it gives in these states is kept with them.
      seen: the task as the student sees it, if that is in a way of its own.
    """

    def __init__(
        self,
        task: Task,
        most: int = MOST,
        student: tuple[LanePolicy, Any] | None = None,
        seen: Task | None = None,
    ) -> None:
        self._task, self._most = task, most
        self._beside = None if student is None else _Beside(*student)
        self._given: list[np.ndarray] = []
        self._seen = None if seen == task else seen
        self._sensed: np.ndarray | None = None
        self._every, self._step = 1, 0
        self._kept: list[tuple[int, Place, bytes]] = []
        self._kept_sensed: list[bytes] = []
        self._games: np.ndarray | None = None
        self._ages: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def senses(self) -> bool:
        """Whether it is to be shown what the student senses, too, by :meth:`sense`."""
        return self._seen is not None

    def sense(self, sensed: Any) -> None:
        """Takes what the student senses, ``[L, ...]``, of the step that it is called with next."""
        self._sensed = np.asarray(sensed)

    @property
    def notes(self) -> bool:
        """Whether it is to be told what is played, by :meth:`note`."""
        return self._beside is not None

    def note(self, actions: np.ndarray) -> None:
        """Takes what is played in the step that it was called with last."""
        if self._beside is not None:
            self._beside.note(actions)

    def __call__(self, observations: Any, playing: np.ndarray, is_last: np.ndarray) -> None:
        """Takes in a step.

        Args:
          observations: ``[L, ...]`` that the lanes show.
          playing: bool ``[L]``, the lanes that have not finished their games.
          is_last: bool ``[L]``, where nothing is decided, because the observation ends a game.
        """
        if self._games is None or self._ages is None:
            self._games, self._ages = np.zeros(len(playing), int), np.zeros(len(playing), int)
        # Odd, so that lanes take turns however often the steps between two are doubled.
        turns = self._step + 37 * np.arange(len(playing))
        decides = playing & ~is_last
        goes_by = observations if self._sensed is None else self._sensed
        own = None if self._beside is None else self._beside.outputs(goes_by, is_last)
        chosen = np.flatnonzero(decides & (turns % self._every == 0))
        if len(chosen):
            # Bytes as they were: emulators write the next observations to the same place.
            seen = np.asarray(observations)
            self._kept += [
                (
                    int(turns[lane]),
                    Place(int(lane), int(self._games[lane]), int(self._ages[lane])),
                    _packed(seen[lane]),
                )
                for lane in chosen.tolist()
            ]
            if self._sensed is not None:
                self._kept_sensed += [_packed(self._sensed[lane]) for lane in chosen.tolist()]
            if own is not None:
                self._given += [own[lane] for lane in chosen.tolist()]
        while len(self._kept) > self._most:
            self._every *= 2
            stay = [index for index, kept in enumerate(self._kept) if kept[0] % self._every == 0]
            self._kept = [self._kept[index] for index in stay]
            self._given = [self._given[index] for index in stay] if self._given else []
            self._kept_sensed = [self._kept_sensed[index] for index in stay] if self._kept_sensed else []
        self._games += playing & is_last
        self._ages = np.where(playing & is_last, 0, self._ages + decides)
        self._step += 1

    def __getitem__(self, index: int) -> np.ndarray:
        """One of the states, ``[84, 84, 4]`` or ``[D]``."""
        flat = np.frombuffer(zlib.decompress(self._kept[index][2]), self._task.observation_dtype)
        found: np.ndarray = flat.reshape(self._task.observation_shape)
        return found

    def sensed(self, index: int) -> np.ndarray:
        """What the student sensed of one of the states."""
        if self._seen is None:
            return self[index]
        flat = np.frombuffer(zlib.decompress(self._kept_sensed[index]), self._seen.observation_dtype)
        found: np.ndarray = flat.reshape(self._seen.observation_shape)
        return found

    @property
    def places(self) -> list[Place]:
        """Where the states are in the play."""
        return [place for _, place, _ in self._kept]

    def compare(
        self,
        teacher: tuple[PolicyApply, Any],
        student: tuple[PolicyApply, Any],
        *,
        student_temperature: float,
        gives_logits: bool,
    ) -> Comparison:
        """Asks both about all of them.

        Args:
          teacher: its function and its variables.
          student: likewise; of one with a state, what it gave is there already.
          student_temperature: the student's outputs over it are the logits of its policy.
          gives_logits: whether the teacher's outputs are logits.
        """
        size = self._task.num_actions
        outputs = [np.zeros((0, size), np.float32)], [np.zeros((0, size), np.float32)]
        (taught, taught_by), (own, owned_by) = teacher, student
        platform = platform_of(owned_by)
        for start in range(0, len(self), _BATCH):
            count = min(_BATCH, len(self) - start)
            # Batches of one size are compiled once.
            indices = [start + min(index, count - 1) for index in range(_BATCH)]
            shown = frames_first(np.stack(list(map(self.__getitem__, indices))))
            sensed = None if self._seen is None else frames_first(np.stack(list(map(self.sensed, indices))))
            with tracing_for(platform):
                if self._beside is not None:
                    there = _alone(taught, taught_by, shown)
                    both = there, np.stack(self._given[start : start + count])
                else:
                    both = _outputs(taught, own, taught_by, owned_by, shown, sensed)
            for kept, output in zip(outputs, both, strict=True):
                kept.append(np.asarray(output)[:count])
        return compare(
            np.concatenate(outputs[0]),
            np.concatenate(outputs[1]),
            self.places,
            self,  # type: ignore[arg-type]
            actions=self._task.action_names,
            every=self._every,
            student_temperature=student_temperature,
            gives_logits=gives_logits,
        )


def _packed(observation: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(observation).tobytes(), 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    teacher: PolicyApply, student: PolicyApply, taught_by: Any, owned_by: Any, observations: Array, sensed: Array | None
) -> tuple[Array, Array]:
    observations = frames_last(observations)
    seen = observations if sensed is None else frames_last(sensed)
    return teacher(taught_by, observations), student(owned_by, seen)


@functools.partial(jax.jit, static_argnums=0)
def _alone(teacher: PolicyApply, taught_by: Any, observations: Array) -> Array:
    outputs: Array = teacher(taught_by, frames_last(observations))
    return outputs


class _Beside:
    """A policy with a state that goes along with the play.

    Args:
      policy: who plays.
      variables: its own.
    """

    def __init__(self, policy: LanePolicy, variables: Any) -> None:
        self._policy, self._variables = policy, variables
        self._state: Any = None
        self._was_last: np.ndarray | None = None

    def outputs(self, observations: Any, is_last: np.ndarray) -> np.ndarray:
        """What it gives for a step, float32 ``[L, ...]``."""
        if self._was_last is None:
            self._state, self._was_last = self._policy.start(len(is_last)), np.ones(len(is_last), bool)
        with tracing_for(platform_of(self._variables)):
            given, self._state = _go_along(
                self._policy, self._variables, frames_first(observations), self._was_last, self._state
            )
        self._was_last = np.array(is_last)
        return np.asarray(given)

    def note(self, actions: np.ndarray) -> None:
        """Takes what was played then."""
        self._state = note_actions(self._policy, self._state, actions)


@functools.partial(jax.jit, static_argnums=0)
def _go_along(
    policy: LanePolicy, variables: Any, observations: Array, is_first: Array, state: Any
) -> tuple[Array, Any]:
    none = jnp.zeros(len(is_first))
    nowhere = jnp.zeros(len(is_first), bool)
    shown = TimeStep(frames_last(observations), none, is_first, nowhere, nowhere, nowhere)
    return policy.decide(variables, shown, state, jax.random.key(0))
