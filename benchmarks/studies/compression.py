r"""Students of one game against its teacher, smaller and smaller (Rusu et al. 2016, tables 1 and 2).

    python -m benchmarks.studies.compression --out runs/compression
    python -m benchmarks.studies.compression --out runs/compression --networks net2 --losses nll mse kl --name by_loss

All students of a game learn from one recording, by equally many updates. The result is written whenever a cell ends,
and a study that was interrupted goes on with the cells that are not there yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import record
from benchmarks.harness.cells import draw_table, mean_by_game, row_of, train_cell
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    EnvConfig,
    LearnerConfig,
    LossConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.teachers import load

LEARNER = LearnerConfig(
    optimizer="muon", learning_rate=1e-2, learning_rate_decay=True, sampling="loss", sampling_correction=0.0
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/compression.json`` whenever one ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of recordings, scores and runs")
    parser.add_argument("--games", nargs="+", default=["pong", "freeway"], help="bundled teachers")
    parser.add_argument("--networks", nargs="+", default=["net1", "net2", "net3"])
    parser.add_argument("--losses", nargs="+", default=["kl"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=102_400, help="recorded control steps of each game")
    parser.add_argument("--updates", type=int, default=8_000, help="of each student")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--sampling", choices=("uniform", "loss"), default=LEARNER.sampling)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--lanes", type=int, default=16, help="of the recordings")
    parser.add_argument("--name", default="compression", help="of the result file")
    options = parser.parse_args(argv)

    settings = {name: value for name, value in vars(options).items() if name not in ("out", "name")}
    settings |= {"learner": dataclasses.asdict(dataclasses.replace(LEARNER, sampling=options.sampling))}
    rows: list[dict[str, Any]] = []
    # A seed of everything comes before the next seed, so that what is cut short is a table too.
    cells = list(itertools.product(options.seeds, options.games, options.networks, options.losses))
    for index, (seed, game, network, loss) in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {game}, {network}, {loss}, seed {seed}", file=sys.stderr, flush=True)
        scores = options.out / "teachers" / f"{game}-{options.episodes}.json"
        summary = train_cell(config_of(options, game, network, loss, seed), load(game), scores, steps=options.steps)
        told = {"game": game, "seed": seed, "network": network, "loss": loss, "updates": summary["updates"]}
        rows.append(row_of(told, summary))
        table = mean_by_game(rows, ("network", "loss"), ("percent_of_teacher", "wall_seconds"))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table})
    title = "% of the teacher above random, ± over seeds (raw)"
    Console().print(draw_table(table, {"network": "network", "loss": "loss"}, title, "percent_of_teacher"))
    print(path)


def config_of(options: argparse.Namespace, game: str, network: Any, loss: Any, seed: int) -> DistillConfig:
    """The settings of a cell: all of the recording is there from the first update on."""
    return DistillConfig(
        teacher=game,
        data=str(options.out / "recordings" / game),
        out=str(options.out / "cells" / f"{game}-{network}-{loss}-{options.sampling}-{options.updates}-seed{seed}"),
        resume=True,
        seed=seed,
        env=EnvConfig(num_lanes=options.lanes),
        student=StudentConfig(network=network),
        loss=LossConfig(kind=loss),
        learner=dataclasses.replace(LEARNER, sampling=options.sampling),
        replay=ReplayConfig(capacity=options.steps),
        schedule=ScheduleConfig(rounds=1, steps_per_round=options.steps, updates_per_round=options.updates),
        evaluation=StudentEvaluationConfig(
            episodes=options.episodes,
            max_episode_steps=options.max_episode_steps,
            # All seeds meet the same starts.
            seed_offset=1_000_000 - seed,
        ),
        checkpoint=DistillCheckpointConfig(keep=1),
    )


if __name__ == "__main__":
    main()
