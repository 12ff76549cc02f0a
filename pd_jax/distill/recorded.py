"""Recordings that a run learns from: whether they are its teachers' play, under its protocol, and what they settle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pd_jax.config.distill import DistillConfig
from pd_jax.environments.protocols import CUSTOM, PROTOCOLS
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.replay.header import DatasetHeader
from pd_jax.replay.recordings import Dataset
from pd_jax.system import hosts
from pd_jax.system.progress import print_warning
from pd_jax.system.text import show
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import check_named_protocol


def as_recorded(config: DistillConfig, headers: Sequence[DatasetHeader]) -> DistillConfig:
    """What was played is settled: the resolved configuration says how."""
    lanes = tuple(header.num_lanes for header in headers)
    env = dataclasses.replace(config.env, lanes=lanes)
    if len(set(lanes)) == 1:
        env = dataclasses.replace(config.env, num_lanes=lanes[0], lanes=None)
    epsilons = {header.epsilon for header in headers}
    epsilon = epsilons.pop() if len(epsilons) == 1 else config.epsilon
    return dataclasses.replace(config, env=env, epsilon=epsilon)


def check_recording(dataset: Dataset, teacher: Teacher, task: Task, config: DistillConfig) -> None:
    """Raises a UserError unless the data set is this teacher's play of this task, under the protocol that is named, and
    holds enough of it."""
    dataset.check_matches(task.name, teacher.num_outputs, task.action_low, task.action_high)
    _check_recorded_protocol(dataset, config)
    header, length = dataset.header, config.schedule.rollout_length
    if header.teacher_fingerprint != teacher.sha256:
        raise UserError(
            f"{dataset.path}: was recorded with the teacher {header.teacher!r} of another fingerprint "
            f"({header.teacher_fingerprint[:12]}) than {teacher.source} ({teacher.sha256[:12]})"
        )
    if dataset.num_steps < length:
        raise UserError(f"{dataset.path}: holds {dataset.num_steps} steps a lane, less than one rollout ({length})")
    recorded = dataset.num_steps * header.num_lanes
    if config.learner.batch_size > recorded:
        raise UserError(f"{dataset.path}: holds {recorded} steps, less than learner.batch_size")
    if config.replay.capacity < header.num_lanes * config.stored_length:
        before = f" with the {config.steps_before} before it" if config.is_shuffled else ""
        raise UserError(
            f"replay.capacity: {config.replay.capacity} holds less than one rollout of {dataset.path}{before}, "
            f"{header.num_lanes * config.stored_length} steps"
        )


def _check_recorded_protocol(dataset: Dataset, config: DistillConfig) -> None:
    """Raises a UserError where a protocol is named that the recording does not have, or the other way about."""
    played = dataset.header.protocol
    if config.protocol in PROTOCOLS and played not in (None, config.protocol):
        own = f"say --protocol {played}" if played in PROTOCOLS else "leave it out"
        raise UserError(
            f"{dataset.path}: was recorded under protocol {played!r}, and protocol is {config.protocol!r}; {own}, or "
            f"--protocol {CUSTOM} and what env is to be, to score by other rules than were played"
        )
    if dataset.header.named_protocol == played:
        check_named_protocol(dataset.path, played, config, f"{CUSTOM} to score by other rules than were played")


def warn_of_other_play(dataset: Dataset, task: Task, config: DistillConfig) -> None:
    """Says so where the section ``env``, by which scores are played, is not how the play was that is learnt from."""
    if not task.is_console or not hosts.is_primary():
        return
    for key in ("sticky_action_probability", "max_noops", "fire_reset"):
        # Recordings from before there was such a setting have it.
        usual = True if key == "fire_reset" else None
        played, scored = dataset.header.environment.get(key, usual), getattr(config.env, key)
        if played is not None and played != scored:
            print_warning(f"env.{key}: {show(scored)} in scores, {show(played)} in the play that {dataset.path} holds")
