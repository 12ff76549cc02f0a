"""The programs of a distillation, lowered for devices that need not be there, from shapes alone.

They are the very ones that a run compiles: its updates, the insertion of a rollout, what decides in play, what scores,
and what labels stored play anew.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from pd_jax.actors import rollout
from pd_jax.actors.stepping import GROUPS
from pd_jax.config.distill import DistillConfig
from pd_jax.environments import sensors
from pd_jax.environments.envpool import Environment, EpisodeStatistics, TimeStep
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import ATARI_OBSERVATION_SHAPE, RAM_SIZE, Task
from pd_jax.evaluation.evaluator import settle_and_act, without_observations
from pd_jax.learner.gradients import gradient_parts
from pd_jax.learner.learner import Learner, learner_template
from pd_jax.learner.objective import make_auto, make_objective
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.partition import part_sizes
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student
from pd_jax.replay import rings
from pd_jax.replay.relabel import Relabeller
from pd_jax.resources.liveness import tree_bytes
from pd_jax.resources.parts import trajectory_of
from pd_jax.resources.plan.hlo import RingShape
from pd_jax.system.devices import DeviceGroup, tracing_for

_XLA_TYPES = {"uint8": "u8", "float32": "f32"}


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of a run.

    Attributes:
      name: what it does, and for what.
      lower: makes it, ready to be compiled.
      rings: the columns that one device holds and the program must not copy.
      ring_bytes: what these take.
      games: that run it, by name.
      turns: of its loop: updates, or steps of play.
      parts: of a minibatch, in a loop within that.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    rings: frozenset[RingShape]
    ring_bytes: int
    games: tuple[str, ...]
    turns: int = 1
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """A distillation as far as its programs depend on it.

    Attributes:
      config: of it, whose numbers are dealt out evenly over the devices.
      tasks: its games.
      teacher_network: of the teachers, which need not be there.
      devices: that it is for.
      num_hosts: machines that these are in, each with a process.
      in_jit: whether EnvPool is stepped inside the rollout.
    """

    config: DistillConfig
    tasks: tuple[Task, ...]
    teacher_network: str
    devices: DeviceGroup
    num_hosts: int
    in_jit: bool

    @functools.cached_property
    def student(self) -> Student:
        """Of all games."""
        return make_student(self.config.student, self.tasks).with_sizes(part_sizes(self.config.parts))

    @functools.cached_property
    def learner_state(self) -> Any:
        """Shapes of what the updates go on from, of one device."""
        return learner_template(self.student, self.config.learner, self.config.loss)

    def stored(self, game: int) -> rings.ReplayState:
        """Shapes of the replay of a game on one device."""
        config, task = self.config, self.student.tasks[game]
        init = functools.partial(
            rings.init,
            config.lanes[game] // self.devices.size,
            config.capacity_per_lane(game),
            task.frame_shape,
            task.observation_dtype,
            task.most_outputs,
            task.stack,
            config.student.observation.last_actions,
            task.action_shape,
        )
        with tracing_for(self.devices.platform):
            shapes: rings.ReplayState = jax.eval_shape(init)
        return shapes

    def teacher(self, game: int) -> tuple[Any, Any]:
        """``(apply, shapes of the variables)`` of the teacher of a game."""
        task = self.tasks[game]
        network = make_network(self.teacher_network if task.kind == "atari" else "mlp", task.most_outputs)
        example = jax.ShapeDtypeStruct((1, *task.observation_shape), jnp.dtype(task.observation_dtype))
        return network.apply, jax.eval_shape(network.init, jax.random.key(0), example)

    def senses(self, game: int) -> Senses | None:
        """The student's of a game; None where it sees what the game shows."""
        senses = self.student.senses[game] if self.student.senses else None
        return None if senses is None or senses.is_plain else senses

    def play_lanes(self, game: int) -> int:
        """Lanes of a game that one host plays."""
        return max(1, self.config.lanes[game] // self.num_hosts)

    def num_groups(self, game: int) -> int:
        """That the lanes of a game are stepped in."""
        return 1 if self.in_jit or self.devices.platform == "cpu" else min(GROUPS, self.play_lanes(game))

    def lanes_at_once(self, game: int) -> int:
        """Lanes of a game on one host that EnvPool steps at the same time, at the most.

        From the host, half of the groups and the one that is waited for: the others are with the device.
        """
        lanes, groups = self.play_lanes(game), self.num_groups(game)
        return lanes if groups == 1 else math.ceil(lanes * (groups // 2 + 1) / groups)

    def devices_axis(self, shapes: Any) -> Any:
        """The shapes of what all devices hold, from those of what one does."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((self.devices.size, *leaf.shape), leaf.dtype), shapes)

    def on_first(self, shapes: Any) -> Any:
        """The shapes, on the first device: there the play of a host takes place."""
        sharding = SingleDeviceSharding(self.devices.devices[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def ring_shapes(stored: rings.ReplayState) -> frozenset[RingShape]:
    """The columns of a replay that are never to be copied.

    The flags are no part of them: a byte a step, which a compiler may keep in a faster memory.
    """
    shapes = set()
    for column in _columns(stored):
        lanes, slots, *step = column.shape
        # As it is, or with the steps of all lanes in one line.
        for shape in ((lanes, slots, *step), (lanes * slots, *step)):
            shapes.add(RingShape.of(_XLA_TYPES[column.dtype.name], shape))
    return frozenset(shapes)


def _columns(stored: rings.ReplayState) -> tuple[Any, ...]:
    return stored.observations, stored.teacher_q


def _ring_bytes(stored: rings.ReplayState) -> int:
    return tree_bytes(_columns(stored))


def _lanes_of(task: Task, lanes: int, handle: jax.ShapeDtypeStruct, senses: Senses | None = None) -> rollout.LaneState:
    """Shapes of lanes at play, and of a student's ``senses`` beside them."""

    def build() -> rollout.LaneState:
        flags = jnp.zeros(lanes, bool)
        observations = jnp.zeros((lanes, *task.observation_shape), task.observation_dtype)
        beside = None if senses is None else _beside(senses, lanes)
        timestep = TimeStep(observations, jnp.zeros(lanes, jnp.float32), flags, flags, flags, flags, beside)
        return rollout.LaneState(
            jnp.zeros(handle.shape, handle.dtype),
            timestep,
            EpisodeStatistics.zeros(lanes),
            jax.random.key(0),
            sensor_state=None if senses is None else sensors.start(senses, lanes),
        )

    shapes: rollout.LaneState = jax.eval_shape(build)
    return shapes


def _beside(senses: Senses, lanes: int) -> Any:
    if senses.beside is None:
        return None
    is_ram = senses.beside == "ram"
    return (
        jnp.zeros((lanes, RAM_SIZE), jnp.float32) if is_ram else jnp.zeros((lanes, *ATARI_OBSERVATION_SHAPE), jnp.uint8)
    )


def programs_of(run: Run) -> Iterator[Program]:
    """The programs of a run; what several games have in common is there once.

    Args:
      run: whose.
    """
    config, student = run.config, run.student
    everything = [run.stored(game) for game in range(len(run.tasks))]
    names = tuple(task.name for task in run.tasks)
    num_updates = config.learner.updates_per_call

    def updates() -> jax.stages.Lowered:
        logits = [False] * len(run.tasks)
        objective = make_objective(config.loss, student, logits)
        learner = Learner(
            student,
            objective.loss,
            config.learner,
            run.devices,
            total_updates=config.schedule.rounds * config.schedule.updates_per_round,
            divergence=objective.divergence,
            weigh=objective.weigh,
            auto=make_auto(config.loss, student, logits),
        )
        state, stored = run.devices_axis(run.learner_state), tuple(map(run.devices_axis, everything))
        return learner.lower(state, stored, num_updates)

    parts = gradient_parts(student, config.learner, run.devices)
    columns = frozenset().union(*map(ring_shapes, everything))
    size = sum(map(_ring_bytes, everything))
    yield Program(f"update {config.student.network}", updates, columns, size, names, num_updates, parts)
    alike: dict[Any, list[int]] = {}
    for game, task in enumerate(run.tasks):
        key = (task.observation_shape, task.most_outputs, config.lanes[game], config.capacity_per_lane(game))
        alike.setdefault(key, []).append(game)
    for games in alike.values():
        yield from _programs_of_game(run, games[0], tuple(names[game] for game in games))


def _programs_of_game(run: Run, game: int, names: tuple[str, ...]) -> Iterator[Program]:
    """What is done for each game; these games do it alike."""
    config, task, devices, platform = run.config, run.tasks[game], run.devices, run.devices.platform
    stored, columns = run.stored(game), ring_shapes(run.stored(game))
    apply, variables = run.teacher(game)
    length, senses = config.schedule.rollout_length, run.senses(game)
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it"

    def insertion() -> jax.stages.Lowered:
        rollout_shapes = trajectory_of(
            run.student.tasks[game], config.lanes[game] // devices.size, config.stored_length
        )
        insert = devices.map(rings.insert, donate=(0,))
        lowered: jax.stages.Lowered = insert.lower(run.devices_axis(stored), run.devices_axis(rollout_shapes))
        return lowered

    def play() -> jax.stages.Lowered:
        lanes = run.play_lanes(game)
        stepping: Any = "jit" if run.in_jit else "host"
        beside = None if senses is None else senses.beside
        environment = Environment(task, lanes, 0, stepping=stepping, num_groups=run.num_groups(game), beside=beside)
        try:
            handle = jax.ShapeDtypeStruct(np.shape(environment.handle), np.asarray(environment.handle).dtype)
            state = run.on_first(_lanes_of(task, lanes, handle, senses))
            # Compiled by `jax.jit`, or a `HostUnroll`.
            unroll: Any = rollout.make_rollout(environment, apply, length, senses=senses)
            epsilon = run.on_first(jax.ShapeDtypeStruct((), jnp.float32))
            with tracing_for(platform):
                lowered: jax.stages.Lowered = unroll.lower(run.on_first(variables), state, epsilon)
            return lowered
        finally:
            environment.close()

    def evaluation() -> jax.stages.Lowered:
        lanes = min(config.evaluation.num_lanes, config.evaluation.episodes)
        state = _lanes_of(task, lanes, jax.ShapeDtypeStruct((0,), jnp.uint8), senses)
        # Here the policy has its sensors' state.
        state = dataclasses.replace(state, sensor_state=None)
        shape = task.observation_shape
        seen: Any = jax.ShapeDtypeStruct((lanes, *shape[-1:], *shape[:-1]), jnp.dtype(task.observation_dtype))
        shown = dataclasses.replace(state.timestep, observations=seen)
        arguments = (run.learner_state.variables, without_observations(state), shown)
        policy, epsilon = run.student.player(game), config.evaluation.epsilon
        if isinstance(policy, LanePolicy):
            remembered = jax.eval_shape(functools.partial(policy.start, lanes))
            arguments = (arguments[0], dataclasses.replace(arguments[1], policy_state=remembered), shown)
        with tracing_for(platform):
            lowered: jax.stages.Lowered = settle_and_act.lower(policy, *map(run.on_first, arguments), epsilon, task)
        return lowered

    def relabelling() -> jax.stages.Lowered:
        return Relabeller(apply, devices).lower(run.devices_axis(stored), run.devices_axis(variables))

    size = _ring_bytes(stored)
    yield Program(f"insert {label}", insertion, columns, size, names)
    yield Program(f"rollout {label}", play, frozenset(), 0, names, length if run.in_jit else 1)
    yield Program(f"evaluate {label}", evaluation, frozenset(), 0, names)
    # What a student senses tells no teacher anything: a run that would ask one is refused.
    if senses is None:
        yield Program(f"relabel {label}", relabelling, columns, size, names)
