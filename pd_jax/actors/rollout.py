"""Epsilon-greedy play, jit-compiled: one ``lax.scan`` over EnvPool's in-jit step, and its host-stepped twin."""

from __future__ import annotations

from typing import Any, Protocol

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.environments.envpool import Environment, EpisodeStatistics, TimeStep
from pd_jax.networks.greedy import epsilon_greedy
from pd_jax.types import PolicyApply, Trajectory


@flax.struct.dataclass
class LaneState:
    """Everything that play goes on from, besides the emulators themselves.

    Attributes:
      handle: EnvPool's, orders in-jit calls.
      timestep: the last one of every lane.
      statistics: return and length of every lane's current game.
      key: PRNG key of the exploration.
    """

    handle: Array
    timestep: TimeStep
    statistics: EpisodeStatistics
    key: Array


@flax.struct.dataclass
class FinishedEpisodes:
    """Games that ended during a rollout: ``mask`` bool, ``returns`` float32, ``lengths`` int32, all ``[T, L]``."""

    mask: Array
    returns: Array
    lengths: Array


@flax.struct.dataclass
class ActingStudent:
    """A student whose actions are played while the teacher labels.

    Attributes:
      variables: the student's.
      share: chance that it acts, for every step and lane anew: 0 leaves the play to the teacher, bit for bit.
    """

    variables: Any
    share: Array | float


def start(environment: Environment, key: Array) -> LaneState:
    """Resets every lane.

    Args:
      environment: the lanes.
      key: PRNG key of the exploration.

    Returns:
      what the first rollout goes on from.
    """
    handle, timestep = environment.reset()
    return LaneState(handle, timestep, EpisodeStatistics.zeros(environment.num_lanes), key)


def mix(key: Array, teacher_q: Array, student_outputs: Array, student_share: Array | float) -> Array:
    """The outputs that each lane acts on: the student's with probability ``student_share``, else the teacher's.

    The mixture policy of DAgger (Ross, Gordon and Bagnell 2011, algorithm 3.1), whose β is ``1 - student_share``.

    Args:
      key: of these decisions.
      teacher_q: float32 ``[L, actions]``.
      student_outputs: float32 ``[L, actions]``.
      student_share: between 0 and 1, for all lanes.
    """
    chex.assert_equal_shape([teacher_q, student_outputs])
    is_students = jax.random.uniform(key, (len(teacher_q),)) < student_share
    return jnp.where(is_students[:, None], student_outputs, teacher_q)


def act(
    apply: PolicyApply,
    variables: Any,
    state: LaneState,
    epsilon: Array | float,
    student: PolicyApply | None = None,
    acting: ActingStudent | None = None,
) -> tuple[Array, Array, Array]:
    """One decision of every lane: ``(actions int32 [L], q float32 [L, A], next key)``.

    ``q`` is always what ``apply`` gives; the actions are those of ``student`` where it is ``acting``.
    """
    key, action_key = jax.random.split(state.key)
    with jax.named_scope("inference"):
        q_values = outputs = apply(variables, state.timestep.observations)
    if student is not None and acting is not None:
        # Beside the two keys that epsilon_greedy splits off, which stay what they are without a student: folding in 0
        # or 1 would give those very keys.
        share_key = jax.random.fold_in(action_key, 2)
        with jax.named_scope("inference"):
            student_outputs = student(acting.variables, state.timestep.observations)
        outputs = mix(share_key, q_values, student_outputs, acting.share)
    return epsilon_greedy(action_key, outputs, epsilon), q_values, key


def advance(state: LaneState, handle: Array, timestep: TimeStep, key: Array) -> tuple[LaneState, FinishedEpisodes]:
    """The lanes' state after ``timestep``, and which games it ended."""
    statistics = state.statistics.update(timestep, state.timestep.game_over)
    finished = FinishedEpisodes(timestep.game_over, statistics.returns, statistics.lengths)
    return LaneState(handle, timestep, statistics, key), finished


def _record(state: LaneState, actions: Array, q_values: Array, rewards: Array) -> Trajectory:
    observations = state.timestep.observations
    return Trajectory(
        observations=observations[..., -1] if observations.ndim == 4 else observations,
        is_first=state.timestep.is_first,
        is_decision=~state.timestep.is_last,
        actions=actions,
        rewards=rewards,
        teacher_q=q_values,
    )


class Rollout(Protocol):
    """Play that goes on from a state, see :func:`make_rollout`."""

    def __call__(
        self, variables: Any, state: LaneState, epsilon: Array | float, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Trajectory, FinishedEpisodes]:
        """Plays on; without an acting student, the policy plays that labels."""
        ...


def make_rollout(
    environment: Environment,
    apply: PolicyApply,
    num_steps: int,
    *,
    stepping: str = "jit",
    student: PolicyApply | None = None,
) -> Rollout:
    """Builds ``rollout(variables, state, epsilon, acting) -> (state, trajectory, finished)`` over ``num_steps`` steps.

    Args:
      environment: the lanes to play.
      apply: the policy that labels every step, and plays where no student acts.
      num_steps: steps per lane in one call.
      stepping: ``"jit"`` steps EnvPool inside one compiled scan; ``"host"`` steps it from Python, one compiled
        decision at a time. For the same seeds both give the same trajectory.
      student: a second policy, which acts as the rollout's :class:`ActingStudent` says. A new share or new variables
        compile nothing anew.

    Returns:
      that function.

    Raises:
      ValueError: another kind of stepping.
    """

    if stepping not in ("jit", "host"):
        raise ValueError(f"stepping must be 'jit' or 'host', got {stepping!r}")

    def step(
        variables: Any, state: LaneState, epsilon: Any, acting: ActingStudent | None
    ) -> tuple[LaneState, tuple[Trajectory, FinishedEpisodes]]:
        actions, q_values, key = act(apply, variables, state, epsilon, student, acting)
        handle, timestep = environment.step(state.handle, actions, state.timestep)
        next_state, finished = advance(state, handle, timestep, key)
        return next_state, (_record(state, actions, q_values, timestep.rewards), finished)

    @jax.jit
    def scanned(
        variables: Any, state: LaneState, epsilon: Any, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Trajectory, FinishedEpisodes]:
        state, (trajectory, finished) = lax.scan(
            lambda s, _: step(variables, s, epsilon, acting), state, length=num_steps
        )
        return state, trajectory, finished

    decide = jax.jit(lambda variables, state, epsilon, acting: act(apply, variables, state, epsilon, student, acting))
    settle = jax.jit(
        lambda state, timestep, key, actions, q_values: (
            *advance(state, state.handle, timestep, key),
            _record(state, actions, q_values, timestep.rewards),
        )
    )

    # One program for the whole rollout, not one concatenation for each of its arrays.
    stack = jax.jit(lambda records: jax.tree.map(lambda *leaves: jnp.stack(leaves), *records))

    def stepped(
        variables: Any, state: LaneState, epsilon: Any, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Trajectory, FinishedEpisodes]:
        records = []
        is_last: Any = np.asarray(state.timestep.is_last)
        for _ in range(num_steps):
            actions, q_values, key = decide(variables, state, epsilon, acting)
            timestep = environment.step_host(np.asarray(actions), is_last)
            is_last = timestep.is_last
            state, finished, record = settle(state, timestep, key, actions, q_values)
            records.append((record, finished))
        trajectory, finished = stack(records)
        return state, trajectory, finished

    return scanned if stepping == "jit" else stepped
