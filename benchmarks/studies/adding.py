"""A game that is added to a student of others, in each way, against a student of all of them anew.

    python -m benchmarks.studies.adding --out runs/adding
    python -m benchmarks.studies.adding --out runs/adding --seeds 0 --only replay ewc-0.01

A student of Breakout and Freeway learns from a recording of each. Then Pong is added: by a new head alone, with the old
games replayed at several shares, and with a penalty of several weights on what is far from the old student, EWC's or
the plain distance. Each way has half the updates of the student that learns all three anew, and fewer where
``--shares`` says so. The recordings and the teachers' scores are made once and kept in ``OUT``. The result is written
whenever a cell ends, and a study that was interrupted goes on with the cells that are not there yet.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from pd_jax.config.adding import AddingConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    LearnerConfig,
    LossConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.distill.session import distill
from pd_jax.runs.summary import Summary
from pd_jax.teachers import load

LEARNER = LearnerConfig(optimizer="muon", learning_rate=1e-2, learning_rate_decay=True)
WAYS: Mapping[str, AddingConfig] = {
    "head": AddingConfig(learn="head"),
    **{f"replay-{share:g}": AddingConfig(new_share=share) for share in (0.33, 0.5, 0.67)},
    **{f"ewc-{weight:g}": AddingConfig(penalty="ewc", penalty_weight=weight) for weight in (1e-3, 1e-2, 1e-1)},
    **{
        f"distance-{weight:g}": AddingConfig(penalty="distance", penalty_weight=weight)
        for weight in (0.0, 1e-3, 1e-2, 1e-1)
    },
}
"""The distance of weight 0 is new play alone, with nothing to hold the student."""
OLD, ANEW = "the old games", "all anew"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student.

    Attributes:
      seed: of it.
      way: that a game is added in; or ``OLD``, ``ANEW``.
      updates: that it has.
    """

    seed: int
    way: str
    updates: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.way.replace(' ', '-')}-{self.updates}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/adding.json`` whenever one ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of recordings, scores and runs")
    parser.add_argument("--old", nargs="+", default=["breakout", "freeway"], help="bundled teachers")
    parser.add_argument("--new", default="pong", help="the one that is added")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help="these ways alone")
    parser.add_argument("--network", default="net2")
    parser.add_argument("--steps", type=int, default=81_920, help="recorded control steps of each game")
    parser.add_argument("--updates", type=int, default=10_000, help="of the student of all games anew, and of the old")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5], help="of these, for an added game")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--lanes", type=int, default=16, help="of the recordings")
    parser.add_argument("--name", default="adding", help="of the result file")
    options = parser.parse_args(argv)

    given = ("old", "new", "seeds", "network", "steps", "updates", "shares", "episodes", "max_episode_steps", "lanes")
    settings: dict[str, Any] = {name: getattr(options, name) for name in given}
    settings |= {"learner": dataclasses.asdict(LEARNER), "temperature": "auto"}
    rows: list[dict[str, Any]] = []
    cells = list(cells_of(options))
    for index, cell in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        rows.append(row_of(cell, run_cell(options, cell)))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table_of(rows, options.new)})
    _print(table_of(rows, options.new))
    print(path)


def cells_of(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells: a seed of everything comes before the next seed, so that what is cut short is a table too."""
    for seed in options.seeds:
        yield Cell(seed, OLD, options.updates)
        yield Cell(seed, ANEW, options.updates)
        for share in options.shares:
            for way in options.only or WAYS:
                yield Cell(seed, way, round(share * options.updates))


def run_cell(options: argparse.Namespace, cell: Cell) -> Summary:
    """The summary of a cell, which is trained if there is none yet."""
    config = config_of(options, cell)
    if (summary := summary_of(config)) is not None:
        return summary
    scores = {}
    for game in [*options.old, *([] if cell.way == OLD else [options.new])]:
        teacher = load(game)
        record_play(Path(_recording(options, game)), teacher, steps=options.steps, lanes=options.lanes)
        # On the same starts for all seeds.
        scores[game] = score_once(options.out / "teachers" / f"{game}-{options.episodes}.json", config, teacher)
    return distill(config, teacher_scores=scores, tells_memory=False)


def _recording(options: argparse.Namespace, game: str) -> str:
    return str(options.out / "recordings" / game)


def config_of(options: argparse.Namespace, cell: Cell) -> DistillConfig:
    """The settings of a cell: all of each recording is there from the first update on."""
    games = (*options.old, options.new) if cell.way == ANEW else tuple(options.old)
    config = DistillConfig(
        teacher=games,
        data=tuple(_recording(options, game) for game in games),
        out=str(options.out / "cells" / cell.name),
        resume=True,
        seed=cell.seed,
        student=StudentConfig(network=options.network),
        loss=LossConfig(temperature="auto", target_entropy=0.1),
        learner=LEARNER,
        replay=ReplayConfig(capacity=options.steps),
        schedule=ScheduleConfig(rounds=1, steps_per_round=options.steps, updates_per_round=cell.updates),
        evaluation=StudentEvaluationConfig(
            episodes=options.episodes,
            max_episode_steps=options.max_episode_steps,
            seed_offset=1_000_000 - cell.seed,
        ),
        checkpoint=DistillCheckpointConfig(keep=1),
    )
    if cell.way not in WAYS:
        return config
    adding, old = WAYS[cell.way], Cell(cell.seed, OLD, options.updates)
    looks = adding.replays or adding.samples
    return dataclasses.replace(
        config,
        add_teacher=(options.new,),
        data=config.data if looks else None,
        add_data=(_recording(options, options.new),),
        init_from=str(options.out / "cells" / old.name),
        adding=adding,
    )


def row_of(cell: Cell, summary: Summary) -> dict[str, Any]:
    """What the result says of a cell."""
    told: dict[str, Any] = {"way": cell.way, "seed": cell.seed, "updates": cell.updates}
    return told | {"games": summary["games"], "wall_seconds": summary["wall_seconds"]}


def table_of(rows: Sequence[Mapping[str, Any]], new: str) -> list[dict[str, Any]]:
    """Means over the seeds, by way and updates: of each game the percent of the teacher above random, of old ones what
    is left of the score before, and whether the way does what was asked of it: at least 95 % of both."""
    table = []
    for way, updates in dict.fromkeys((row["way"], row["updates"]) for row in rows):
        own = [row for row in rows if (row["way"], row["updates"]) == (way, updates)]
        entry: dict[str, Any] = {"way": way, "updates": updates, "seeds": len(own), "games": {}}
        for game in dict.fromkeys(game for row in own for game in row["games"]):
            scores = [row["games"][game] for row in own]
            entry["games"][game] = {
                "percent_of_teacher": _mean([score["percent_of_teacher_normalised"] for score in scores]),
                "score": _mean([score["student_score"] for score in scores]),
            }
            if "score_before" in scores[0]:
                entry["games"][game] |= {
                    "score_before": _mean([score["score_before"] for score in scores]),
                    "kept_percent": _mean([100 - score["forgotten_percent"] for score in scores]),
                }
        if way in WAYS:
            kept = [game["kept_percent"]["mean"] for game in entry["games"].values() if "kept_percent" in game]
            reached = entry["games"][new]["percent_of_teacher"]["mean"]
            entry |= {"kept_least": min(kept), "new": reached, "holds": min(*kept, reached) >= 95.0}
        table.append(entry)
    return table


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """Over the seeds, with its standard error."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error}


def _print(table: Sequence[Mapping[str, Any]]) -> None:
    games = list(dict.fromkeys(game for entry in table for game in entry["games"]))
    title = "% of the teacher above random, ± over seeds (of the score before)"
    shown = Table("way", "updates", *games, "95 % kept and reached", title=title)
    for entry in table:
        texts = [_text(entry["games"].get(game)) for game in games]
        holds = {True: "yes", False: "no", None: ""}[entry.get("holds")]
        shown.add_row(entry["way"], f"{entry['updates']:,}", *texts, holds)
    Console().print(shown)


def _text(game: Mapping[str, Any] | None) -> str:
    if game is None:
        return ""
    of_teacher, kept = game["percent_of_teacher"], game.get("kept_percent")
    error = "" if of_teacher["standard_error"] is None else f" ± {of_teacher['standard_error']:.1f}"
    return f"{of_teacher['mean']:.1f}{error}" + ("" if kept is None else f" ({kept['mean']:.1f})")


if __name__ == "__main__":
    main()
