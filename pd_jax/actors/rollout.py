"""Epsilon-greedy play, jit-compiled: one ``lax.scan`` over EnvPool's in-jit step, and its host-stepped twin.

Where EnvPool steps inside jit, a stretch of play is one call. Elsewhere the host steps it, and groups of lanes take
turns between EnvPool and the device.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pd_jax.environments import sensors
from pd_jax.environments.envpool import Environment, EpisodeStatistics, Received, TimeStep, frames_first, frames_last
from pd_jax.environments.senses import FRAMES, FULL_SIZE, Senses
from pd_jax.environments.sensors import SensorState
from pd_jax.environments.stand_in import StandIn
from pd_jax.environments.tasks import RAM_SIZE, Task
from pd_jax.networks.greedy import play
from pd_jax.networks.lane_policy import LanePolicy, as_lane_policy, note_actions
from pd_jax.networks.sensing import SensingPolicy, sense_step
from pd_jax.networks.student import GamePolicy, RememberingPolicy
from pd_jax.system.kept import kept
from pd_jax.types import LaneRange, PolicyApply, Trajectory


@flax.struct.dataclass
class LaneState:
    """Everything that play goes on from, besides the emulators themselves.

    Attributes:
      handle: EnvPool's, orders in-jit calls.
      timestep: the last one of every lane.
      statistics: return and length of every lane's current game.
      key: PRNG key of the exploration.
      policy_state: of the policy that labels, as `pd_jax.networks.lane_policy` has it; None of one without.
      student_state: of the student that may act; as long as none acts, it stands still, but for the last actions.
      sensor_state: of the student's sensors, which sense every step whoever acts; None where it sees what the task
        shows.
    """

    handle: Array
    timestep: TimeStep
    statistics: EpisodeStatistics
    key: Array
    policy_state: Any = None
    student_state: Any = None
    sensor_state: SensorState | None = None


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


def start(
    environment: Environment,
    key: Array,
    policy: PolicyApply | LanePolicy | None = None,
    student: PolicyApply | LanePolicy | None = None,
    senses: Senses | None = None,
) -> LaneState:
    """Resets every lane.

    Args:
      environment: the lanes.
      key: PRNG key of the exploration.
      policy, student: that are to play, if they have a state.
      senses: the student's, if they are its own.

    Returns:
      what the first rollout goes on from.
    """
    handle, timestep = environment.reset()
    # Made by NumPy: JAX would compile each of them.
    none = np.zeros(environment.num_lanes, np.float32), np.zeros(environment.num_lanes, np.int32)
    own = (None if each is None else as_lane_policy(each).start(environment.num_lanes) for each in (policy, student))
    states = (*own, None if senses is None else sensors.start(senses, environment.num_lanes))
    return LaneState(handle, timestep, EpisodeStatistics(*jax.device_put(none)), key, *jax.device_put(states))


def mix(
    key: Array,
    teacher_q: Array,
    student_outputs: Array,
    student_share: Array | float,
    lanes: LaneRange | None = None,
) -> Array:
    """The outputs that each lane acts on: the student's with probability ``student_share``, else the teacher's.

    The mixture policy of DAgger (Ross, Gordon and Bagnell 2011, algorithm 3.1), whose β is ``1 - student_share``.

    Args:
      key: of these decisions.
      teacher_q: float32 ``[L, actions]``; of a continuous task the teacher's actions.
      student_outputs: the student's, likewise.
      student_share: between 0 and 1, for all lanes.
      lanes: which of those that the key is for these are; all of them by default.
    """
    chex.assert_equal_shape([teacher_q, student_outputs])
    lanes = lanes or LaneRange(0, len(teacher_q), len(teacher_q))
    is_students = lanes.of(jax.random.uniform(key, (lanes.total,))) < student_share
    return jnp.where(is_students[:, None], student_outputs, teacher_q)


def act(
    policy: PolicyApply | LanePolicy,
    variables: Any,
    state: LaneState,
    epsilon: Array | float,
    student: PolicyApply | LanePolicy | None = None,
    acting: ActingStudent | None = None,
    lanes: LaneRange | None = None,
    senses: Senses | None = None,
    *,
    task: Task | None = None,
) -> tuple[Array, Array, LaneState]:
    """One decision of every lane: ``(actions int32 [L], outputs float32 [L, A], state)``.

    Of a continuous ``task`` actions are float32 ``[L, components]``; teacher and student have the same draw of noise,
    each in its own scale.

    ``outputs`` is always what ``policy`` gives; the actions are those of ``student`` where it is ``acting``. The state
    is that of before, with the next key and what the policies have in mind after the decision. If the state is of some
    lanes only, ``lanes`` says which. A student with ``senses`` of its own is shown what they sense, whether it acts or
    not.
    """
    key, action_key = jax.random.split(state.key)
    # Beside the two keys that epsilon_greedy splits off, which stay what they are without a student and its senses:
    # folding in 0 or 1 would give those very keys.
    share_key, policy_key, student_key = (jax.random.fold_in(action_key, number) for number in (2, 3, 4))
    seen, sensor_state = state.timestep, None
    if senses is not None:
        assert state.sensor_state is not None
        with jax.named_scope("sensing"):
            sensor_key = jax.random.fold_in(action_key, 5)
            sensor_state, seen = sense_step(senses, state.sensor_state, state.timestep, sensor_key, lanes)
    with jax.named_scope("inference"):
        q_values, policy_state = as_lane_policy(policy).decide(
            variables, state.timestep, state.policy_state, policy_key
        )
    outputs, student_state = q_values, state.student_state
    # Outputs of two policies of a continuous task need not be of one kind, but their actions are.
    is_continuous = task is not None and task.is_continuous
    if is_continuous:
        outputs = play(action_key, q_values, epsilon, task, lanes)
    if student is not None and acting is not None:
        with jax.named_scope("inference"):
            student_outputs, student_state = as_lane_policy(student).decide(
                acting.variables, seen, state.student_state, student_key
            )
        if is_continuous:
            student_outputs = play(action_key, student_outputs, epsilon, task, lanes)
        outputs = mix(share_key, outputs, student_outputs, acting.share, lanes)
    actions = outputs if is_continuous else play(action_key, outputs, epsilon, task, lanes)
    policy_state = note_actions(policy, policy_state, actions)
    if student is not None:
        student_state = note_actions(student, student_state, actions)
    decided = dataclasses.replace(
        state, key=key, policy_state=policy_state, student_state=student_state, sensor_state=sensor_state
    )
    return actions, q_values, decided


def advance(state: LaneState, handle: Array, timestep: TimeStep) -> tuple[LaneState, FinishedEpisodes]:
    """The lanes' state after ``timestep``, and which games it ended."""
    statistics = state.statistics.update(timestep, state.timestep.game_over)
    finished = FinishedEpisodes(timestep.game_over, statistics.returns, statistics.lengths)
    return dataclasses.replace(state, handle=handle, timestep=timestep, statistics=statistics), finished


Record = Callable[[LaneState, Array, Array, TimeStep], Any]
"""``(before, actions, q_values, after) -> record`` of one step of play, traced: the state before, what was decided, and
what came of it. The state before shows what was decided on; its key and the policies' states are those of after the
decision. A record is a pytree of arrays ``[L, ...]``."""


class Unroll(Protocol):
    """Play that goes on from a state, see :func:`make_unroll`."""

    def __call__(
        self, variables: Any, state: LaneState, epsilon: Array | float, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Any, FinishedEpisodes]:
        """Plays on; without an acting student, the policy plays that labels."""
        ...


def make_unroll(
    environment: Environment,
    apply: PolicyApply | LanePolicy,
    num_steps: int,
    record: Record,
    *,
    student: PolicyApply | LanePolicy | None = None,
    senses: Senses | None = None,
) -> Unroll:
    """Builds ``unroll(variables, state, epsilon, acting) -> (state, records, finished)`` over ``num_steps`` steps.

    Args:
      environment: the lanes to play; says how they are stepped. For the same seeds, both ways give the same play.
      apply: the policy that plays where no student acts.
      num_steps: steps per lane in one call.
      record: what is wanted of each step.
      student: a second policy, which acts as the unroll's :class:`ActingStudent` says. A new share or new variables
        compile nothing anew.
      senses: the student's, if they are its own; the environment has what is beside.

    Returns:
      that function, whose records are ``[T, L, ...]``. If the environment is stepped inside jit it is to be traced: one
      scan. Stepped from the host it is to be called, and compiles what it runs.
    """
    if environment.stepping == "host":
        return HostUnroll(environment, apply, num_steps, record, student, senses)

    def step(
        variables: Any, state: LaneState, epsilon: Any, acting: ActingStudent | None
    ) -> tuple[LaneState, tuple[Any, FinishedEpisodes]]:
        actions, q_values, decided = act(
            apply, variables, state, epsilon, student, acting, senses=senses, task=environment.task
        )
        handle, timestep = environment.step(state.handle, actions, state.timestep)
        next_state, finished = advance(decided, handle, timestep)
        return next_state, (record(decided, actions, q_values, timestep), finished)

    def unroll(
        variables: Any, state: LaneState, epsilon: Any, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Any, FinishedEpisodes]:
        state, (records, finished) = lax.scan(lambda s, _: step(variables, s, epsilon, acting), state, length=num_steps)
        return state, records, finished

    return unroll


@flax.struct.dataclass
class _Decided:
    """A group of lanes that has decided and is about to be stepped; donated from one step to the next.

    Attributes:
      state: of its lanes after the decision, with the frames of the stacks in front, as EnvPool gives them: turned,
        they would be written down once more.
      actions, q_values: of the decision, as from :func:`act`.
      steps: int32 scalar, how many steps there were before.
    """

    state: LaneState
    actions: Array
    q_values: Array
    steps: Array


_Kept = tuple[Any, FinishedEpisodes]
"""The records and the finished games of all steps, ``[T, L, ...]``, filled so far; donated likewise."""


class HostUnroll:
    """An unroll stepped from the host, one compiled call for each step of a group of lanes.

    That call takes what EnvPool gave, writes the record of the step into an array of all steps, and decides the next;
    nothing but the frames goes to the device, once, and nothing but the actions comes back. While EnvPool steps
    some groups, the device decides for the others.
    """

    def __init__(
        self,
        environment: Environment,
        apply: PolicyApply | LanePolicy,
        num_steps: int,
        record: Record,
        student: PolicyApply | LanePolicy | None,
        senses: Senses | None = None,
    ) -> None:
        self._environment = environment
        self._senses = senses
        self._apply = apply
        self._num_steps = num_steps
        self._record = record
        self._student = student
        self._begin = jax.jit(self._first_decision, static_argnums=0)
        self._go_on = jax.jit(self._next_decision, static_argnums=0, donate_argnums=(2, 3))
        self._end = jax.jit(self._settle, donate_argnums=1)
        # One program for everything, not one concatenation for each of the arrays.
        self._join = jax.jit(self._joined)

    def __call__(
        self, variables: Any, state: LaneState, epsilon: Array | float, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Any, FinishedEpisodes]:
        """Plays on; without an acting student, the policy plays that labels."""
        environment, groups = self._environment, range(len(self._environment.groups))
        decided = [self._begin(group, variables, state, epsilon, acting) for group in groups]
        played: list[Any] = [None for _ in groups]
        turns = [(step, group) for step in range(self._num_steps) for group in groups]
        # One half of the groups is being stepped, the device decides for the other.
        behind = len(groups) // 2
        for index in range(len(turns) + behind):
            if index < len(turns):
                _, group = turns[index]
                environment.send(group, np.asarray(decided[group][0].actions))
            if index >= behind:
                step, group = turns[index - behind]
                received = environment.receive(group)
                if step + 1 < self._num_steps:
                    decided[group] = self._go_on(group, variables, *decided[group], received, epsilon, acting)
                else:
                    played[group] = self._end(*decided[group], received)
        return played[0] if len(groups) == 1 else self._join(played)

    def lower(self, variables: Any, state: LaneState, epsilon: Array | float) -> jax.stages.Lowered:
        """The program of one step of the first group, before it is compiled; the arguments may be shapes."""
        decided, kept = jax.eval_shape(functools.partial(self._first_decision, 0), variables, state, epsilon, None)
        lanes, task = len(decided.actions), self._environment.task
        shape = task.observation_shape
        seen = jax.ShapeDtypeStruct((lanes, *shape[-1:], *shape[:-1]), task.observation_dtype)
        flags, numbers = jax.ShapeDtypeStruct((lanes,), jnp.bool_), jax.ShapeDtypeStruct((lanes,), jnp.float32)
        ended = jax.ShapeDtypeStruct((lanes,), jnp.int32) if task.kind == "atari" else None
        # As EnvPool gives it: bytes of memory, or stacks with the frames in front.
        shapes = {None: None, "ram": (lanes, RAM_SIZE), "frames": (lanes, FRAMES, FULL_SIZE, FULL_SIZE)}
        beside = shapes[None if self._senses is None else self._senses.beside]
        received = Received(
            seen, numbers, flags, flags, ended, None if beside is None else jax.ShapeDtypeStruct(beside, jnp.uint8)
        )
        return self._go_on.lower(0, variables, decided, kept, received, epsilon, None)

    def _first_decision(
        self, group: int, variables: Any, state: LaneState, epsilon: Any, acting: ActingStudent | None
    ) -> tuple[_Decided, _Kept]:
        lanes = self._environment.groups[group]
        own = dataclasses.replace(
            state,
            timestep=jax.tree.map(lanes.of, state.timestep),
            statistics=jax.tree.map(lanes.of, state.statistics),
            policy_state=jax.tree.map(lanes.of, state.policy_state),
            student_state=jax.tree.map(lanes.of, state.student_state),
            sensor_state=jax.tree.map(lanes.of, state.sensor_state),
        )
        student, senses, task = self._student, self._senses, self._environment.task
        actions, q_values, own = act(self._apply, variables, own, epsilon, student, acting, lanes, senses, task=task)
        # Only shapes are looked at, and the time step after it looks like the one before.
        shapes = jax.eval_shape(self._record, own, actions, q_values, own.timestep)
        records = jax.tree.map(lambda leaf: jnp.zeros((self._num_steps, *leaf.shape), leaf.dtype), shapes)
        empty = EpisodeStatistics.zeros(self._num_steps * len(actions))
        shape = (self._num_steps, len(actions))
        finished = FinishedEpisodes(jnp.zeros(shape, bool), empty.returns.reshape(shape), empty.lengths.reshape(shape))
        steps = jnp.zeros((), jnp.int32)
        return _Decided(_turn(own, frames_first), actions, q_values, steps), (records, finished)

    def _next_decision(
        self,
        group: int,
        variables: Any,
        decided: _Decided,
        kept: _Kept,
        received: Received,
        epsilon: Any,
        acting: ActingStudent | None,
    ) -> tuple[_Decided, _Kept]:
        state, records, finished = self._settle(decided, kept, received)
        lanes = self._environment.groups[group]
        student, senses, task = self._student, self._senses, self._environment.task
        actions, q_values, state = act(
            self._apply, variables, state, epsilon, student, acting, lanes, senses, task=task
        )
        return _Decided(_turn(state, frames_first), actions, q_values, decided.steps + 1), (records, finished)

    def _settle(self, decided: _Decided, kept: _Kept, received: Received) -> tuple[LaneState, Any, FinishedEpisodes]:
        """The lanes after the step, and the records with that of the step."""
        before = _turn(decided.state, frames_last)
        timestep = self._environment.timestep(received, before.timestep.is_last)
        state, finished = advance(before, before.handle, timestep)
        record = self._record(before, decided.actions, decided.q_values, timestep)

        def put(all_steps: Array, one: Array) -> Array:
            return lax.dynamic_update_index_in_dim(all_steps, one.astype(all_steps.dtype), decided.steps, axis=0)

        records, all_finished = jax.tree.map(put, kept, (record, finished))
        return state, records, all_finished

    @staticmethod
    def _joined(
        played: list[tuple[LaneState, Any, FinishedEpisodes]],
    ) -> tuple[LaneState, Any, FinishedEpisodes]:
        """The groups side by side."""
        states, records, finished = zip(*played, strict=True)
        by_lane = ("timestep", "statistics", "policy_state", "student_state", "sensor_state")
        parts = ({name: getattr(state, name) for name in by_lane} for state in states)
        # Every group has the keys of all.
        state = dataclasses.replace(states[0], **jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))
        side_by_side = functools.partial(jax.tree.map, lambda *leaves: jnp.concatenate(leaves, axis=1))
        return state, side_by_side(*records), side_by_side(*finished)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is played: the arguments of :func:`make_rollout` beside the environment."""

    apply: PolicyApply | LanePolicy
    num_steps: int
    student: PolicyApply | LanePolicy | None
    senses: Senses | None
    keeps_shown: bool

    @property
    def is_of_values(self) -> bool:
        """Whether equal plans play the same. Of anybody's own functions they need not, and what these hold is not to be
        kept."""
        return _is_value(self.apply) and (self.student is None or _is_value(self.student))

    def unroll_of(self, environment: Any) -> Unroll:
        """Its play in some lanes."""
        record = functools.partial(_record, keeps_shown=self.keeps_shown)
        return make_unroll(environment, self.apply, self.num_steps, record, student=self.student, senses=self.senses)


def _is_value(policy: Any) -> bool:
    if inspect.ismethod(policy):
        return isinstance(policy.__self__, nn.Module)
    return isinstance(policy, GamePolicy | RememberingPolicy | SensingPolicy)


class _Programs:
    """What is compiled of a plan, for all environments of one kind."""

    def __init__(self, plan: _Plan) -> None:
        stand_in = StandIn()

        def one(*arguments: Any) -> Any:
            return stand_in.unwatched(plan.unroll_of(stand_in))(*arguments)

        compiled = jax.jit(one)

        def several(most: int, *arguments: Any) -> Any:
            return stand_in.unwatched(functools.partial(_unroll_several, compiled))(most, *arguments)

        self.stands_for = stand_in.stands_for
        self.one = compiled
        self.several = jax.jit(several, static_argnums=0)


@kept(16)
def _programs_of(kind: Hashable, plan: _Plan) -> _Programs:
    return _Programs(plan)


class JitRollout:
    """An unroll that is stepped inside jit, compiled."""

    def __init__(self, environment: Environment, plan: _Plan) -> None:
        self._environment = environment
        is_shared = environment.kind is not None and plan.is_of_values
        self._programs = _programs_of(environment.kind, plan) if is_shared else _Programs(plan)

    def __call__(
        self, variables: Any, state: LaneState, epsilon: Array | float, acting: ActingStudent | None = None
    ) -> tuple[LaneState, Any, FinishedEpisodes]:
        """Plays on; without an acting student, the policy plays that labels."""
        self._programs.stands_for(self._environment)
        played: tuple[LaneState, Any, FinishedEpisodes] = self._programs.one(variables, state, epsilon, acting)
        self._environment.wait_for(played[0].handle)
        return played

    def several(
        self,
        most: int,
        count: int,
        variables: Any,
        state: LaneState,
        epsilon: Array | float,
        acting: ActingStudent | None = None,
    ) -> tuple[LaneState, Any, FinishedEpisodes]:
        """Plays ``count`` times what one call plays, in one call: a call costs half a millisecond.

        Args:
          most: what is compiled, once, for all counts up to it.
          count: at least 1.
          variables, state, epsilon, acting: as for one.

        Returns:
          as of one, with an axis of ``most`` in front of the records and the finished games, of which the first
          ``count`` were played.
        """
        self._programs.stands_for(self._environment)
        played: tuple[LaneState, Any, FinishedEpisodes] = self._programs.several(
            most, np.int32(count), variables, state, epsilon, acting
        )
        self._environment.wait_for(played[0].handle)
        return played

    def lower(self, variables: Any, state: LaneState, epsilon: Array | float) -> jax.stages.Lowered:
        """The program before it is compiled; the arguments may be shapes."""
        self._programs.stands_for(self._environment)
        return self._programs.one.lower(variables, state, epsilon)


def _unroll_several(
    unroll: Unroll,
    most: int,
    count: Array,
    variables: Any,
    state: LaneState,
    epsilon: Any,
    acting: ActingStudent | None,
) -> tuple[LaneState, Any, FinishedEpisodes]:
    """As :meth:`JitRollout.several`, of one that is compiled: it is traced once."""

    def play(number: Array, carry: tuple[LaneState, Any]) -> tuple[LaneState, Any]:
        state, kept = carry
        state, *played = unroll(variables, state, epsilon, acting)
        put = functools.partial(lax.dynamic_update_index_in_dim, index=number, axis=0)
        return state, jax.tree.map(put, kept, played)

    _, *one = jax.eval_shape(unroll, variables, state, epsilon, acting)
    empty = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), one)
    state, (records, finished) = lax.fori_loop(0, count, play, (state, empty))
    return state, records, finished


def _turn(state: LaneState, turn: Callable[[Array], Array]) -> LaneState:
    """The state with its observations turned."""
    timestep = state.timestep
    return dataclasses.replace(state, timestep=dataclasses.replace(timestep, observations=turn(timestep.observations)))


def _record(
    before: LaneState, actions: Array, q_values: Array, after: TimeStep, *, keeps_shown: bool = True
) -> Trajectory:
    """A step of a trajectory: what a student with senses of its own senses is beside what the task shows, or in its
    place."""
    observations = before.timestep.observations
    sensed = None if before.sensor_state is None else sensors.newest(before.sensor_state)
    if sensed is not None and not keeps_shown:
        observations, sensed = sensed[..., None] if sensed.ndim == 3 else sensed, None
    return Trajectory(
        observations=observations[..., -1] if observations.ndim == 4 else observations,
        is_first=before.timestep.is_first,
        is_decision=~before.timestep.is_last,
        actions=actions,
        rewards=after.rewards,
        teacher_q=q_values,
        sensed=sensed,
    )


def make_rollout(
    environment: Environment,
    apply: PolicyApply | LanePolicy,
    num_steps: int,
    *,
    student: PolicyApply | LanePolicy | None = None,
    senses: Senses | None = None,
    keeps_shown: bool = False,
) -> Unroll:
    """Builds ``rollout(variables, state, epsilon, acting) -> (state, trajectory, finished)``.

    Args:
      environment, apply, num_steps, student, senses: as for :func:`make_unroll`; the policy labels every step.
      keeps_shown: whether what the task shows is kept beside what a student senses.

    Returns:
      a compiled unroll whose records are a `pd_jax.types.Trajectory`.
    """
    plan = _Plan(apply, num_steps, student, senses, keeps_shown)
    return plan.unroll_of(environment) if environment.stepping == "host" else JitRollout(environment, plan)
