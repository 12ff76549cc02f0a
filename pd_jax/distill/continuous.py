"""Students of continuous tasks: what follows from the teacher is settled, and what they cannot have is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.games import MLPS
from pd_jax.config.sections import ActionKind, NormalisationConfig, StudentConfig
from pd_jax.distill.probe import probe
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.learner.continuous import OF_GAUSSIANS, check_loss
from pd_jax.runs.directory import read_run
from pd_jax.runs.start import goes_on
from pd_jax.teachers import Teacher

_EPSILON_OF_PLAY, _CLIP_OF_PLAY = 1e-5, 10.0
"""A number that stands still in the play has no variance, and may move later: 1e-5 is a change of 0.003."""


def settled(config: DistillConfig, teachers: Sequence[Teacher], tasks: Sequence[Task]) -> DistillConfig:
    """The settings with the kind of actions and the statistics that auto stands for.

    Args:
      config: the run's.
      teachers, tasks: of all games.

    Raises:
      UserError: the loss or another setting is not for these teachers, or a teacher has no statistics that are wanted.
    """
    config = dataclasses.replace(config, student=with_statistics(config, teachers, tasks))
    if not any(task.is_continuous for task in tasks):
        return config
    check_has_one(tasks)
    teacher, task = teachers[0], teachers[0].task
    is_gaussian = teacher.num_outputs > task.num_actions
    check_loss(config.loss, task, teacher_is_gaussian=is_gaussian)
    if config.learner.sampling == "action_gap":
        raise UserError("learner.sampling: 'action_gap' is of teachers that choose among actions (uniform, loss)")
    of_gaussians: ActionKind = "squashed" if task.squashed else "gaussian"
    wanted: ActionKind = of_gaussians if config.loss.kind in OF_GAUSSIANS else "means"
    if config.student.actions not in ("auto", wanted):
        raise UserError(
            f"student.actions: {config.student.actions!r}, and {config.loss.kind} of {teacher.source} is learnt by "
            f"a student with {wanted!r}"
        )
    return dataclasses.replace(config, student=dataclasses.replace(config.student, actions=wanted))


def check_has_one(tasks: Sequence[Task]) -> None:
    """Raises a UserError for a continuous task beside others."""
    for task in tasks:
        if task.is_continuous and len(tasks) > 1:
            raise UserError(f"game: {task.name} is continuous; a student of such a task plays no other beside it")


def check_is_discrete(task: Task, what: str) -> None:
    """Raises a UserError where a continuous task is given to what is for actions that are chosen among."""
    if task.is_continuous:
        raise UserError(f"game: {task.name} has continuous actions; {what}")


def with_statistics(config: DistillConfig, teachers: Sequence[Teacher], tasks: Sequence[Task]) -> StudentConfig:
    """The student's settings with the statistics of the teacher, or of its play, among them, where they are to be."""
    student = config.student
    settings = student.normalisation
    is_auto = settings.source == "auto"
    senses = student.observation.of(tasks[0])
    if settings.source == "play" or (is_auto and _sees_memory_alone(student, senses, tasks)):
        return dataclasses.replace(student, normalisation=_of_play(config, teachers, tasks, senses))
    # Also where the settings have some: a file of another run has those of another teacher.
    if not (settings.source == "teacher" or (is_auto and tasks[0].is_continuous)):
        return student
    known = teachers[0].metadata.applied_statistics if len(teachers) == 1 else None
    if known is None:
        if not is_auto:
            raise UserError(
                f"student.normalisation.source: 'teacher', and {teachers[0].source} has no statistics"
                if len(teachers) == 1
                else "student.normalisation.source: 'teacher' is for one teacher"
            )
        return student
    if senses.sees_frames or senses.sees_ram:
        return student
    return dataclasses.replace(student, normalisation=_of_teacher(known, tasks[0], senses))


def _sees_memory_alone(student: StudentConfig, senses: Senses, tasks: Sequence[Task]) -> bool:
    """Whether it is the student of one game that sees a console's memory: few of its bytes move, each in a range of its
    own."""
    return senses.sees_ram and len(tasks) == 1 and student.network in MLPS and student.quantisation == "none"


def _of_play(
    config: DistillConfig, teachers: Sequence[Teacher], tasks: Sequence[Task], senses: Senses
) -> NormalisationConfig:
    """Statistics of what the student senses of its teacher's play; of a run that goes on those that it began with."""
    if senses.perceived.kind != "vector" or len(tasks) > 1:
        raise UserError("student.normalisation.source: 'play' is for a student of one game that sees a vector")
    if goes_on(config.out, resume=config.resume):
        there = read_run(config.out).config.get("student", {}).get("normalisation", {})
        mean, variance = there.get("mean"), there.get("variance")
        if not mean or not variance:
            raise UserError(f"student.normalisation: the run in {config.out} has no statistics of its play")
    else:
        sensed = np.concatenate([step.sensed for step in probe(config, teachers[0], tasks[0], senses)]).astype(
            np.float64
        )
        mean, variance = sensed.mean(axis=0), sensed.var(axis=0)
    return NormalisationConfig(
        source="play",
        mean=tuple(map(float, mean)),
        variance=tuple(map(float, variance)),
        epsilon=_EPSILON_OF_PLAY,
        clip=_CLIP_OF_PLAY,
    )


def _of_teacher(known: Mapping[str, Any], task: Task, senses: Senses) -> NormalisationConfig:
    """A teacher's statistics, of the numbers that the student sees, for each step of a window."""
    (size,) = task.observation_shape
    places = range(size) if senses.components is None else senses.components
    each = {name: np.broadcast_to(np.ravel(known[name]), size).tolist() for name in ("mean", "variance")}
    mean, variance = (tuple(each[name][place] for place in places) * senses.window for name in ("mean", "variance"))
    clip = known.get("clip")
    return NormalisationConfig(
        source="teacher",
        mean=mean,
        variance=variance,
        epsilon=float(known["epsilon"]),
        clip=None if clip is None else float(clip),
    )
