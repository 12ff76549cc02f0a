"""Who is audited, and by whom: a run's student and its teacher, checked against the game, and what is known of them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from pd_jax.config.audit import AuditConfig
from pd_jax.deploy.pairs import Reading, credibility_of, reading_of, teacher_of, was_taught_by
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.deploy.student import load_trained
from pd_jax.deploy.thresholds import Thresholds
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.replay.recordings import Dataset
from pd_jax.runs.directory import read_run
from pd_jax.runs.students import load_teacher
from pd_jax.teachers import Teacher
from pd_jax.teachers.files import fingerprint, params_fingerprint
from pd_jax.teachers.tasks import check_named_protocol, check_protocol, check_teacher_plays

_DISCOUNT = 0.99


@dataclasses.dataclass(frozen=True)
class Learning:
    """What a teacher's values stand for.

    Attributes:
      discount: of later rewards.
      clips_rewards: whether rewards count as clipped to [-1, 1].
      ends_with_life: whether nothing counts after a lost life.
      source: where that is known from.
    """

    discount: float
    clips_rewards: bool
    ends_with_life: bool
    source: str


@dataclasses.dataclass(frozen=True)
class Players:
    """Everyone in an audit.

    Attributes:
      task: the game.
      student: who is audited.
      teacher: with whom it is compared.
      reference: with whom the teacher is compared; None if with nobody.
      reading: how their outputs become policies.
      taught_by: whether the teacher is the one that the student learnt from: None where that is not known.
    """

    task: Task
    student: GreedyPolicy
    teacher: Teacher
    reference: Teacher | None
    reading: Reading
    taught_by: bool | None

    @property
    def policies(self) -> dict[str, GreedyPolicy]:
        """By the names that outputs have."""
        found: dict[str, GreedyPolicy] = {"student": self.student, "teacher": self.teacher}
        return found if self.reference is None else found | {"reference": self.reference}


def load_players(config: AuditConfig, teacher: Teacher | None = None) -> Players:
    """Everyone whom the settings name.

    Args:
      config: of the audit.
      teacher: in the place of the one that they name.

    Raises:
      UserError: somebody is not there, not whole, or of another game.
    """
    student, named = _student(config)
    task = student.task
    if teacher is None:
        if named is None:
            raise UserError(f"{config.run}: names no teacher; give --teacher NAME_OR_FILE")
        try:
            credibility = credibility_of(student) if isinstance(student, StudentPolicy) else None
            teacher = load_teacher(named, task.name, credibility)
        except UserError as error:
            hint = "" if config.teacher else "; give --teacher NAME_OR_FILE"
            raise UserError(f"teacher: {error}{hint}") from None
    check_teacher_plays(teacher, task)
    check_protocol(teacher, config)
    reference = None if config.reference is None else load_teacher(config.reference, task.name)
    if reference is not None:
        check_teacher_plays(reference, task)
    if config.data is not None:
        header = Dataset.open(config.data).header
        if (header.task, header.num_actions) != (task.name, task.num_actions):
            raise UserError(f"data: {config.data} is a recording of {header.task}, and the student plays {task.name}")
    taught_by = was_taught_by(student, teacher.sha256)
    return Players(task, student, teacher, reference, reading_of(student, teacher), taught_by)


def _student(config: AuditConfig) -> tuple[GreedyPolicy, str | None]:
    """The student, and what its teacher is called."""
    if config.run is None:
        assert config.policy is not None
        policy = load_teacher(config.policy, config.game)
        if config.game is not None:
            check_teacher_plays(policy, get_task(config.game))
        return policy, config.teacher
    trained = load_trained(config.run, checkpoint=config.checkpoint)
    check_named_protocol(config.run, trained.config.protocol, config)
    run = read_run(config.run)
    student = StudentPolicy(trained, config.run, run.read_summary())
    if config.game is None and len(student.games) > 1:
        raise UserError(f"{config.run}: its student plays {', '.join(student.games)}; choose one with --game")
    student = student.for_game(config.game or student.games[0])
    if config.teacher is not None:
        return student, config.teacher
    return student, teacher_of(student)


def learning_of(teacher: Teacher, task: Task, discount: float | None) -> Learning:
    """What a teacher's file says of its training, or what is usual for its kind of games."""
    training = teacher.metadata.training_config
    section = training.get(str(training.get("algorithm")), {})
    if not isinstance(section, dict):
        section = {}
    told = [section.get("gamma"), section.get("clip_rewards"), section.get("episodic_life")]
    gamma: Any = told[0]
    is_told = isinstance(gamma, int | float) and 0 <= gamma <= 1
    return Learning(
        discount if discount is not None else float(gamma) if is_told else _DISCOUNT,
        told[1] if isinstance(told[1], bool) else task.kind == "atari",
        told[2] if isinstance(told[2], bool) else task.kind == "atari",
        "the settings" if discount is not None else "the teacher's file" if is_told else "assumed",
    )


def describe_player(policy: GreedyPolicy) -> dict[str, Any]:
    """What is known of a student or teacher: name, network, hashes and licence."""
    about: dict[str, Any] = {
        "parameters": policy.num_params,
        "outputs": "logits" if policy.gives_logits else "q",
        "parameters_sha256": params_fingerprint(policy.variables["params"]),
    }
    if isinstance(policy, Teacher):
        metadata = policy.metadata
        return about | {
            "name": metadata.name,
            "source": os.path.basename(policy.source.rstrip("/")),
            "network": metadata.network,
            "file_sha256": policy.sha256,
            "licence": metadata.licence,
            "how_made": metadata.how_made,
        }
    assert isinstance(policy, StudentPolicy)
    trained, place = policy.trained, policy.trained.names.index(policy.task.name)
    games = trained.counters.games
    return about | {
        "name": f"{policy.task.name}-{trained.network}-student",
        "source": os.path.basename(os.path.abspath(policy.source)),
        "network": trained.network,
        "updates": trained.counters.updates,
        "taught_by_sha256": (games[place].teacher_sha256 or None) if place < len(games) else None,
        "recording": (games[place].recording or None) if place < len(games) else None,
        "licence": "that of its teachers",
    }


def read_thresholds(path: str, student: GreedyPolicy) -> dict[str, Any]:
    """What a file of the monitor's says of its alarms, its name and SHA-256.

    Raises:
      UserError: there is no such file, it is no such thresholds, or they are of another policy.
    """
    thresholds = Thresholds.load(path)
    thresholds.check_policy(params_fingerprint(student.variables["params"]), student.name, path)
    told = thresholds.to_json()
    return {
        "file": os.path.basename(path),
        "sha256": fingerprint(path),
        "false_alarms_per_million": thresholds.false_alarms_per_million,
        "block_size": thresholds.block_size,
        "signals": told["signals"],
    }
