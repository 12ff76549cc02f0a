"""Recording a teacher's play as a data set."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.actors.live import LivePlay
from pd_jax.actors.minari import MinariEpisodes, MinariPlay, read_minari
from pd_jax.config.collect import CollectConfig
from pd_jax.config.loading import to_mapping
from pd_jax.environments.ale import check_backend
from pd_jax.environments.protocols import PROTOCOLS
from pd_jax.environments.seeds import fresh_seed
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.replay.header import SENSED, DatasetHeader
from pd_jax.replay.recordings import Dataset, DatasetWriter
from pd_jax.resources.parts import collection_memory
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.lineage import LINEAGE_NAME, leave_lineage, teacher_parents
from pd_jax.runs.students import load_teacher
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Progress, print_warning
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import check_protocol, task_of

_MAY_CHANGE = frozenset({"steps"})
"""What a continued recording may set anew: how long it gets."""


@stoppable
@computing()
def collect(
    config: CollectConfig,
    teacher: Teacher | None = None,
    *,
    tells_memory: bool = True,
    stop: threading.Event | None = None,
) -> DatasetHeader:
    """Plays and records, or goes on with a recording.

    Args:
      config: the recording's.
      teacher: who plays instead of the teacher that the configuration names, whose name is then only a label.
      tells_memory: whether to print what memory the recording takes.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the recording's header.

    Raises:
      UserError: teacher, game and directory do not fit together, or the disk is full.
      Interrupted: a signal came, or ``stop`` was set; whole rollouts up to then are recorded.
    """
    teacher = teacher or load_teacher(config.teacher, config.game, config.credibility, in_play=config.minari is None)
    task = task_of(config.game, teacher)
    check_protocol(teacher, config)
    check_backend(config.env.backend, task)
    senses = config.observation.of(task, "observation")
    config = dataclasses.replace(config, game=task.name)
    episodes = None if config.minari is None else read_minari(config.minari, task)
    if episodes is not None:
        available = _minari_play(config, task, teacher, episodes).num_rollouts
        config = dataclasses.replace(config, epsilon=0.0, steps=min(config.steps, available * config.steps_per_rollout))
    memory = collection_memory(config, task, (teacher.network.apply, teacher.variables))
    memory.check()
    header = _header(config, task, teacher, senses, episodes)
    is_local = "://" not in config.out
    if is_local:
        _check_not_shorter(config, header)
        # Refuses what is not this recording, and keeps its settings beside it. The lock is the same file as the
        # writer's, so it has to be let go.
        RunDirectory.create(
            config.out, "collect", to_mapping(config), resume=config.resume, may_change=_MAY_CHANGE
        ).close()
    with (
        Interrupts() as interrupts,
        DatasetWriter(config.out, header, resume=config.resume) as writer,
        Progress(f"collect {task.name}") as progress,
    ):
        if tells_memory:
            memory.tell()
        if is_local and not writer.header.complete:
            # It says what is recorded so far.
            (Path(config.out) / LINEAGE_NAME).unlink(missing_ok=True)
        _record(config, task, teacher, senses, episodes, writer, progress, interrupts)
        header = writer.header
        if is_local and not (Path(config.out) / LINEAGE_NAME).exists():
            parents = teacher_parents(teacher, config.out, game=task.name)
            about = {"game": task.name, "identity": header.identity, "steps": header.steps * header.num_lanes}
            leave_lineage(config.out, "recording", parents, about)
        return header


def _check_not_shorter(config: CollectConfig, header: DatasetHeader) -> None:
    """Raises a UserError if more is recorded already than the configuration plans."""
    if config.resume and os.path.exists(os.path.join(config.out, "dataset.json")):
        try:
            recorded = Dataset.open(config.out).num_steps
        except UserError:
            return  # Killed while it was created, it has no arrays yet; the writer says so if it is anything else.
        if recorded > header.planned_steps:
            raise UserError(
                f"{config.out}: holds {recorded * header.num_lanes:,} steps, more than the "
                f"{header.planned_steps * header.num_lanes:,} planned"
            )


def _minari_play(
    config: CollectConfig, task: Task, teacher: Teacher, episodes: MinariEpisodes, begin: int = 0
) -> MinariPlay:
    return MinariPlay(
        episodes,
        teacher,
        task,
        num_lanes=config.env.num_lanes,
        rollout_length=config.rollout_length,
        begin=begin,
    )


def _header(
    config: CollectConfig, task: Task, teacher: Teacher, senses: Senses, episodes: MinariEpisodes | None
) -> DatasetHeader:
    sensed = {"shape": list(senses.sample_shape), "dtype": senses.dtype, "senses": senses.told}
    return DatasetHeader(
        task=task.name,
        env_id=task.env_id,
        num_actions=teacher.num_outputs,
        action_low=task.action_low,
        action_high=task.action_high,
        observation_shape=task.frame_shape,
        observation_dtype=task.observation_dtype,
        num_lanes=config.env.num_lanes,
        teacher=teacher.metadata.name,
        teacher_fingerprint=teacher.sha256,
        teacher_output=teacher.metadata.output,
        epsilon=config.epsilon,
        seed=config.seed,
        environment=_environment(config, task) if episodes is None else {"minari": episodes.dataset},
        chunk_length=config.rollout_length,
        planned_steps=config.num_rollouts * config.rollout_length,
        teacher_score=teacher.metadata.evaluation or None,
        observations={} if senses.is_plain else {SENSED: sensed},
    )


def _environment(config: CollectConfig, task: Task) -> dict[str, Any]:
    """How the play runs: what recordings have always said, what is new in it, and the protocol if one is named."""
    env = config.env
    told: dict[str, Any] = {
        "max_noops": env.max_noops,
        "max_episode_steps": env.max_episode_steps or task.max_episode_steps,
        "sticky_action_probability": env.sticky_action_probability,
    }
    if not env.fire_reset:
        told["fire_reset"] = False
    return told | ({"protocol": config.protocol} if config.protocol in PROTOCOLS else {})


def _record(
    config: CollectConfig,
    task: Task,
    teacher: Teacher,
    senses: Senses,
    episodes: MinariEpisodes | None,
    writer: DatasetWriter,
    progress: Progress,
    interrupts: Interrupts,
) -> None:
    num_lanes, length = config.env.num_lanes, config.rollout_length
    recorded, planned = writer.header.steps, writer.header.planned_steps
    if recorded:
        fresh = ", with fresh episodes" if episodes is None else ""
        progress.print(f"resumed at step {recorded * num_lanes:,}{fresh}")
    meter = progress.add("steps", planned * num_lanes, completed=recorded * num_lanes)
    if recorded >= planned:
        return
    play: LivePlay | MinariPlay
    if episodes is not None:
        play = _minari_play(config, task, teacher, episodes, recorded // length)
        if play.num_left_out and planned == play.num_rollouts * length:
            progress.print(f"{play.num_left_out:,} of {episodes.num_steps:,} steps do not fill a rollout of all lanes")
    else:
        play = LivePlay(
            teacher,
            task,
            config.env,
            rollout_length=length,
            epsilon=config.epsilon,
            seed=fresh_seed(config.seed, recorded * num_lanes),
            senses=senses,
            keeps_shown=True,
        )
    try:
        for trajectory in play.rollouts((planned - recorded) // length):
            writer.append(jax.tree.map(np.asarray, trajectory))
            meter.advance(length * num_lanes)
            for member, step in play.take_faults():
                step += recorded * num_lanes
                print_warning(
                    f"{teacher.members[member].source}, one of {len(teacher.members)} teachers, gave NaN or infinite "
                    f"outputs at step {step:,}; it does not count any more, and the others go on"
                )
            if play.finished_returns:
                progress.status(f"mean return {np.mean(play.finished_returns):.1f}")
            interrupts.check()
    finally:
        play.close()
