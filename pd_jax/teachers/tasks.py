"""The task that a teacher plays, and whether it is the one that is asked for."""

from __future__ import annotations

from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.teachers import Teacher


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
