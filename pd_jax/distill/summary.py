"""What is told of a distillation: the metrics of its games, its summary, its picture and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pd_jax.distill.adding import about_adding, about_games
from pd_jax.distill.conflicts import balance_settings, draw_cosines
from pd_jax.distill.counters import DistillCounters
from pd_jax.distill.setup import DistillSetup
from pd_jax.distill.temperatures import temperatures_in_use
from pd_jax.evaluation.comparison import Comparison
from pd_jax.evaluation.scores import Score
from pd_jax.report.page import write_run_page
from pd_jax.runs.details import Details, TaughtBy
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.summary import Summary, one_or_list
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
    names_of = [name for name in ("loss", "agreement", "kl", "weight") if f"game_{name}" in metrics]
    arrays = {name: np.asarray(metrics[f"game_{name}"]) for name in names_of}
    return {
        f"{game}/{name}": float(array[index])
        for index, game in enumerate(names)
        for name, array in arrays.items()
        if not np.isnan(array[index])
    }


def summarise_distillation(
    setup: DistillSetup,
    counters: DistillCounters,
    teachers: Mapping[str, Score],
    students: Mapping[str, Score],
    student_parameters: int,
    wall_seconds: float,
) -> Summary:
    """The summary of a run.

    Args:
      setup: of the run.
      counters: where it stands at its end.
      teachers, students: scores by game.
      student_parameters: how many the student has.
      wall_seconds: that the run took, in all sessions together.
    """
    config, teaching = setup.config, [teacher.metadata for teacher in setup.teachers]
    temperatures = temperatures_in_use(config.loss, setup.gives_logits, counters.games)
    about: dict[str, Any] = {
        "student_network": config.student.network,
        "teacher_network": one_or_list([metadata.network for metadata in teaching]),
        "teacher": one_or_list([metadata.name for metadata in teaching]),
        "loss": config.loss.kind,
        "temperature": None if temperatures is None else one_or_list(temperatures),
        **({"target_entropy": config.loss.target_entropy} if config.loss.is_auto else {}),
        **({} if config.loss.weights == "none" else {"weights": config.loss.weights}),
        **balance_settings(config.learner, len(setup.tasks)),
        "behaviour": config.behaviour.policy,
        **({} if counters.init_from is None else {"init_from": counters.init_from}),
        **(about_adding(setup) if setup.old else {}),
        "evaluation_epsilon": config.evaluation.epsilon,
        "max_noops": config.env.max_noops,
        **({"protocol": config.protocol_name} if any(task.is_console for task in setup.tasks) else {}),
        "devices": setup.devices.size,
        "platform": setup.devices.platform,
    }
    is_one_of_several = len(counters.games) > 1
    told = {game.name: game.summarise(is_one_of_several=is_one_of_several) for game in counters.games}
    if setup.old:
        added = about_games(setup, counters.games, students)
        told = {name: own | added[name] for name, own in told.items()}
    return Summary.compare(
        teachers,
        students,
        random_scores={task.name: task.random_score for task in setup.tasks},
        about_games=told,
        student_parameters=student_parameters,
        teacher_parameters=count_teachers_params(setup.teachers),
        wall_seconds=wall_seconds,
        env_steps=counters.env_steps,
        updates=counters.updates,
        about=about,
    )


def write_details(setup: DistillSetup, run: RunDirectory, games: Mapping[str, Comparison]) -> None:
    """Writes ``details.json``; a full disk is a warning.

    Args:
      setup: of the run.
      run: its directory.
      games: by name, student and teacher compared.
    """
    teachers = [
        TaughtBy(game=name, name=teacher.name, source=teacher.source, sha256=teacher.sha256 or "")
        for name, teacher in zip(setup.names, setup.teachers, strict=True)
    ]
    with warn_if_unwritable(run.details_path):
        Details.of(teachers, games).write(run.details_path)


def draw_distillation(run: RunDirectory, summary: Summary) -> None:
    """Writes the picture and the page; a full disk is a warning."""
    # Matplotlib takes 30 MB, which a run need not have beside its replay.
    from pd_jax.report.figures import plot_run

    with warn_if_unwritable(run.plot_path):
        plot_run(run.metrics_path, summary, run.plot_path)
    draw_cosines(run)
    with warn_if_unwritable(run.report_path):
        write_run_page(run)
