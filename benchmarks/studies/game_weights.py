"""Three games in one student, weighed in different ways: one recording of each game, several seeds, equal updates.

    python -m benchmarks.studies.game_weights --out runs/game-weights
    python -m benchmarks.studies.game_weights --out runs/game-weights --seeds 0 --only plain pcgrad --updates 2000

Games, network and learner are those of ``configs/quick/multi3.yaml``. The recordings and the teachers' scores are made
once and kept in ``OUT``. The result is written whenever a cell ends, and a study that was interrupted goes on with the
cells that are not there yet. Every cell measures the cosines between its games' gradients as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.cells import record_play, score_once, summary_of
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import load_config
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentEvaluationConfig,
)
from pd_jax.distill.session import distill
from pd_jax.report.conflicts import read_conflicts
from pd_jax.runs.metrics import read_metrics
from pd_jax.runs.summary import Summary
from pd_jax.teachers import Teacher, load

TEMPLATE = "quick/multi3"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "uncertainty": {"balance": "uncertainty"},
    "gradnorm": {"balance": "gradnorm"},
    "pcgrad": {"balance": "pcgrad"},
    "alternating": {"games": "alternating"},
}
"""Changes of the learner. Where games alternate, an update is of one of them: it sees that much less."""
MEASUREMENTS = 50
"""Of cosines, in each cell."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student.

    Attributes:
      way: its games are weighed in.
      seed: its own.
    """

    way: str
    seed: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.way}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/game_weights.json`` whenever one ends."""
    template = load_config(DistillConfig, ["--config", TEMPLATE], "distill")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of recordings, scores and runs")
    parser.add_argument("--games", nargs="+", default=list(template.teacher), help="bundled teachers")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=[way for way in WAYS if way != "alternating"])
    parser.add_argument("--network", default=template.student.network)
    parser.add_argument("--steps", type=int, default=template.replay.capacity, help="recorded steps of each game")
    parser.add_argument("--updates", type=int, default=5_000, help="of each student")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--lanes", type=int, default=template.env.num_lanes, help="of the recordings")
    parser.add_argument("--name", default="game_weights", help="of the result file")
    options = parser.parse_args(argv)

    given = ("games", "seeds", "network", "steps", "updates", "episodes", "max_episode_steps", "lanes")
    settings: dict[str, Any] = {name: getattr(options, name) for name in given}
    settings |= {"learner": dataclasses.asdict(template.learner), "loss": dataclasses.asdict(template.loss)}
    teachers = [load(game) for game in options.games]
    rows: list[dict[str, Any]] = []
    cells = list(cells_of(options))
    for index, cell in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        config = config_of(options, template, cell)
        rows.append(row_of(cell, config, run_cell(options, config, teachers)))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table_of(rows)})
    _print(table_of(rows))
    print(path)


def cells_of(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells: a seed of everything comes before the next seed, so that what is cut short is a table too."""
    for seed, way in itertools.product(options.seeds, options.only):
        yield Cell(way, seed)


def config_of(options: argparse.Namespace, template: DistillConfig, cell: Cell) -> DistillConfig:
    """The settings of a cell: all of the recordings are there from the first update on."""
    return dataclasses.replace(
        template,
        teacher=tuple(options.games),
        data=tuple(str(options.out / "recordings" / game) for game in options.games),
        out=str(options.out / "cells" / cell.name),
        resume=True,
        seed=cell.seed,
        student=dataclasses.replace(template.student, network=options.network),
        learner=dataclasses.replace(
            template.learner,
            gradient_cosines_every=max(1, options.updates // MEASUREMENTS),
            **WAYS[cell.way],
        ),
        replay=ReplayConfig(capacity=options.steps),
        schedule=ScheduleConfig(rounds=1, steps_per_round=options.steps, updates_per_round=options.updates),
        # The same starts for all seeds.
        evaluation=StudentEvaluationConfig(
            episodes=options.episodes,
            max_episode_steps=options.max_episode_steps,
            seed_offset=1_000_000 - cell.seed,
        ),
        checkpoint=DistillCheckpointConfig(every_updates=1_000, keep=1),
    )


def run_cell(options: argparse.Namespace, config: DistillConfig, teachers: Sequence[Teacher]) -> Summary:
    """The summary of a cell, which is trained if there is none yet."""
    if (summary := summary_of(config)) is not None:
        return summary
    assert isinstance(config.data, tuple)
    scores = {}
    for path, teacher in zip(config.data, teachers, strict=True):
        record_play(Path(path), teacher, steps=options.steps, lanes=options.lanes)
        name = teacher.task.name
        scores[name] = score_once(options.out / "teachers" / f"{name}-{options.episodes}.json", config, teacher)
    return distill(config, teachers, scores, tells_memory=False)


def row_of(cell: Cell, config: DistillConfig, summary: Summary) -> dict[str, Any]:
    """What the result says of a cell: scores, the weights at the end, mean cosines, and time."""
    records = read_metrics(Path(config.out) / "metrics.jsonl")
    learnt = [line for line in records if "loss" in line]
    games = summary["games"]
    weights = {game: learnt[-1][f"{game}/weight"] for game in games if f"{game}/weight" in learnt[-1]}
    conflicts = read_conflicts(records)
    cosines: dict[str, dict[str, float | None]] = {}
    if conflicts is not None:
        for layer, matrix in zip(conflicts.layers, conflicts.means, strict=True):
            cosines[layer] = {
                conflicts.name(pair): float(matrix[pair]) if math.isfinite(matrix[pair]) else None
                for pair in sorted(conflicts.pairs)
            }
    return {
        "way": cell.way,
        "seed": cell.seed,
        "games": games,
        "weights": weights,
        "cosines": cosines,
        "seconds_of_updates": sum(float(line.get("seconds/updates") or 0.0) for line in learnt),
        "wall_seconds": summary["wall_seconds"],
    }


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds: by way, for each game the percent of the teacher above random, their mean and their least.

    The standard errors of the mean and of the least are over the seeds too.
    """
    table = []
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        percents = np.array([[_percent(score) for score in row["games"].values()] for row in own])
        entry: dict[str, Any] = {"way": way, "seeds": len(own), "games": {}}
        for place, game in enumerate(own[0]["games"]):
            entry["games"][game] = _mean(percents[:, place])
        entry |= {"mean": _mean(percents.mean(axis=1)), "least": _mean(percents.min(axis=1))}
        entry["seconds_of_updates"] = float(np.mean([row["seconds_of_updates"] for row in own]))
        table.append(entry)
    return table


def _percent(score: Mapping[str, Any]) -> float:
    share = score["percent_of_teacher_normalised"]
    return math.nan if share is None else float(share)


def _mean(values: np.ndarray) -> dict[str, float | None]:
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"percent": float(np.mean(values)), "standard_error": error}


def _print(table: Sequence[Mapping[str, Any]]) -> None:
    games = list(table[0]["games"])
    shown = Table("way", *games, "mean", "least", "s", title="% of the teacher above random, ± over seeds")
    for entry in table:
        cells = [*(entry["games"][game] for game in games), entry["mean"], entry["least"]]
        texts = [
            f"{cell['percent']:.1f}" + ("" if cell["standard_error"] is None else f" ± {cell['standard_error']:.1f}")
            for cell in cells
        ]
        shown.add_row(entry["way"], *texts, f"{entry['seconds_of_updates']:.0f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
