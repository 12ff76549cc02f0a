"""A distilled student as a policy: observations in, actions out."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.deploy.student import TrainedStudent, load_trained
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import ObservationsError, UserError, nearest
from pd_jax.networks.greedy import GreedyPolicy, check_observations
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.student import RememberingPolicy
from pd_jax.runs.directory import read_run
from pd_jax.runs.summary import Summary
from pd_jax.system.computing import computing
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.types import PolicyApply

_CHECKPOINTS = ("newest", "best")


class Policy(Protocol):
    """What plays a task: a `Teacher` or a `StudentPolicy`.

    Example:
      One loop plays them all::

        state = policy.initial_state(num_lanes)
        while True:
            actions, state = policy.act(observations, state)
            observations = step(actions)
    """

    @property
    def task(self) -> Task:
        """The game it plays."""
        ...

    def initial_state(self, num_lanes: int) -> Any:
        """What the first :meth:`act` of an episode takes; None for a policy without memory."""
        ...

    def act(self, observations: Array | np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """NumPy actions int32 ``[N]`` for a batch of N observations, and the state for the next call."""
        ...

    def outputs(self, observations: Array | np.ndarray) -> Array:
        """Float32 ``[N, actions]``: what the actions are chosen by."""
        ...


class StudentPolicy(GreedyPolicy):
    """A run's student that plays one of its games, greedily unless told otherwise.

    Made by `load_student`. A student of several games has to be told which one it plays, before it can say or do
    anything about it.

    Args:
      trained: the student, as its run left it.
      source: the run's directory.
      summary: of the run, if it has ended.
      game: its place in ``trained.names``; None leaves it open, and a student of one game has no choice.

    Attributes:
      games: names of the games that the student plays.
      summary: what the run's ``summary.json`` says, also as a mapping; None while the run goes on.
      source: the run's directory.
      trained: the network, the run's settings and where the run stood.
      variables: the network's, on the default device.
    """

    def __init__(
        self, trained: TrainedStudent, source: str, summary: Summary | None = None, game: int | None = None
    ) -> None:
        self.games = trained.names
        self.summary = summary
        self.source = source
        self.trained = trained
        self.variables = jax.tree.map(jnp.asarray, trained.variables)
        self._game = 0 if len(self.games) == 1 else game

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the student of {self.source}"

    @property
    def task(self) -> Task:
        """The game it plays.

        Raises:
          UserError: it has several, and none was chosen.
        """
        return self.trained.student.tasks[self._place]

    @property
    def apply(self) -> PolicyApply:
        """``(variables, observations [N, ...]) -> float32 [N, actions]`` of its game, to be traced; of a student with
        memory a `pd_jax.networks.student.RememberingPolicy`.

        Raises:
          UserError: it has several games, and none was chosen.
        """
        return self.trained.student.policy(self._place)

    @property
    def player(self) -> PolicyApply | LanePolicy:
        """The policy as it plays its game: behind its senses, if it has its own."""
        return self.trained.student.player(self._place)

    @property
    def shown(self) -> Task:
        """The game as its environment shows it; :attr:`task` is how the student sees it."""
        return self.trained.student.shown[self._place]

    @property
    def senses(self) -> Senses | None:
        """What it senses of the game; None if it sees what the game shows."""
        senses = self.trained.student.senses
        return senses[self._place] if senses else None

    @property
    def gives_logits(self) -> bool:
        """Whether the outputs are a policy's logits: so they are unless the student has learnt Q-values (``mse``,
        ``huber``)."""
        config = self.trained.config
        return not isinstance(config, TrainTeacherConfig) and not config.loss.gives_q

    def initial_state(self, num_lanes: int) -> np.ndarray | None:
        """What the first :meth:`act` of an episode takes: float32 ``[N, state]``, all 0, of a student with memory, or
        of one that sees its last actions; otherwise None.

        A lane whose episode ends while others go on is set back by hand: ``state[lane] = 0``.

        Args:
          num_lanes: observations in a batch.
        """
        policy = self._with_state
        return None if policy is None else policy.start(num_lanes)

    def outputs(self, observations: Array | np.ndarray) -> Array:
        """As of every policy; what a student with memory gives depends on its state, see :meth:`decide`.

        A student that sees a console's memory beside frames takes a pair of these: uint8 ``[N, size, size, frames]``
        and the bytes that it sees, uint8 ``[N, bytes]``.
        """
        if self._with_state is not None:
            raise UserError(f"{self.name} {self.carries}: what it gives depends on its state; take decide or act")
        return super().outputs(self._joined(observations))

    def decide(
        self, observations: Array | np.ndarray, state: np.ndarray | None = None
    ) -> tuple[Array, np.ndarray | None]:
        """As of every policy; a student with memory takes no state for one that is empty. Of one that sees its last
        actions the state is for :meth:`note`, once it is known what is played.

        Raises:
          ObservationsError: observations of another shape or dtype.
          UserError: a state that is not one of as many lanes.
        """
        if self._with_state is None:
            return super().decide(observations, state)
        observations = check_observations(self._joined(observations), self.task, self.name)
        empty = self.initial_state(len(observations))
        assert empty is not None
        state = empty if state is None else np.asarray(state)
        if state.shape != empty.shape or state.dtype != empty.dtype:
            raise UserError(
                f"state: {state.dtype} {list(state.shape)}, and {self.name} has float32 {list(empty.shape)} for "
                f"{len(observations)} observations; initial_state({len(observations)}) gives an empty one"
            )
        with tracing_for(platform_of(self.variables)):
            outputs, after = self._step(self.variables, observations, np.zeros(len(observations), bool), state)
        return outputs, np.array(after)

    def _joined(self, observations: Any) -> Any:
        """Frames and bytes of a memory as the line that the student's senses make of them, where they are a pair."""
        also = self.task.also
        if not also or not isinstance(observations, tuple):
            return observations
        frames, memory = map(np.asarray, observations)
        count, side = self.task.stack, math.isqrt(self.task.frame_shape[0] - also)
        wanted = (side, side, count), (also,)
        if (frames.shape[1:], memory.shape[1:]) != wanted or len(frames) != len(memory):
            raise ObservationsError(
                f"observations are {list(frames.shape)} and {list(memory.shape)}; {self.name} takes "
                f"[N, {side}, {side}, {count}] and [N, {also}]"
            )
        if frames.dtype != np.uint8 or memory.dtype != np.uint8:
            raise ObservationsError(f"observations are {frames.dtype} and {memory.dtype}; {self.name} takes uint8")
        # Of the memory the newest alone is looked at.
        lines = np.zeros((len(frames), count, side * side + also), np.uint8)
        lines[..., : side * side] = frames.transpose(0, 3, 1, 2).reshape(len(frames), count, -1)
        lines[:, -1, side * side :] = memory
        return lines.reshape(len(frames), -1)

    def note(self, state: np.ndarray | None, actions: Array | np.ndarray) -> np.ndarray | None:
        """As of every policy; of a student that sees its last actions, these are the newest of them."""
        policy = self._with_state
        return state if policy is None or state is None else np.array(policy.note(jnp.asarray(state), actions))

    @property
    def carries(self) -> str:
        """What its state is for, in words; ``""`` of a student without."""
        student = self.trained.student
        has = "has memory" if student.memory is not None else ""
        sees = "sees its last actions" if student.last_actions else ""
        return " and ".join(filter(None, (has, sees)))

    @property
    def _with_state(self) -> RememberingPolicy | None:
        """The policy, if it has a state."""
        policy = self.trained.student.policy(self._place)
        return policy if isinstance(policy, RememberingPolicy) else None

    @functools.cached_property
    def _step(self) -> Any:
        return jax.jit(self.trained.student.policy(self._place).step)

    @property
    def num_outputs(self) -> int:
        """O: as many as there are actions, or of a Gaussian twice as many as an action has components."""
        student = self.trained.student
        is_gaussian = student.is_continuous and not student.gives_actions
        return (2 if is_gaussian else 1) * self.task.num_actions

    def for_game(self, game: str) -> StudentPolicy:
        """The same student as the policy of one of its games.

        Args:
          game: by name or EnvPool id.

        Returns:
          a policy with the same weights; they are not copied.

        Raises:
          UserError: it plays no such game.
        """
        if game not in self.games:
            try:
                game = get_task(game).name
            except UserError:
                raise UserError(f"{self._plays()}, not {game!r}{nearest(game[:60], self.games)}") from None
        if game not in self.games:
            raise UserError(f"{self._plays()}, not {game}")
        shared = dataclasses.replace(self.trained, variables=self.variables)
        return StudentPolicy(shared, self.source, self.summary, self.games.index(game))

    @property
    def _place(self) -> int:
        if self._game is None:
            raise UserError(
                f"{self._plays()}; choose one: .for_game({self.games[0]!r}), or load_student(..., game=...)"
            )
        return self._game

    def _plays(self) -> str:
        return f"{self.source}: its student plays {', '.join(self.games)}"


@computing()
def load_student(
    run: str | os.PathLike[str], *, checkpoint: Literal["newest", "best"] = "newest", game: str | None = None
) -> StudentPolicy:
    """Reads the student of a ``distill`` or ``online`` run, or what a ``train-teacher`` run trained.

    The run may still be going, but for ``train-teacher``, whose weights are kept once it has ended. Of damaged
    checkpoints that are passed over, Python's `warnings` tell.

    Args:
      run: its directory; or what ``pd-jax push`` made of it, a folder or ``hf://owner/name``, with ``@REVISION`` or
        without.
      checkpoint: the newest intact one, or the one with the best score on the way.
      game: what it is to play, for a student of several games: by name or EnvPool id.

    Returns:
      the student as a policy. One of several games, without ``game``, is good for its ``games`` and ``for_game`` alone.

    Raises:
      UserError: not such a run, none of its checkpoints is intact, none was scored and the best is wanted, or its
        student does not play the game.

    Example:
      One decision of the student that ``pd-jax distill --config configs/cartpole.yaml`` leaves::

        student = pd_jax.load_student("runs/cartpole")
        actions, state = student.act(np.zeros((1, 4), np.float32))
    """
    path = os.fspath(run)
    if checkpoint not in _CHECKPOINTS:
        raise UserError(f"checkpoint: {checkpoint!r} is not a checkpoint ({', '.join(_CHECKPOINTS)})")
    trained = load_trained(path, checkpoint=checkpoint, warn=lambda message: warnings.warn(message, stacklevel=2))
    student = StudentPolicy(trained, path, read_run(path).read_summary())
    return student if game is None else student.for_game(game)


def refuse_continuous(policy: GreedyPolicy, where: str) -> None:
    """Raises a UserError if a policy's actions are vectors of floats, which something is not made for.

    Args:
      policy: a teacher or a student.
      where: the setting or the command, as it begins the message.
    """
    if policy.task.is_continuous:
        raise UserError(f"{where}: {policy.name} has continuous actions, and this is for policies that choose")


def refuse_memory(policy: GreedyPolicy, where: str) -> None:
    """Raises a UserError if a policy has memory, or sees its last actions, which something is not made for.

    Args:
      policy: a teacher or a student.
      where: the setting or the command, as it begins the message.
    """
    if policy.carries:
        raise UserError(f"{where}: {policy.name} {policy.carries}, and this is for policies without")


def refuse_senses(policy: GreedyPolicy, where: str) -> None:
    """Raises a UserError if a policy senses its game in a way of its own, which something is not made for.

    Args:
      policy: a teacher or a student.
      where: the setting or the command, as it begins the message.
    """
    if policy.senses is not None:
        raise UserError(
            f"{where}: {policy.name} senses {policy.senses.describe()}, and this is for policies that see what their "
            "game shows"
        )
