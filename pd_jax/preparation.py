"""What a distillation needs, loaded and checked against one another before anything is written or allocated."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pd_jax import losses, replay
from pd_jax.config import DistillConfig, LossConfig, check_devices, check_network
from pd_jax.dataset import Dataset
from pd_jax.distributed import DeviceGroup
from pd_jax.errors import UserError
from pd_jax.learner import LossFunction
from pd_jax.networks import count_params, make_network
from pd_jax.tasks import Task, get_task
from pd_jax.teacher_scores import TeacherScore
from pd_jax.teachers import Teacher, load


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a run needs.

    Attributes:
      config: with the game and, for recorded play, the number of lanes filled in.
      teacher: who plays, or played.
      task: what it plays.
      dataset: the recorded play, None for live play.
      devices: that share the work.
      student: the linen module.
      teacher_score: what the teacher scores under the run's protocol, None if it is not known yet.
    """

    config: DistillConfig
    teacher: Teacher
    task: Task
    dataset: Dataset | None
    devices: DeviceGroup
    student: Any
    teacher_score: TeacherScore | None = None

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.schedule.rounds * self.config.schedule.updates_per_round

    def total_env_steps(self, recorded_steps: int) -> int:
        """Control steps that the whole run stores, in all lanes together.

        Args:
          recorded_steps: per lane, how much of the recording the run uses; live play has no such end.
        """
        schedule = self.config.schedule
        rollouts = schedule.rounds * self.config.rollouts_per_round
        if self.dataset is not None:
            rollouts = min(rollouts, recorded_steps // schedule.rollout_length)
        return rollouts * self.config.steps_per_rollout


def prepare(
    config: DistillConfig, teacher: Teacher | None = None, teacher_scores: Mapping[str, TeacherScore] | None = None
) -> Setting:
    """Loads and checks everything a run refers to.

    Args:
      config: the run's.
      teacher: who plays instead of the teacher that the configuration names.
      teacher_scores: by game, what the teacher is known to score.

    Raises:
      UserError: the teacher, the game, the data set, the network, the score or the devices do not fit together.
    """
    teacher = teacher or load(config.teacher, config.game)
    task = task_of(config.game, teacher)
    check_network(config.student.network, task, "student.network")
    config = dataclasses.replace(config, game=task.name)
    dataset = None
    if config.data is not None:
        dataset = Dataset.open(config.data)
        check_recording(dataset, teacher, task, config)
        # What was played is settled: the resolved configuration says how.
        env = dataclasses.replace(config.env, num_lanes=dataset.header.num_lanes)
        config = dataclasses.replace(config, env=env, epsilon=dataset.header.epsilon)
    devices = DeviceGroup.local(config.learner.num_devices)
    check_devices(config, devices.size)
    if task.kind == "atari" and config.capacity_per_lane < replay.STACK:
        raise UserError(
            f"replay.capacity: {config.replay.capacity} leaves {config.capacity_per_lane} steps to each of "
            f"{config.env.num_lanes} lanes; a stack of frames needs {replay.STACK}"
        )
    student = make_network(
        config.student.network,
        task.num_actions,
        hidden_sizes=config.student.mlp_hidden,
        compute_dtype=config.student.compute_dtype,
    )
    check_memory(config, task, devices, student)
    teacher_score = (teacher_scores or {}).get(task.name)
    if teacher_score is not None:
        teacher_score.check_fits(config, task, teacher)
    return Setting(config, teacher, task, dataset, devices, student, teacher_score)


def make_loss(config: LossConfig, *, teacher_gives_logits: bool) -> LossFunction:
    """The configured loss as a function of student outputs and teacher outputs alone."""
    if config.kind == "nll":
        return losses.nll_loss
    if config.kind == "mse":
        return losses.mse_loss
    temperature = config.temperature_for(teacher_gives_logits=teacher_gives_logits)
    return functools.partial(losses.kl_loss, temperature=temperature)


def task_of(game: str | None, teacher: Teacher) -> Task:
    """The game that is asked for, by default the teacher's own.

    Raises:
      UserError: there is no such game, or it is not the teacher's.
    """
    task = teacher.task if game is None else get_task(game)
    check_teacher_plays(teacher, task)
    return task


def check_teacher_plays(teacher: Teacher, task: Task) -> None:
    """Raises a UserError unless the teacher was made for this task."""
    if teacher.task.name == task.name:
        return
    if teacher.task.num_actions != task.num_actions:
        raise UserError(
            f"teacher {teacher.source}: plays {teacher.task.name} with {teacher.task.num_actions} actions; "
            f"{task.name} has {task.num_actions}"
        )
    raise UserError(f"teacher {teacher.source}: plays {teacher.task.name}, not {task.name}")


def check_recording(dataset: Dataset, teacher: Teacher, task: Task, config: DistillConfig) -> None:
    """Raises a UserError unless the data set is this teacher's play of this task and holds enough of it."""
    dataset.check_matches(task.name, task.num_actions)
    header, length = dataset.header, config.schedule.rollout_length
    if header.teacher_fingerprint != teacher.sha256:
        raise UserError(
            f"{config.data}: was recorded with the teacher {header.teacher!r} of another fingerprint "
            f"({header.teacher_fingerprint[:12]}) than {teacher.source} ({teacher.sha256[:12]})"
        )
    if dataset.num_steps < length:
        raise UserError(f"{config.data}: holds {dataset.num_steps} steps a lane, less than one rollout ({length})")
    recorded = dataset.num_steps * header.num_lanes
    if config.learner.batch_size > recorded:
        raise UserError(f"{config.data}: holds {recorded} steps, less than learner.batch_size")
    if config.replay.capacity < header.num_lanes * length:
        raise UserError(
            f"replay.capacity: {config.replay.capacity} holds less than one rollout of {config.data}, "
            f"{header.num_lanes * length} steps"
        )


def check_memory(config: DistillConfig, task: Task, devices: DeviceGroup, student: Any) -> None:
    """Raises a UserError if the replay or the student is larger than all the memory that the devices have."""
    step_bytes = math.prod(task.frame_shape) * np.dtype(task.observation_dtype).itemsize + 4 * task.num_actions + 1
    check_replay_memory("replay.capacity", config.replay.capacity, step_bytes, task, devices)
    example = jax.ShapeDtypeStruct((1, *task.observation_shape), task.observation_dtype)
    num_params = count_params(jax.eval_shape(student.init, jax.random.key(0), example))
    moments = 2 if config.learner.optimizer == "adam" else 1
    # Every device has a whole student: float32 parameters, gradients, the optimizer's moments, and the step's changes.
    student_bytes = 4 * num_params * (3 + moments) * devices.size
    subject = f"student.network: training {config.student.network}'s {num_params:,} parameters takes"
    _check_fits(subject, student_bytes, devices)


def check_replay_memory(key: str, capacity: int, step_bytes: int, task: Task, devices: DeviceGroup) -> None:
    """Raises a UserError if ``capacity`` steps, which the setting ``key`` asks for, are more than the devices hold."""
    _check_fits(f"{key}: {capacity} steps of {task.name} take", capacity * step_bytes, devices)


def _check_fits(subject: str, wanted: int, devices: DeviceGroup) -> None:
    available = _memory_bytes(devices)
    if available is not None and wanted > available:
        raise UserError(
            f"{subject} {wanted / 2**30:,.1f} GiB, "
            f"and there are {available / 2**30:,.1f} GiB ({devices.size} {devices.devices[0].platform})"
        )


def _memory_bytes(devices: DeviceGroup) -> int | None:
    if devices.devices[0].platform == "cpu":
        # Virtual CPU devices share the machine's.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices.devices]
    return sum(limits) if all(limits) else None
