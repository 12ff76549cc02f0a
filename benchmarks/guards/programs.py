"""What is guarded: the programs and calls that a distillation, an evaluation and a student at work consist of.

All of it at toy size, with the networks and frames that users have: what is counted hardly depends on how much is
learnt from, or played.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.guards.counting import Counts, count_call, count_compilations, count_program
from benchmarks.harness.material import make_learner
from benchmarks.stages.live import live_config
from pd_jax.actors import rollout
from pd_jax.deploy.policy import load_student
from pd_jax.distill.session import distill
from pd_jax.environments.envpool import Environment, frames_first
from pd_jax.environments.tasks import Task, get_task
from pd_jax.evaluation.evaluator import Evaluator, settle_and_act, without_observations
from pd_jax.networks.registry import make_network
from pd_jax.replay import rings
from pd_jax.replay.replay import Replay, RingSize
from pd_jax.resources.plan.programs import ring_shapes
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory

UPDATES = 2
"""Of one call."""
BATCH_SIZE = 32
_LANES = 4
_CAPACITY = 160
_STEPS = 4


def _updates(network: str, games: Sequence[str]) -> Counts:
    """One call of some updates of a student, whose minibatches are drawn from the replay."""
    devices, tasks = DeviceGroup.local(1), [get_task(game) for game in games]
    stored = _replay(tasks, devices).stored
    learner = make_learner(network, tasks, devices, BATCH_SIZE)
    state = learner.init(jax.random.key(0))
    columns = frozenset().union(*(ring_shapes(devices.first(one)) for one in stored))
    counts = count_program(learner.lower(state, stored, UPDATES).compile(), columns)

    def call() -> object:
        nonlocal state
        state, metrics = learner.update_from_replay(state, stored, UPDATES)
        return metrics

    return counts | count_call(call)


def _insertion() -> Counts:
    """A rollout of frames into the rings of a replay."""
    devices, task = DeviceGroup.local(1), get_task("pong")
    replay = _replay([task], devices)
    play = Trajectory(
        observations=jnp.ones((_STEPS, _LANES, *task.frame_shape), task.observation_dtype),
        is_first=jnp.zeros((_STEPS, _LANES), jnp.bool_),
        is_decision=jnp.ones((_STEPS, _LANES), jnp.bool_),
        actions=jnp.zeros((_STEPS, _LANES), jnp.int32),
        rewards=jnp.zeros((_STEPS, _LANES), jnp.float32),
        teacher_q=jnp.ones((_STEPS, _LANES, task.num_actions), jnp.float32),
    )
    # As the replay maps it.
    insert = devices.map(rings.insert, donate=(0,))
    compiled = insert.lower(replay.stored[0], devices.split(play, axis=1)).compile()
    counts = count_program(compiled, ring_shapes(devices.first(replay.stored[0])))

    def call() -> object:
        replay.insert(0, play)
        return replay.stored

    return counts | count_call(call)


def _rollout() -> Counts:
    """A rollout of a policy in all lanes, stepped inside jit."""
    task, network, variables = _policy("net2")
    environment = Environment(task, _LANES, 0, stepping="jit", num_threads=1)
    try:
        play: Any = rollout.make_rollout(environment, network.apply, _STEPS)
        state = rollout.start(environment, jax.random.key(0))
        counts = count_program(play.lower(variables, state, 0.05).compile())

        def call() -> object:
            nonlocal state
            state, trajectory, finished = play(variables, state, 0.05)
            return state, trajectory, finished

        return counts | count_call(call)
    finally:
        environment.close()


def _evaluation() -> Counts:
    """A step of an evaluation: what all lanes show is taken in, and their next actions are decided."""
    task, network, variables = _policy("net2")
    environment = Environment(task, 2, 0, stepping="host", num_threads=1)
    state = rollout.start(environment, jax.random.key(0))
    environment.close()
    shown = dataclasses.replace(state.timestep, observations=frames_first(state.timestep.observations))
    shapes = (variables, without_observations(state), shown, 0.05)
    counts = count_program(settle_and_act.lower(network.apply, *shapes).compile())

    def play(steps: int) -> Counts:
        options = {"max_episode_steps": steps, "num_threads": 1}
        evaluator = Evaluator(task, network.apply, episodes=2, num_lanes=2, environment_options=options)
        return count_call(lambda: evaluator.run(variables).returns)

    # What begins an evaluation is in both.
    short, long = play(_STEPS), play(2 * _STEPS)
    return counts | {name: (long[name] - short[name]) // _STEPS for name in short}


def _distillation() -> Counts:
    """A run of a few rounds to its end, and what its student then takes for one decision."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        config = live_config("cartpole", "mlp", run, steps=512, updates=20, rounds=1)
        counts = count_compilations(lambda: distill(config, tells_memory=False))
        student = load_student(run)
        observations = np.zeros((_LANES, *student.task.observation_shape), student.task.observation_dtype)
        # As a policy compiles it.
        decision = count_program(jax.jit(student.apply).lower(student.variables, observations).compile())
        decision |= count_call(lambda: student.act(observations))
        return counts | {f"decision: {name}": number for name, number in decision.items()}


def _policy(name: str) -> tuple[Task, Any, Any]:
    """Pong, a network for it, and its untrained weights."""
    task = get_task("pong")
    network = make_network(name, task.num_actions)
    example = jnp.zeros((1, *task.observation_shape), task.observation_dtype)
    return task, network, jax.jit(network.init)(jax.random.key(0), example)


def _replay(tasks: Sequence[Task], devices: DeviceGroup) -> Replay:
    sizes = (RingSize(_LANES, _CAPACITY, task.frame_shape, task.observation_dtype, task.num_actions) for task in tasks)
    return Replay(list(sizes), devices)


GUARDED: Mapping[str, Callable[[], Counts]] = MappingProxyType(
    {
        # First: its compilations are those of a process that has not compiled anything.
        "distillation": _distillation,
        "updates of net2": functools.partial(_updates, "net2", ["pong"]),
        "updates of dqn": functools.partial(_updates, "dqn", ["pong"]),
        "updates of mlp": functools.partial(_updates, "mlp", ["cartpole"]),
        "updates of two games": functools.partial(_updates, "mlp", ["cartpole", "acrobot"]),
        "insertion": _insertion,
        "rollout": _rollout,
        "evaluation": _evaluation,
    }
)
"""By name, in the order in which they are counted."""
