"""What the parts of a run take, from the shapes of what they allocate; nothing is allocated to find out.

Counted are the arrays that last, and those that come and go with a minibatch, a rollout or a checkpoint. Not counted
are the interpreter with its libraries, what an allocator wastes, and other programs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.collect import CollectConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import EvaluationConfig
from pd_jax.environments.tasks import Task
from pd_jax.networks.partition import in_one_part
from pd_jax.networks.sensing import SensingPolicy
from pd_jax.networks.student import RememberingPolicy, Student
from pd_jax.replay import rings
from pd_jax.resources.liveness import peak_bytes, tree_bytes
from pd_jax.resources.memory import MemoryEstimate, Part
from pd_jax.system.devices import DeviceGroup, target_platform
from pd_jax.types import Trajectory

# Measured with EnvPool 1.2.5: 1.5 to 1.7 MB a lane of three Atari games, 0.05 of CartPole, 0.2 of LunarLander.
_CONSOLE_BYTES, _OTHER_BYTES = 1_700_000, 200_000
# Measured: what XLA's compiler, the compiled programs, Orbax and Matplotlib add to the interpreter by the end of a run.
_PROGRAM_BYTES = 400 * 2**20
# One that is played, the one before it, and two while that one is stored: split over devices, and turned lane by lane.
ROLLOUTS = 4
# The state that is being written, and what Orbax makes of it.
_CHECKPOINTS = 2

Policy = tuple[Any, Any]
"""``(apply, variables)``: see `pd_jax.types.PolicyApply`; the variables may be shapes."""


def collection_memory(config: CollectConfig, task: Task, teacher: Policy) -> MemoryEstimate:
    """What a recording takes."""
    apply, variables = teacher
    lanes = config.env.num_lanes
    key = "env.num_lanes"
    parts = (
        rollout_part(key, [(task, lanes)], config.rollout_length),
        Part("activations", forward_bytes(apply, variables, task, lanes), f"{key}: {lanes} lanes at once take"),
        weights_part("teacher", [variables]),
        emulators_part(key, [(task, lanes)]),
        programs_part(),
    )
    return MemoryEstimate(parts, DeviceGroup.local(1))


def evaluation_memory(
    evaluation: EvaluationConfig, policies: Sequence[Policy], tasks: Sequence[Task]
) -> MemoryEstimate:
    """What scoring some policies takes, each in the game at its place in ``tasks``."""
    parts = (
        weights_part("networks", [variables for _, variables in policies]),
        evaluation_part(evaluation, policies, tasks),
        emulators_part("evaluation.num_lanes", [], evaluation, tasks),
        programs_part(),
    )
    return MemoryEstimate(parts, DeviceGroup.local(1))


def replay_part(config: DistillConfig, tasks: Sequence[Task]) -> Part:
    """The replays of all games, on all devices together."""
    total = 0
    for game, task in enumerate(tasks):
        init = functools.partial(
            rings.init,
            config.lanes[game],
            config.capacity_per_lane(game),
            task.frame_shape,
            task.observation_dtype,
            task.most_outputs,
            task.stack,
            config.student.observation.last_actions,
            task.action_shape,
        )
        total += tree_bytes(jax.eval_shape(init))
    return Part("replay", total, f"replay.capacity: {config.replay.capacity} steps of {spell_games(tasks)} take")


def evaluation_part(evaluation: EvaluationConfig, policies: Sequence[Policy], tasks: Sequence[Task]) -> Part:
    """The layers of a policy that is scored, and what it sees; one is scored after another."""
    lanes = _evaluated_lanes(evaluation)
    sizes = [
        forward_bytes(apply, variables, task, lanes) + 2 * tree_bytes(observations_of(task, lanes))
        for (apply, variables), task in zip(policies, tasks, strict=True)
    ]
    return Part("activations", max(sizes), f"evaluation.num_lanes: {lanes} lanes at once take")


def weights_part(name: str, variables: Sequence[Any]) -> Part:
    """The weights of the teachers, or of whoever else is there to be asked."""
    weights = "weights of a network take" if len(variables) == 1 else f"weights of {len(variables)} networks take"
    return Part(name, sum(map(tree_bytes, variables)), f"teacher: the {weights}")


def rollout_part(key: str, lanes: Sequence[tuple[Task, int]], length: int) -> Part:
    """Play on its way to the replay or to the disk, and what the lanes show; ``key`` says how many lanes there are."""
    total = 0
    for task, own in lanes:
        total += ROLLOUTS * tree_bytes(trajectory_of(task, own, length)) + 2 * tree_bytes(observations_of(task, own))
    return Part("rollout", total, f"{key}: rollouts of {sum(own for _, own in lanes)} lanes x {length} steps take")


def emulators_part(
    key: str,
    lanes: Sequence[tuple[Task, int]],
    evaluation: EvaluationConfig | None = None,
    evaluated: Sequence[Task] = (),
) -> Part:
    """EnvPool's emulators, those of an evaluation beside those of the play; ``key`` says how many lanes there are."""
    total = sum(own * _emulator_bytes(task) for task, own in lanes)
    count = sum(own for _, own in lanes)
    if evaluation is not None:
        more = _evaluated_lanes(evaluation)
        key = "evaluation.num_lanes" if more > count else key
        count += more
        total += more * max(map(_emulator_bytes, evaluated))
    return Part("emulators", total, f"{key}: {count} emulators take", on_host=True)


def checkpoint_part(key: str, state: Any, num_params: int, count: int = 1) -> Part:
    """What is on its way to the disk; ``key`` says how large the network is."""
    subject = f"{key}: saving {num_params:,} parameters{times(count)} takes"
    return Part("checkpoint", _CHECKPOINTS * count * tree_bytes(state), subject, on_host=True)


def programs_part() -> Part:
    """What every run takes."""
    return Part("programs", _PROGRAM_BYTES, on_host=True)


def minibatch_bytes(student: Student, batch: int, is_one_game: bool = False) -> int:
    """What an update takes beside parameters and their gradients, on one device of the platform that is traced for.

    These are the outputs of the layers and of what the layers are made of (such as the patches of a convolution that is
    a matrix product), all that the way back needs of them, and two copies of the observations: as they were stored, and
    as a stack.

    Args:
      student: the network.
      batch: samples of each game.
      is_one_game: whether an update is about one game only.
    """
    return _minibatch_bytes(student, batch, is_one_game, target_platform())


@functools.cache
def _minibatch_bytes(student: Student, batch: int, is_one_game: bool, platform: str) -> int:
    variables = jax.eval_shape(student.init, jax.random.key(0))
    student = dataclasses.replace(student, network=in_one_part(student.network))
    leading = (batch,) if is_one_game else (student.num_games, batch)
    observations = jax.ShapeDtypeStruct((*leading, *student.observation_shape), jnp.dtype(student.observation_dtype))

    def loss(variables: Any, observations: Any) -> Any:
        if is_one_game:
            return (student.apply_game(variables, observations, jnp.int32(0)) ** 2).sum()
        return (student.apply(variables, observations) ** 2).sum()

    layers = max(0, peak_bytes(jax.grad(loss), variables, observations) - tree_bytes(variables))
    return layers + 2 * tree_bytes(observations)


def forward_bytes(apply: Any, variables: Any, task: Task, lanes: int) -> int:
    """What one decision of some lanes takes in a network, beside its parameters, on the platform traced for."""
    if isinstance(apply, SensingPolicy):
        return forward_bytes(apply.policy, variables, apply.senses.perceived, lanes)
    if isinstance(apply, RememberingPolicy):
        flags, state = jax.ShapeDtypeStruct((lanes,), jnp.bool_), jax.eval_shape(lambda: apply.start(lanes))
        return peak_bytes(apply.step, variables, observations_of(task, lanes), flags, state)
    return peak_bytes(apply, variables, observations_of(task, lanes))


def spell_games(tasks: Sequence[Task]) -> str:
    """Such as ``pong``, or ``each of 3 games``."""
    return tasks[0].name if len(tasks) == 1 else f"each of {len(tasks)} games"


def times(count: int) -> str:
    return f", {count} times," if count > 1 else ""


def _emulator_bytes(task: Task) -> int:
    return _CONSOLE_BYTES if task.is_console else _OTHER_BYTES


def _evaluated_lanes(evaluation: EvaluationConfig) -> int:
    return min(evaluation.num_lanes, evaluation.episodes)


def observations_of(task: Task, lanes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((lanes, *task.observation_shape), jnp.dtype(task.observation_dtype))


def trajectory_of(task: Task, lanes: int, length: int) -> Trajectory:
    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((length, lanes, *shape), jnp.dtype(dtype))

    return Trajectory(
        observations=of(task.observation_dtype, *task.frame_shape),
        is_first=of(bool),
        is_decision=of(bool),
        actions=of(task.action_dtype, *task.action_shape),
        rewards=of("float32"),
        teacher_q=of("float32", task.most_outputs),
    )
