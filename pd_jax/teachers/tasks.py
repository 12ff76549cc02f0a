"""The task that a teacher plays, and whether it and its protocol are those that are asked for."""

from __future__ import annotations

from pd_jax.config.protocols import ProtocolSettings
from pd_jax.environments.protocols import PROTOCOLS
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


def check_protocol(teacher: Teacher, settings: ProtocolSettings) -> None:
    """Raises a UserError where a teacher names a protocol, and the settings play by another without naming one; of
    several teachers that are one, also where they name different ones."""
    named = {member.metadata.named_protocol: member.source for member in teacher.members}
    named.pop(None, None)
    if settings.protocol is None and len(named) > 1:
        each = ", ".join(f"{source} is of protocol {protocol!r}" for protocol, source in named.items())
        raise UserError(f"teacher {teacher.source}: {each}; say --protocol NAME to mix them")
    for member in teacher.members:
        check_named_protocol(f"teacher {member.source}", member.metadata.named_protocol, settings)


def check_is_one(teacher: Teacher, who: str) -> None:
    """Raises a UserError for several teachers that are one, where weights of a single network are wanted."""
    if len(teacher.members) > 1:
        raise UserError(
            f"{who}: {teacher.source} is {len(teacher.members)} teachers together, and one network is wanted; distil "
            "them into a student first"
        )


def check_named_protocol(
    who: str, named: str | None, settings: ProtocolSettings, otherwise: str = "another one to mix them"
) -> None:
    """As :func:`check_protocol`, of whoever names one of `PROTOCOLS`, or another, or none; ``otherwise`` is what else
    the user may say."""
    if settings.protocol is None and named in PROTOCOLS and named != settings.protocol_name:
        raise UserError(
            f"{who}: is of protocol {named!r}, and these settings are {settings.protocol_name!r}; say "
            f"--protocol {named}, or {otherwise}"
        )
