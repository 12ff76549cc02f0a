"""Students of one study: cells that share recordings and their teachers' scores, and are trained once.

A study that was interrupted goes on with the cells that are not there yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pd_jax.config.collect import CollectConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.distill.collect import collect
from pd_jax.distill.session import distill
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.teacher_scores import TeacherScore, read_teacher_score, score_teacher, write_teacher_score
from pd_jax.runs.directory import read_run
from pd_jax.runs.summary import Summary
from pd_jax.teachers import Teacher


def record_play(out: Path, teacher: Teacher, *, steps: int, lanes: int) -> None:
    """A teacher's play as a recording, made once and gone on with where it ended."""
    config = CollectConfig(
        teacher=teacher.task.name,
        out=str(out),
        steps=steps,
        seed=0,
        env=OneGameEnvConfig(num_lanes=lanes),
        resume=True,
    )
    collect(config, teacher, tells_memory=False)


def score_once(path: Path, config: DistillConfig, teacher: Teacher) -> TeacherScore:
    """A teacher's score under a run's protocol, taken once and kept in a file."""
    protocol = Protocol.of(config, teacher.task)
    score = read_teacher_score(path)
    if score is None or score.protocol != protocol or score.fingerprint != teacher.sha256:
        score = score_teacher(protocol, teacher.task, teacher)
        write_teacher_score(path, score)
    return score


def summary_of(config: DistillConfig) -> Summary | None:
    """What a cell found that has been trained already."""
    if not (Path(config.out) / "summary.json").exists():
        return None
    summary = read_run(config.out).read_summary()
    wanted = config.schedule.rounds * config.schedule.updates_per_round
    return summary if summary is not None and summary.updates == wanted else None


def train_cell(config: DistillConfig, teacher: Teacher, scores: Path, *, steps: int = 0) -> Summary:
    """The summary of a cell, which is trained if there is none yet.

    Args:
      config: of one teacher; its ``data``, if it learns from a recording, is made if it is not there.
      teacher: its teacher.
      scores: the file of the teacher's score.
      steps: of the recording.
    """
    if (summary := summary_of(config)) is not None:
        return summary
    if config.data is not None:
        assert isinstance(config.data, tuple)
        record_play(Path(config.data[0]), teacher, steps=steps, lanes=config.env.num_lanes)
    known = {teacher.task.name: score_once(scores, config, teacher)}
    return distill(config, teacher, known, tells_memory=False)


def row_of(told: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    """What a result says of a cell of one game: what is told of it, its scores and its time."""
    ((_, scores),) = summary["games"].items()
    return {**told, **scores, "wall_seconds": summary["wall_seconds"]}


def mean_by_game(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], means: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the seeds, for each game: the percent of the teacher above random with its standard error.

    Args:
      rows: of cells, as :func:`row_of` gives them, with ``game`` and what ``keys`` name.
      keys: those with the same values of these are one line.
      means: of these values the mean is told too; None where there is none.
    """
    table = []
    for values in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        entry: dict[str, Any] = {**dict(zip(keys, values, strict=True)), "games": {}}
        own = [row for row in rows if tuple(row[key] for key in keys) == values]
        for game in dict.fromkeys(row["game"] for row in own):
            of_game = [row for row in own if row["game"] == game]
            percents = [float(row["percent_of_teacher_normalised"]) for row in of_game]
            error = float(np.std(percents, ddof=1)) / math.sqrt(len(percents)) if len(percents) > 1 else None
            entry["games"][game] = {
                "seeds": len(percents),
                "percent": float(np.mean(percents)),
                "standard_error": error,
                **{name: _mean([row[name] for row in of_game if row[name] is not None]) for name in means},
            }
        entry["mean"] = float(np.mean([each["percent"] for each in entry["games"].values()]))
        table.append(entry)
    return table


def draw_table(table: Sequence[Mapping[str, Any]], heads: Mapping[str, str], title: str, beside: str = "") -> Table:
    """The same for a terminal.

    Args:
      table: of :func:`mean_by_game`.
      heads: by key, what stands above its values.
      title: of the table.
      beside: a mean that stands in brackets behind the percent; none if empty.
    """
    games = list(dict.fromkeys(game for entry in table for game in entry["games"]))
    shown = Table(*heads.values(), *games, "mean", title=title)
    for entry in table:
        texts = []
        for game in games:
            cell = entry["games"].get(game)
            error = "" if cell is None or cell["standard_error"] is None else f" ± {cell['standard_error']:.1f}"
            found = f" ({cell[beside]:.3g})" if cell is not None and beside and cell[beside] is not None else ""
            texts.append("" if cell is None else f"{cell['percent']:.1f}{error}{found}")
        first = (entry[key] for key in heads)
        shown.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in first), *texts,
                      f"{entry['mean']:.1f}")  # fmt: skip
    return shown


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
