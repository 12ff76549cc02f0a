"""Whether a run fits into the memory of its devices, from the sizes of what it allocates."""

from __future__ import annotations

import math
import os

import jax
import numpy as np

from pd_jax.config import DistillConfig
from pd_jax.distributed import DeviceGroup
from pd_jax.errors import UserError
from pd_jax.networks import count_params
from pd_jax.students import Student
from pd_jax.tasks import Task


def check_memory(config: DistillConfig, student: Student, devices: DeviceGroup, *, students: int = 1) -> None:
    """Raises a UserError if all the replays or all students are larger than all the memory that the devices have."""
    capacity, tasks = config.replay.capacity, student.tasks
    if len(tasks) == 1:
        check_replay_memory("replay.capacity", capacity, replay_step_bytes(tasks[0]), tasks[0], devices)
    else:
        subject = f"replay.capacity: {capacity} steps of each of {len(tasks)} games take"
        check_fits(subject, capacity * sum(map(replay_step_bytes, tasks)), devices)
    num_params = count_params(jax.eval_shape(student.init, jax.random.key(0)))
    moments = 2 if config.learner.optimizer == "adam" else 1
    # Every device has a whole student: float32 parameters, gradients, the optimizer's moments, and the step's changes.
    student_bytes = 4 * num_params * (3 + moments) * devices.size * students
    of_all = f", {students} times," if students > 1 else ""
    subject = f"student.network: training {config.student.network}'s {num_params:,} parameters{of_all} takes"
    check_fits(subject, student_bytes, devices)


def replay_step_bytes(task: Task) -> int:
    """Memory of one step of one lane in :mod:`pd_jax.replay`: the newest observation, flags and teacher's outputs."""
    return math.prod(task.frame_shape) * np.dtype(task.observation_dtype).itemsize + 4 * task.num_actions + 1


def check_replay_memory(key: str, capacity: int, step_bytes: int, task: Task, devices: DeviceGroup) -> None:
    """Raises a UserError if ``capacity`` steps, which the setting ``key`` asks for, are more than the devices hold."""
    check_fits(f"{key}: {capacity} steps of {task.name} take", capacity * step_bytes, devices)


def check_fits(subject: str, wanted: int, devices: DeviceGroup) -> None:
    """Raises a UserError if ``wanted`` bytes, for what the ``subject`` says, are more than all the devices hold."""
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
