"""Recording a teacher's play as a data set."""

from __future__ import annotations

import jax
import numpy as np

from pd_jax.config import CollectConfig
from pd_jax.dataset import DatasetHeader, DatasetWriter
from pd_jax.distill import check_teacher_plays
from pd_jax.interrupts import Interrupts
from pd_jax.play import LivePlay
from pd_jax.reporting.progress import Progress
from pd_jax.tasks import get_task
from pd_jax.teachers import load


def collect(config: CollectConfig) -> DatasetHeader:
    """Plays and records, or goes on with a recording, and returns its header.

    Raises:
      UserError: teacher, game and directory do not fit together, or the disk is full.
      Interrupted: a signal came; whole rollouts up to then are recorded.
    """
    teacher = load(config.teacher)
    task = get_task(config.game) if config.game is not None else teacher.task
    check_teacher_plays(teacher, task)
    header = DatasetHeader(
        task=task.name,
        env_id=task.env_id,
        num_actions=task.num_actions,
        observation_shape=task.frame_shape,
        observation_dtype=task.observation_dtype,
        num_lanes=config.env.num_lanes,
        teacher=teacher.metadata.name,
        teacher_fingerprint=teacher.sha256,
        teacher_output=teacher.metadata.output,
        epsilon=config.epsilon,
        seed=config.seed,
        chunk_length=config.rollout_length,
        planned_steps=config.num_rollouts * config.rollout_length,
        teacher_score=teacher.metadata.evaluation or None,
    )
    with (
        Interrupts() as interrupts,
        DatasetWriter(config.out, header, resume=config.resume) as writer,
        Progress(f"collect {task.name}") as progress,
    ):
        recorded = writer.header.steps
        if recorded:
            progress.print(f"resumed at step {recorded * config.env.num_lanes:,}, with fresh episodes")
        steps = progress.add(
            "steps", header.planned_steps * config.env.num_lanes, completed=recorded * config.env.num_lanes
        )
        if recorded < header.planned_steps:
            play = LivePlay(
                teacher,
                task,
                config.env,
                rollout_length=config.rollout_length,
                epsilon=config.epsilon,
                # A continued recording must not record the same games again.
                seed=config.seed + recorded,
            )
            try:
                for trajectory in play.rollouts((header.planned_steps - recorded) // config.rollout_length):
                    writer.append(jax.tree.map(np.asarray, trajectory))
                    steps.advance(config.rollout_length * config.env.num_lanes)
                    if play.finished_returns:
                        progress.status(f"mean return {np.mean(play.finished_returns):.1f}")
                    interrupts.check()
            finally:
                play.close()
        return writer.header
