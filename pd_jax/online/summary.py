"""What goes into the ``summary.json`` of an online run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pd_jax.errors import UserError
from pd_jax.evaluation.statistics import summarise_scores
from pd_jax.online.setup import OnlineSetup
from pd_jax.online.state import OnlineCounters
from pd_jax.runs.summary import build_summary
from pd_jax.system.progress import print_warning
from pd_jax.trainers.teacher_file import FINAL_SEED_OFFSET


def summarise_online(
    setting: OnlineSetup,
    at: OnlineCounters,
    returns: Mapping[str, np.ndarray],
    student_parameters: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The summary; its teacher, with which the student is compared, is the target.

    Args:
      setting: of the run.
      at: where it stands.
      returns: of the final games of ``student``, ``target`` and ``teacher``, ``[episodes]`` each.
      student_parameters: of the student.
      wall_seconds: of all sessions together.
    """
    config, task, devices = setting.config, setting.task, setting.student_setup.devices
    summary = build_summary(
        {task.name: returns["target"]},
        {task.name: returns["student"]},
        random_scores={} if task.random_score is None else {task.name: task.random_score},
        student_parameters=student_parameters,
        teacher_parameters=setting.target.num_params,
        wall_seconds=wall_seconds,
        env_steps=at.play.env_steps,
        updates=at.updates,
        student_network=config.student.network,
        teacher_network=config.teacher_network,
        teacher=f"{task.name}-{config.teacher_network}, {config.target}",
        started_from=config.only_teacher,
        loss=config.loss.kind,
        target=config.target,
        target_changes=at.target_changes,
        target_env_steps=at.target_env_steps,
        teacher_env_steps=at.teacher_env_steps,
        stale=config.stale,
        relabelled_steps=at.relabelling.steps,
        relabel_seconds=at.relabelling.seconds,
        learning_curve=at.curve,
        evaluation_epsilon=config.evaluation.epsilon,
        max_noops=config.env.max_noops,
        devices=devices.size,
        platform=devices.devices[0].platform,
    )
    latest = summarise_scores(returns["teacher"])
    game = summary["games"][task.name]
    for name, key in {"score": "mean", "standard_error": "standard_error", "ci95": "ci95"}.items():
        game[f"latest_teacher_{name}"] = latest[key]
    return summary


def keep_target(setting: OnlineSetup, at: OnlineCounters, returns: np.ndarray) -> None:
    """Writes the target's teacher file; a full disk costs a warning, for the checkpoint has the target too.

    Args:
      setting: of the run.
      at: where it stands.
      returns: of the target's final games, ``[episodes]``.
    """
    scores = summarise_scores(returns)
    params = setting.target.variables["params"]
    try:
        setting.keeper.write(
            params, scores, env_steps=at.target_env_steps, curve=at.curve, seed_offset=FINAL_SEED_OFFSET
        )
    except UserError as error:
        print_warning(str(error))
