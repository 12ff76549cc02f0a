"""What is told of a distillation: the metrics of its games, its summary, its picture and its page."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pd_jax.distill.counters import Counters
from pd_jax.distill.setup import DistillSetup, temperatures
from pd_jax.evaluation.statistics import Scores
from pd_jax.report.figures import plot_run
from pd_jax.report.page import write_report
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.summary import build_summary, one_or_list
from pd_jax.system.progress import warn_if_unwritable
from pd_jax.teachers.teacher import count_teachers_params


def game_values(names: Sequence[str], metrics: Mapping[str, jax.Array | np.ndarray]) -> dict[str, float]:
    """The metrics of each game, where there are several; of a game that no update has seen there are none.

    Args:
      names: the games'.
      metrics: as `pd_jax.learner.learner.Learner.update` gives them, without a device axis.
    """
    if len(names) == 1:
        return {}
    arrays = {name: np.asarray(metrics[f"game_{name}"]) for name in ("loss", "agreement", "kl")}
    return {
        f"{game}/{name}": float(array[index])
        for index, game in enumerate(names)
        for name, array in arrays.items()
        if not np.isnan(array[index])
    }


def random_scores(setting: DistillSetup) -> dict[str, float]:
    """What random actions score, by game, where that is known."""
    return {task.name: task.random_score for task in setting.tasks if task.random_score is not None}


def summarise_distillation(
    setting: DistillSetup,
    at: Counters,
    teacher: Mapping[str, Scores],
    student: Mapping[str, Scores],
    student_parameters: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The summary of a run.

    Args:
      setting: of the run.
      at: where it stands at its end.
      teacher, student: returns of whole episodes, by game.
      student_parameters: how many the student has.
      wall_seconds: that the run took, in all sessions together.
    """
    config = setting.config
    summary = build_summary(
        teacher,
        student,
        random_scores=random_scores(setting),
        student_parameters=student_parameters,
        teacher_parameters=count_teachers_params(setting.teachers),
        wall_seconds=wall_seconds,
        env_steps=at.env_steps,
        updates=at.updates,
        student_network=config.student.network,
        teacher_network=one_or_list([teacher.metadata.network for teacher in setting.teachers]),
        teacher=one_or_list([teacher.metadata.name for teacher in setting.teachers]),
        loss=config.loss.kind,
        temperature=one_or_list(temperatures(setting)) if config.loss.kind == "kl" else None,
        behaviour=config.behaviour.policy,
        evaluation_epsilon=config.evaluation.epsilon,
        max_noops=config.env.max_noops,
        devices=setting.devices.size,
        platform=setting.devices.devices[0].platform,
    )
    for game in at.games:
        summary["games"][game.name] |= game.summarise(is_one_of_several=len(at.games) > 1)
    return summary


def draw_distillation(run: RunDirectory, title: str, summary: dict[str, Any]) -> None:
    """Writes the picture and the page; a full disk is a warning."""
    plot = functools.partial(plot_run, run.metrics_path, summary, run.plot_path)
    page = functools.partial(
        write_report, run.report_path, title, summary, picture=run.plot_path, config=run.config_path
    )
    for path, draw in ((run.plot_path, plot), (run.report_path, page)):
        with warn_if_unwritable(path):
            draw()
