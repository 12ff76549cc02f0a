"""A teacher that guides a training, loaded and checked against it before anything is written."""

from __future__ import annotations

import math
from typing import Any

from pd_jax.config.sections import LossConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.errors import UserError
from pd_jax.networks.partition import part_sizes
from pd_jax.networks.student import Student
from pd_jax.runs.students import load_teacher
from pd_jax.system.progress import print_warning
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import check_protocol, check_teacher_plays
from pd_jax.trainers.guided_pqn import GuidedPQN


def make_guided(config: TrainTeacherConfig, student: Student) -> GuidedPQN:
    """The algorithm with the teacher that guides it.

    Args:
      config: of the training, with the sizes of parts filled in.
      student: the network that learns, with its game.

    Raises:
      UserError: there is no such teacher, it plays another game or by another protocol, or its logits cannot be matched
        as Q-values.
    """
    guidance, (task,) = config.guidance, student.tasks
    assert guidance.teacher is not None
    teacher = load_teacher(guidance.teacher, task.name)
    check_teacher_plays(teacher, task)
    check_protocol(teacher, config)
    if teacher.gives_logits and guidance.loss.gives_q:
        raise UserError(
            f"guidance.loss.kind: {guidance.loss.kind} matches Q-values, and {guidance.teacher} gives logits; take kl"
        )
    if not (guidance.distils or guidance.teacher_acts):
        print_warning(
            "guidance.distillation_weight: is 0 throughout, and guidance.teacher_share too: the teacher teaches "
            "nothing (of a student of logits it says the scale that the training begins at)"
        )
    return GuidedPQN(teacher.with_sizes(part_sizes(config.parts)), guidance, student)


def temperature_of_start(loss: LossConfig, start: Teacher | None) -> float | None:
    """The temperature that a student was distilled at, where its guidance names none; None if it is to be found.

    Args:
      loss: of the guidance.
      start: what the learner starts from.

    Returns:
      NaN where neither says anything.
    """
    if loss.is_auto:
        return None
    if loss.temperature is None and start is not None and start.metadata.algorithm == "policy-distillation":
        told: Any = start.metadata.training_config.get("loss")
        told = told.get("temperature") if isinstance(told, dict) else None
        if told == "auto":
            return None
        if isinstance(told, int | float) and not isinstance(told, bool) and 0 < told < math.inf:
            return float(told)
    return math.nan
