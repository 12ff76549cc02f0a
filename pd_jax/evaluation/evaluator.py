"""Unbiased evaluation: a fixed number of whole games per lane, epsilon-greedy, with random no-ops at the start."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, overload

import jax
import numpy as np
from jax import Array

from pd_jax.actors import rollout
from pd_jax.environments.envpool import Environment, TimeStep, frames_first, frames_last
from pd_jax.environments.tasks import Task
from pd_jax.errors import UnsoundObservationsError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.sensing import SensingPolicy, beside_of
from pd_jax.system.computing import computing
from pd_jax.system.devices import platform_of, put_beside, tracing_for
from pd_jax.types import PolicyApply

_PROGRESS_STEPS = 64
OnStep = Callable[[Any, np.ndarray, np.ndarray], None]
"""Is shown what the lanes show, ``[L, ...]``, there until the next step; which of them still play, bool ``[L]``; and
where an observation ends a game, so that nothing is decided on it, bool ``[L]``."""


@dataclasses.dataclass(frozen=True)
class EpisodeScores:
    """Undiscounted, unclipped returns and lengths (control steps) of whole games, lane after lane.

    Attributes:
      returns: float64 ``[episodes]``.
      lengths: int64 ``[episodes]``.
    """

    returns: np.ndarray
    lengths: np.ndarray


class Decision(NamedTuple):
    """A step of an evaluation: what its lanes show, and what the policy does then.

    Attributes:
      timestep: of all lanes.
      actions: int32 ``[L]``, or of a continuous task float32 ``[L, components]``; of lanes whose game is over they are
        ignored.
      finished: bool ``[L]``, whether the time step has ended a game.
      moved: int ``[lanes]``, the lanes that were stepped to get here; all at the start.
      environment: as it is now; its ``lives`` and ``ram`` are those of ``moved``.
      sensed: gives what the policy senses of the time step, ``[L, ...]``; None of one that sees what the task shows.
    """

    timestep: TimeStep
    actions: np.ndarray
    finished: np.ndarray
    moved: np.ndarray
    environment: Environment
    sensed: Callable[[], np.ndarray] | None = None


class Evaluator:
    """Plays whole games of one task with any policy of one network.

    Every lane plays the same fixed number of games: taking the first N games to finish would favour short ones.
    Each :meth:`run` starts from the same seeds, so that teacher and student meet the same starts.

    Args:
      task: what to play.
      apply: ``(variables, observations) -> [L, actions]``, or a policy with a state for every lane; it is compiled once
        for all evaluators that share it.
      episodes: games wanted, at least 1.
      num_lanes: games played side by side, at least 1; no more than ``episodes`` are used.
      epsilon: chance of a random action, 0.05 in the paper.
      seed: of the emulators and of the exploration.
      environment_options: passed on to :class:`pd_jax.environments.envpool.Environment`.

    Attributes:
      episodes: games that a run plays: those wanted, rounded up to a multiple of the lanes in use.

    Raises:
      ValueError: ``episodes`` or ``num_lanes`` is below 1.
    """

    def __init__(
        self,
        task: Task,
        apply: PolicyApply | LanePolicy,
        *,
        episodes: int = 30,
        num_lanes: int = 10,
        epsilon: float = 0.05,
        seed: int = 1_000_003,
        environment_options: dict[str, Any] | None = None,
    ) -> None:
        if min(episodes, num_lanes) < 1:
            raise ValueError(f"episodes and num_lanes must be at least 1, got {episodes} and {num_lanes}")
        self.task = task
        self.num_lanes = min(num_lanes, episodes)
        self.episodes_per_lane = -(-episodes // self.num_lanes)
        self.episodes = self.episodes_per_lane * self.num_lanes
        self.epsilon = epsilon
        self.seed = seed
        self._options = environment_options or {}
        self._apply = apply

    def run(
        self,
        variables: Any,
        on_progress: Callable[[int, int], None] | None = None,
        on_step: OnStep | None = None,
    ) -> EpisodeScores:
        """Plays ``episodes_per_lane`` games in every lane and returns all of their scores.

        Args:
          variables: the policy's.
          on_progress: called every few steps with the games finished and the games wanted, ``episodes``. What it
            raises ends the evaluation.
          on_step: is shown every step; see `OnStep`. It changes nothing.
        """
        games: list[list[tuple[float, int]]] = [[] for _ in range(self.num_lanes)]
        for steps, decision in enumerate(self.play(variables, games)):
            done = sum(map(len, games))
            if on_progress is not None and (steps % _PROGRESS_STEPS == 0 or done == self.episodes):
                on_progress(done, self.episodes)
            if on_step is not None and done < self.episodes:
                if decision.sensed is not None and getattr(on_step, "senses", False):
                    on_step.sense(decision.sensed())  # type: ignore[attr-defined]
                playing = np.array([len(lane) < self.episodes_per_lane for lane in games])
                on_step(decision.timestep.observations, playing, np.asarray(decision.timestep.is_last))
                if getattr(on_step, "notes", False):
                    on_step.note(decision.actions)  # type: ignore[attr-defined]
        returns, lengths = zip(*(game for lane in games for game in lane), strict=True)
        return EpisodeScores(np.array(returns), np.array(lengths))

    def play(
        self, variables: Any, games: list[list[tuple[float, int]]], lanes: Sequence[int] | None = None
    ) -> Generator[Decision, None, None]:
        """The play of :meth:`run`, step by step; whoever has seen enough stops asking.

        A lane's play does not depend on whether others are stepped: all of them are there for the network, in one
        batch, and for the chances of the exploration.

        Args:
          variables: the policy's.
          games: a list for each lane, to which its finished games are added: return and length.
          lanes: those that are stepped, all by default. The others stand still at their start.

        Yields:
          what the lanes show, and what the policy does then; a lane is not stepped any more once it has played all of
          its games.
        """
        options = {"beside": beside_of(self._apply), **self._options}
        environment = Environment(self.task, self.num_lanes, self.seed, stepping="host", **options)
        state = rollout.start(environment, jax.random.key(self.seed), self._apply)
        # What each step brings comes from the host, and what is kept between them lies beside the policy: the first one
        # is no other program than those that follow.
        timestep = jax.tree.map(np.asarray, state.timestep)
        state = put_beside(without_observations(state), variables)
        is_last: Any = np.zeros(self.num_lanes, bool)
        moved = np.ones(self.num_lanes, bool)
        wanted = moved if lanes is None else np.isin(np.arange(self.num_lanes), lanes)
        # Computation follows the policy.
        platform = platform_of(variables)
        for steps in itertools.count():
            _check_shown(timestep.observations, self.task, steps)
            # As EnvPool gives them: this way they go to the device as they lie in memory.
            shown = dataclasses.replace(timestep, observations=frames_first(timestep.observations))
            with tracing_for(platform):
                state, actions, finished = settle_and_act(self._apply, variables, state, shown, self.epsilon, self.task)
            mask = np.asarray(finished.mask)
            if mask.any():
                self._note(games, mask, np.asarray(finished.returns), np.asarray(finished.lengths))
            sensed = None
            if isinstance(self._apply, SensingPolicy):
                sensed = functools.partial(self._apply.sensed, state.policy_state)
            yield Decision(timestep, np.asarray(actions), mask, np.flatnonzero(moved), environment, sensed)
            playing = wanted & np.array([len(lane) < self.episodes_per_lane for lane in games])
            if not playing.any():
                return
            timestep = _step(environment, timestep, np.asarray(actions), is_last, playing)
            is_last, moved = timestep.is_last, playing

    def _note(
        self, games: list[list[tuple[float, int]]], mask: np.ndarray, returns: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Adds the games that ended in this step, in lanes that have not played all of theirs."""
        for lane in np.flatnonzero(mask):
            if len(games[lane]) < self.episodes_per_lane:
                games[lane].append((float(returns[lane]), int(lengths[lane])))


@overload
def evaluate(
    policy: GreedyPolicy,
    *,
    episodes: int = ...,
    num_lanes: int = ...,
    epsilon: float = ...,
    seed: int = ...,
    environment_options: dict[str, Any] | None = ...,
    on_progress: Callable[[int, int], None] | None = ...,
    on_step: OnStep | None = ...,
) -> EpisodeScores: ...
@overload
def evaluate(
    policy: PolicyApply | LanePolicy,
    variables: Any,
    task: Task,
    *,
    episodes: int = ...,
    num_lanes: int = ...,
    epsilon: float = ...,
    seed: int = ...,
    environment_options: dict[str, Any] | None = ...,
    on_progress: Callable[[int, int], None] | None = ...,
    on_step: OnStep | None = ...,
) -> EpisodeScores: ...
@computing()
def evaluate(
    policy: GreedyPolicy | PolicyApply | LanePolicy,
    variables: Any = None,
    task: Task | None = None,
    *,
    episodes: int = 30,
    num_lanes: int = 10,
    epsilon: float = 0.05,
    seed: int = 1_000_003,
    environment_options: dict[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
) -> EpisodeScores:
    """Scores one policy: :class:`Evaluator` in one call.

    Args:
      policy: a teacher or a student; or a function ``(variables, observations [L, ...]) -> [L, actions]``, or a policy
        with a state for every lane, which is given its variables and a task, too.
      variables: the function's.
      task: what the function plays.
      episodes: games wanted, at least 1; rounded up to the same number for every lane.
      num_lanes: games played side by side, at least 1.
      epsilon: chance of a random action, 0.05 in the paper.
      seed: of the emulators and of the exploration: the same one gives the same starts.
      environment_options: passed on to :class:`pd_jax.environments.envpool.Environment`.
      on_progress: called every few steps with the games finished and the games wanted.
      on_step: is shown every step: ``(observations [L, ...], playing [L], is_last [L])``. Observations are there until
        the next step; lanes that do not play have finished their games; nothing is decided on one that ends a game.

    Returns:
      the return and the length of every game.

    Raises:
      ValueError: ``episodes`` or ``num_lanes`` is below 1.

    Example:
      The score of a student::

        pd_jax.evaluate(pd_jax.load_student("runs/cartpole"), episodes=30).returns.mean()
    """
    own: PolicyApply | LanePolicy
    if isinstance(policy, GreedyPolicy):
        own, variables, task = policy.player, policy.variables, policy.shown
    else:
        own = policy
    if task is None:
        raise TypeError("evaluate() takes a teacher, a student, or a function with its variables and a task")
    evaluator = Evaluator(
        task,
        own,
        episodes=episodes,
        num_lanes=num_lanes,
        epsilon=epsilon,
        seed=seed,
        environment_options=environment_options,
    )
    return evaluator.run(variables, on_progress, on_step)


# Stepped from the host: as fast as a scan here (Pong, 10 lanes, 2 cores), and compiled once. Games end when they do,
# and a scan would go on. On CUDA it would be compiled anew for every run: emulators cannot be given their first seed
# again.
@functools.partial(jax.jit, static_argnames=("apply", "task"))
def settle_and_act(
    apply: PolicyApply | LanePolicy,
    variables: Any,
    state: rollout.LaneState,
    timestep: TimeStep,
    epsilon: float,
    task: Task | None = None,
) -> tuple[rollout.LaneState, Array, rollout.FinishedEpisodes]:
    """Takes in what the lanes show, and decides what they do next; without a ``task`` it is a discrete one.

    ``state`` has no observations, and those of ``timestep`` have their frames in front.
    """
    timestep = dataclasses.replace(timestep, observations=frames_last(timestep.observations))
    state, finished = rollout.advance(state, state.handle, timestep)
    actions, _, state = rollout.act(apply, variables, state, epsilon, task=task)
    return without_observations(state), actions, finished


def _check_shown(observations: Any, task: Task, step: int) -> None:
    """Raises an UnsoundObservationsError if a number that lanes show is NaN or infinite; as of frames, none can be."""
    if task.kind == "vector" and not np.isfinite(sound := np.asarray(observations)).all():
        lane, number = np.argwhere(~np.isfinite(sound).reshape(len(sound), -1))[0]
        raise UnsoundObservationsError(
            f"{task.name}: the environment shows NaN or infinite numbers at step {step:,} of an evaluation (number "
            f"{number} of lane {lane}); mend the environment, or the sensor that it comes from"
        )


def _step(
    environment: Environment, timestep: TimeStep, actions: np.ndarray, is_last: np.ndarray, playing: np.ndarray
) -> TimeStep:
    """Steps the lanes that still play. The others keep showing what they showed: emulators take most of the time."""
    if playing.all():
        return environment.step_host(actions, is_last)
    moved = environment.step_host(actions[playing], is_last[playing], np.flatnonzero(playing))

    def merge(shown: np.ndarray, new: np.ndarray) -> np.ndarray:
        merged = np.array(shown)
        merged[playing] = new
        return merged

    merged: TimeStep = jax.tree.map(merge, timestep, moved)
    return merged


def without_observations(state: rollout.LaneState) -> rollout.LaneState:
    """The next step brings new ones; kept, a program would have to write them down."""
    nothing: Any = np.zeros(0, np.uint8)
    return dataclasses.replace(state, timestep=dataclasses.replace(state.timestep, observations=nothing))
