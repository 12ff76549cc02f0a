"""The curves of a run's page: losses, agreement and scores on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.report.charts import COLOURS, Line, line_chart
from pd_jax.report.page_files import RunFiles, is_number, updates_at
from pd_jax.runs.summary import GameSummary


def curves_section(read: RunFiles) -> str:
    if not read.records:
        return ""
    charts = [
        line_chart("Loss", _metric_lines(read, "loss"), x_label="updates", about="loss over the updates", is_log=True),
        line_chart(
            "Agreement with the teacher over time",
            _metric_lines(read, "agreement", scale=100.0),
            x_label="updates",
            about="per cent of states in which student and teacher choose the same action, over the updates",
            is_percent=True,
            bounds=(0.0, 100.0),
        ),
    ]
    charts += _online_chart(read) if read.directory.command == "online" else _score_chart(read)
    return (
        f'<section><h2>Over the training</h2><div class="charts">{"".join(charts)}</div>'
        '<p class="note">Loss and agreement are of minibatches out of the replay. Of many points: their means, over a '
        "band from the least to the largest.</p></section>"
    )


def _metric_lines(read: RunFiles, name: str, scale: float = 1.0) -> list[Line]:
    """One for each game where there are several and each was recorded; else of all."""
    if len(read.games) > 1:
        lines = [
            Line(game, _points(read.records, f"{game}/{name}", scale), _colour(place))
            for place, game in enumerate(read.games)
        ]
        if any(len(line.points) for line in lines):
            return [line for line in lines if len(line.points)]
    return [Line(name, _points(read.records, name, scale), "own")]


def _points(records: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> np.ndarray:
    return _points_of(records, [name], updates_at) * [1.0, scale]


def _score_chart(read: RunFiles) -> list[str]:
    """The scores on the way, if there were any; the last point is the final evaluation's."""
    summary, games = read.summary, read.games
    rows = {game: _scores_on_the_way(read.records, game) for game in games}
    if not any(len(found) for found in rows.values()):
        return []
    last = max(updates_at(record) for record in read.records)
    if len(games) == 1:
        return [_chart_of_one(games[0], rows[games[0]], None if summary is None else summary.games[games[0]], last)]
    lines = []
    for place, game in enumerate(games):
        final = None if summary is None else summary.games[game]
        if final is None or final.teacher is None or final.student is None:
            lines.append(Line(game, rows[game], _colour(place)))
            continue
        random = final.random_score or 0.0
        span = final.teacher.mean - random
        if span <= 0:
            continue
        points = np.vstack([rows[game][rows[game][:, 0] < last][:, :2], [[last, final.student.mean]]])
        points[:, 1] = 100 * (points[:, 1] - random) / span
        lines.append(Line(game, points, _colour(place)))
    label = "score" if summary is None else "score above random play, of the teacher's"
    return [
        line_chart(
            f"{label[0].upper()}{label[1:]}",
            [*lines, *([Line.level("teacher", 100.0, "quiet")] if summary is not None else [])],
            x_label="updates",
            about=f"{label}, over the updates",
            is_percent=summary is not None,
        )
    ]


def _chart_of_one(name: str, rows: np.ndarray, final: GameSummary | None, last: float) -> str:
    lines = []
    if final is not None and final.student is not None:
        ends = [np.nan if end is None else end for end in final.student.ci95]
        rows = np.vstack([rows[rows[:, 0] < last], [[last, final.student.mean, *ends]]])
    if final is not None and final.teacher is not None:
        lines.append(Line.level("teacher", final.teacher.mean, "taught", (final.teacher.low, final.teacher.high)))
    if final is not None and final.random_score is not None:
        lines.append(Line.level("random play", final.random_score, "quiet"))
    return line_chart(
        f"Score, {name}",
        [Line("student", rows, "own"), *lines],
        x_label="updates",
        about="the student's score with 95 % intervals, over the updates",
    )


def _online_chart(read: RunFiles) -> list[str]:
    (game,) = read.games
    ends = ("", "_low", "_high")
    # The student last, so that it is drawn on top.
    classes = {"teacher": "line0", "target": "line2", "student": "own"}
    lines = [
        Line(who, _points_of(read.records, [f"{game}/{who}_score{end}" for end in ends], _teacher_steps), css_class)
        for who, css_class in classes.items()
    ]
    final = None if read.summary is None else read.summary.games[game]
    if final is not None and final.random_score is not None:
        lines.append(Line.level("random play", final.random_score, "quiet"))
    return [
        line_chart(
            f"Score, {game}",
            lines,
            x_label="control steps of the teacher's training",
            about="scores of the learning teacher, of its best snapshot (the target) and of the student",
        )
    ]


def _scores_on_the_way(records: Sequence[Mapping[str, Any]], game: str) -> np.ndarray:
    """``[evaluations, (x, score, low, high)]``."""
    return _points_of(records, [f"{part}/{game}" for part in ("score", "score_low", "score_high")], updates_at)


def _points_of(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], x_of: Callable[[Mapping[str, Any]], float]
) -> np.ndarray:
    """``[lines, (x, one value for each name)]`` of the lines that have the first; NaN where another is missing."""
    rows = [
        (x_of(record), *(record[name] if is_number(record.get(name)) else math.nan for name in names))
        for record in records
        if is_number(record.get(names[0]))
    ]
    return np.array(rows, float).reshape(-1, 1 + len(names))


def _teacher_steps(record: Mapping[str, Any]) -> float:
    """Control steps of an online run's teacher."""
    steps = record.get("teacher_env_steps")
    return float(steps) if steps is not None and is_number(steps) else math.nan


def _colour(place: int) -> str:
    return f"line{place % COLOURS}" + (" dashed" if place >= COLOURS else "")
