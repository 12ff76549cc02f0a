"""A student and its teacher: who taught it, and how the outputs of both become policies that can be compared."""

from __future__ import annotations

import dataclasses

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.config.sections import LossConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.runs.directory import read_run


@dataclasses.dataclass(frozen=True)
class Reading:
    """How outputs become a policy.

    Attributes:
      temperature: of the distillation; the teacher's outputs are divided by it (Rusu et al. 2016, eq. 3).
      student_temperature: the student's are: 1 where they are logits that have learnt the teacher's sharpened policy.
    """

    temperature: float
    student_temperature: float


def teacher_of(student: StudentPolicy) -> str | None:
    """The name or file of the teacher of a student's game, as its run names it; None where it has none.

    Args:
      student: of one game.
    """
    names = getattr(student.trained.config, "teacher", None)
    if isinstance(student.trained.config, TrainTeacherConfig):
        return None
    if read_run(student.source).command == "online":
        return student.source
    return names[student.trained.names.index(student.task.name)] if names else None


def credibility_of(student: StudentPolicy) -> CredibilityConfig | None:
    """What each of several teachers of a student's game counts, as its run says; None where it says nothing."""
    found: CredibilityConfig | None = getattr(student.trained.config, "credibility", None)
    return found


def was_taught_by(student: GreedyPolicy, teacher_sha256: str) -> bool | None:
    """Whether a student has learnt from this very teacher; None where that is not known."""
    if not isinstance(student, StudentPolicy):
        return None
    place = student.trained.names.index(student.task.name)
    games = student.trained.counters.games
    told = games[place].teacher_sha256 if place < len(games) else ""
    return told == teacher_sha256 if told else None


def reading_of(student: GreedyPolicy, teacher: GreedyPolicy) -> Reading:
    """The run's temperature, and that of a student that gives Q-values itself."""
    temperature = LossConfig().temperature_for(teacher_gives_logits=teacher.gives_logits)
    if isinstance(student, StudentPolicy) and not isinstance(student.trained.config, TrainTeacherConfig):
        loss, place = student.trained.config.loss, student.trained.names.index(student.task.name)
        if loss.has_temperature:
            found = student.trained.temperature(place)
            own = loss.temperature_for(place, teacher_gives_logits=teacher.gives_logits)
            temperature = own if found is None else found
    return Reading(temperature, 1.0 if student.gives_logits else temperature)
