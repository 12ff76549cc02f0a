"""A report as JSON: every number of its tables, unrounded, and the runs behind each."""

from __future__ import annotations

import dataclasses
from typing import Any

from pd_jax.evaluation.statistics import FLOOR_PERCENT
from pd_jax.report.aggregates import Aggregates, Improvement, aggregates_of, improvements_of
from pd_jax.report.groups import Cell, Design, Interference, Mean, Report, Section
from pd_jax.report.paper import PaperFigure
from pd_jax.report.results import Result


def report_json(report: Report) -> dict[str, Any]:
    """A mapping that JSON can hold.

    Args:
      report: what to write.

    Returns:
      ``sections`` (each with its ``protocol``, ``scores`` per game and design, ``geometric_means`` per design, the
      ``interference`` between games, ``aggregates`` and ``probabilities_of_improvement`` of designs with several seeds,
      and the ``measure`` to compare by), ``teachers``, ``runs`` and ``warnings``. What
      is undefined or unknown is None.
    """
    return {
        "sections": [_section(section) for section in report.sections],
        "teachers": [_teacher(result) for result in report.teachers],
        "runs": list(report.runs),
        "warnings": list(report.warnings),
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "protocol": dataclasses.asdict(section.rules),
        "measure": section.measure,
        "not_positive": [{"game": cell.game, **_design(cell.design)} for cell in section.not_positive],
        "floor_percent": FLOOR_PERCENT,
        "scores": [_cell(cell) for cell in section.cells],
        "geometric_means": [_mean(mean) for mean in section.means],
        "interference": [_interference(pair) for pair in section.interference],
        "aggregates": [_aggregates(own) for own in aggregates_of(section)],
        "probabilities_of_improvement": [_improvement(pair) for pair in improvements_of(section)],
    }


def _aggregates(own: Aggregates) -> dict[str, Any]:
    return {
        **_design(own.design),
        "reference": own.reference,
        "games": list(own.games),
        "seeds": own.seeds,
        "interquartile_mean": dataclasses.asdict(own.iqm),
        "median": dataclasses.asdict(own.median),
        "mean": dataclasses.asdict(own.mean),
        "optimality_gap": dataclasses.asdict(own.optimality_gap),
        "scores": own.scores.tolist(),
    }


def _improvement(pair: Improvement) -> dict[str, Any]:
    return {
        **_design(pair.design),
        "over": _design(pair.other),
        "games": list(pair.games),
        "percent": dataclasses.asdict(pair.probability),
    }


def _interference(pair: Interference) -> dict[str, Any]:
    return {
        "game": pair.together.game,
        **_design(pair.together.design),
        "of_several_games": dataclasses.asdict(pair.together.student),
        "of_this_game_alone": dataclasses.asdict(pair.alone.student),
        "percent": dataclasses.asdict(pair.raw),
        "percent_normalised": dataclasses.asdict(pair.normalised),
        "runs_alone": [result.run for result in pair.alone.results],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "game": cell.game,
        **_design(cell.design),
        "teacher_name": cell.teacher_name,
        "teacher": None if cell.teacher is None else dataclasses.asdict(cell.teacher),
        "student": dataclasses.asdict(cell.student),
        "student_interval": cell.interval_kind,
        "random_score": cell.random_score,
        "percent_of_teacher": dataclasses.asdict(cell.raw),
        "percent_of_teacher_normalised": dataclasses.asdict(cell.normalised),
        "standard_deviation_between_seeds": cell.spread,
        "compression": cell.compression,
        "paper": _paper(cell.paper),
        "seeds": [
            {
                "seed": result.seed,
                "run": result.run,
                "student_score": result.student.mean if result.student is not None else None,
                "teacher_score": result.teacher.mean if result.teacher is not None else None,
                "student_parameters": result.student_parameters,
                "teacher_parameters": result.teacher_parameters,
                "env_steps": result.env_steps,
                "updates": result.updates,
            }
            for result in cell.results
        ],
    }


def _mean(mean: Mean) -> dict[str, Any]:
    return {
        **_design(mean.design),
        "games": [cell.game for cell in mean.cells],
        "percent_of_teacher": dataclasses.asdict(mean.raw),
        "percent_of_teacher_normalised": dataclasses.asdict(mean.normalised),
        "floored_games": list(mean.floored),
        "problem": mean.problem,
        "compression": mean.compression,
        "paper": _paper(mean.paper),
    }


def _design(design: Design) -> dict[str, Any]:
    return {**dataclasses.asdict(design.recipe), "settings": dict(design.settings)}


def _teacher(result: Result) -> dict[str, Any]:
    return {
        "game": result.game,
        "network": result.settings["network"],
        "algorithm": result.settings["algorithm"],
        "score": None if result.teacher is None else dataclasses.asdict(result.teacher),
        "protocol": dataclasses.asdict(result.rules),
        "env_steps": result.env_steps,
        "run": result.run,
    }


def _paper(figure: PaperFigure | None) -> dict[str, Any] | None:
    return None if figure is None else dataclasses.asdict(figure)
