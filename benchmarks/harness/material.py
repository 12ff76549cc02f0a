"""What is measured on: real play, and replays and batches made of it. Never zeros, which compress, predict and clock
better than anything a game shows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.floors import Cost, frame_bytes
from pd_jax.actors.live import LivePlay
from pd_jax.config.sections import EnvConfig, LearnerConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task, get_task
from pd_jax.learner.learner import Learner
from pd_jax.losses import kl_loss
from pd_jax.networks.partition import PartSizes, machine_sizes
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers import Teacher, load
from pd_jax.types import Batch, Trajectory

LANES = 16
ROLLOUT_LENGTH = 32
EPSILON = 0.05
TEMPERATURE = 0.01


def teachers_play(teacher: Teacher, num_steps: int, lanes: int = LANES) -> Trajectory:
    """At least ``num_steps`` control steps of a teacher's play in all lanes together, in the host's memory."""
    env = EnvConfig(num_lanes=lanes)
    play = LivePlay(teacher, teacher.task, env, rollout_length=ROLLOUT_LENGTH, epsilon=EPSILON, seed=0)
    try:
        parts = [jax.tree.map(np.asarray, part) for part in play.rollouts(-(-num_steps // (lanes * ROLLOUT_LENGTH)))]
    finally:
        play.close()
    trajectory: Trajectory = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return trajectory


def random_play(task: Task, num_steps: int) -> Trajectory:
    """As :func:`teachers_play`, of a game without a teacher: random actions, labelled with random outputs."""
    generator = np.random.default_rng(0)
    environment = Environment(task, LANES, 0)
    _, timestep = environment.reset()
    records = []
    for _ in range(-(-num_steps // LANES)):
        actions = generator.integers(0, task.num_actions, LANES, dtype=np.int32)
        is_last = np.asarray(timestep.is_last)
        records.append((np.asarray(timestep.observations)[..., -1], np.asarray(timestep.is_first), ~is_last, actions))
        timestep = environment.step_host(actions, is_last)
    environment.close()
    observations, is_first, is_decision, taken = map(np.stack, zip(*records, strict=True))
    labels = generator.normal(size=(*taken.shape, task.num_actions)).astype(np.float32)
    rewards = np.zeros(taken.shape, np.float32)
    arrays: list[Any] = [observations, is_first, is_decision, taken, rewards, labels]
    return Trajectory(*arrays)


def fill(devices: DeviceGroup, task: Task, play: Trajectory, capacity: int) -> ReplayState:
    """A replay of ``capacity`` control steps with a device axis, filled with the play over and over."""
    slots = capacity // LANES
    stored: ReplayState = _allocator(
        devices, LANES // devices.size, slots, task.frame_shape, task.observation_dtype, task.num_actions
    )(np.zeros(devices.size))
    length = min(len(play.actions), slots)
    dealt = devices.split(jax.tree.map(lambda leaf: np.asarray(leaf[:length]), play), axis=1)
    for _ in range(-(-slots // length)):
        stored = inserter(devices)(stored, dealt)
    return stored


@functools.cache
def _allocator(devices: DeviceGroup, *sizes: Any) -> Callable[..., Any]:
    """Makes empty replays on the devices; cached, as compiling it takes longer than running it."""
    return devices.map(lambda _: rings.init(*sizes))


@functools.cache
def inserter(devices: DeviceGroup) -> Callable[..., Any]:
    """:func:`pd_jax.replay.rings.insert` over the devices, as a run maps it."""
    return devices.map(rings.insert, donate=(0,))


_sample = jax.jit(rings.sample, static_argnums=2)


@functools.partial(jax.jit, static_argnums=2)
def _draw_stacks(stored: ReplayState, key: jax.Array, batch_size: int) -> jax.Array:
    return rings.gather(stored, *rings.draw(stored, key, batch_size))


def draw_batch(stored: ReplayState, batch_size: int) -> Batch:
    """A minibatch ``[B, ...]`` from one device's replay (without a device axis)."""
    batch: Batch = _sample(stored, jax.random.key(0), batch_size)
    return batch


def make_learner(
    network: str,
    tasks: Sequence[Task],
    devices: DeviceGroup,
    batch_size: int,
    *,
    optimizer: Any = "rmsprop",
    dtype: str = "float32",
    sizes: PartSizes | None = None,
) -> Learner:
    """The learner of a student of one game or several, with the loss of the paper (KL, τ = 0.01).

    Its large batches are divided as a run that begins here divides them, or into parts of other ``sizes``.
    """
    actions = tuple(task.num_actions for task in tasks)
    module: Any = make_network(network, actions if len(actions) > 1 else actions[0], compute_dtype=dtype)
    student = Student(module, tuple(tasks)).with_sizes(sizes or machine_sizes())
    mask = jnp.asarray(student.mask)[:, None] if len(tasks) > 1 else None

    def loss(outputs: jax.Array, teacher_q: jax.Array) -> jax.Array:
        return kl_loss(outputs, teacher_q, temperature=TEMPERATURE, mask=mask)

    config = LearnerConfig(batch_size=batch_size, optimizer=optimizer)
    return Learner(student, loss, config, devices, total_updates=1_000_000)


@dataclasses.dataclass
class Material:
    """What the stages share: a teacher, its play, and replays made of it when they are first asked for.

    Attributes:
      play_steps: control steps recorded, in all lanes.
      capacity: control steps of a replay.
    """

    play_steps: int
    capacity: int

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The bundled Pong teacher."""
        return load("pong")

    @functools.cached_property
    def play(self) -> Trajectory:
        """Its play, in the host's memory."""
        return teachers_play(self.teacher, self.play_steps)

    @property
    def task(self) -> Task:
        """Pong."""
        return get_task("pong")

    @functools.cached_property
    def devices(self) -> DeviceGroup:
        """Those that a run has by default: all, or as many as share the lanes evenly."""
        here = len(jax.local_devices())
        return DeviceGroup.local(max(count for count in range(1, here + 1) if LANES % count == 0))

    @functools.cached_property
    def stored(self) -> ReplayState:
        """A full replay on these devices."""
        return fill(self.devices, self.task, self.play, self.capacity)

    @functools.cached_property
    def _once(self) -> ReplayState:
        """The play, stored once on the default device; without a device axis."""
        devices = DeviceGroup.local(1)
        once: ReplayState = devices.first(fill(devices, self.task, self.play, self.play.actions.size))
        return once

    def stacks(self, batch_size: int, count: int) -> np.ndarray:
        """``count`` minibatches of observations, uint8 ``[count, B, 84, 84, 4]``, in the host's memory."""
        drawn = [_draw_stacks(self._once, jax.random.key(seed), batch_size) for seed in range(count)]
        return np.stack([np.asarray(observations) for observations in drawn])

    def frames_cost(self, flops: float, dtype: str = "float32") -> Cost:
        """Of a sample: some operations on one stack of frames, each of which is read once."""
        return Cost(flops, frame_bytes(self.task.observation_shape), dtype)
