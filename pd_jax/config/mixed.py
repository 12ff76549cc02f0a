"""What is impossible with a student that sees several things at once, or games of several kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pd_jax.config.sections import BY_GAME, StudentConfig
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError

MOST_ACTIONS = 256
"""Of a task whose last actions are seen: a replay keeps each in a byte."""


def why_joint(student: StudentConfig, tasks: Sequence[Task] = ()) -> str:
    """Why a student has several torsos, in words; ``""`` if it has one.

    Args:
      student: the network that learns.
      tasks: the games as it sees them, once they are known.
    """
    if student.observation.last_actions:
        return f"student.observation.last_actions is {student.observation.last_actions}"
    if student.observation.also != "none":
        return f"student.observation.also is {student.observation.also!r}"
    frames, vectors = ([task.name for task in tasks if task.kind == kind] for kind in ("atari", "vector"))
    return f"{frames[0]} shows frames and {vectors[0]} a vector" if frames and vectors else ""


def mixed_conflicts(config: Any, tasks: Sequence[Task] = ()) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, what a student with several torsos cannot do.

    Args:
      config: a `pd_jax.config.distill.DistillConfig`.
      tasks: the games as the student sees them, once they are known.
    """
    student, learner = config.student, config.learner
    why = why_joint(student, tasks)
    if not why:
        return
    if student.quantisation != "none":
        yield "student.quantisation", f"{student.quantisation!r} is for students with one torso, and {why}"
    if learner.random_shift:
        yield "learner.random_shift", f"{learner.random_shift} moves frames that stand alone, and {why}; leave it out"
    if config.num_games > 1:
        if learner.games == "alternating":
            yield "learner.games", f"'alternating', and {why}; such updates see all games together"
        if learner.balance in BY_GAME:
            yield "learner.balance", f"{learner.balance!r} is about layers that all games share, and {why}"
        if learner.gradient_cosines_every:
            yield "learner.gradient_cosines_every", f"is about layers that all games share, and {why}; leave it out"
    if config.num_old_games:
        yield "add_teacher", f"games are added to students with one torso, and {why}"
    if student.observation.last_actions:
        for task in tasks:
            if not task.is_continuous and task.num_actions > MOST_ACTIONS:
                yield (
                    "student.observation.last_actions",
                    f"{task.name} has {task.num_actions:,} actions, and a replay keeps those of at most {MOST_ACTIONS}",
                )


def check_mixed(config: Any, tasks: Sequence[Task]) -> None:
    """Raises a UserError if a student with several torsos cannot do what it is asked for, now that games are known."""
    for key, problem in mixed_conflicts(config, tasks):
        raise UserError(f"{key}: {problem}")
