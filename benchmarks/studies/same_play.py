"""What takes more out of the same play: preferred steps, shifted frames, averaged weights, a larger student.

    python -m benchmarks.studies.same_play --out runs/same-play
    python -m benchmarks.studies.same_play --out runs/same-play --games pong --seeds 0 --only plain loss

All students of a game learn from one recording, by equally many updates, too few for the plain student to be as good as
its teacher. The result is written whenever a cell ends, and a study that was interrupted goes on with the cells that
are not there yet. The wall time beside each score is what it took with its evaluation.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
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
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.teachers import load

PLAIN = LearnerConfig(optimizer="muon", learning_rate=1e-2, learning_rate_decay=True)
LEARNERS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "loss": {"sampling": "loss"},
    "action_gap": {"sampling": "action_gap"},
    "loss, uncorrected": {"sampling": "loss", "sampling_correction": 0.0},
    "shift 4": {"random_shift": 4},
    "shift 1": {"random_shift": 1},
    "average 0.99": {"average_decay": 0.99},
    "average 0.99, constant rate": {"average_decay": 0.99, "learning_rate_decay": False},
    "constant rate": {"learning_rate_decay": False},
}
LARGER = "larger"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/same_play.json`` whenever one ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of recordings, scores and runs")
    parser.add_argument("--games", nargs="+", default=["pong", "freeway"], help="bundled teachers")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*LEARNERS, LARGER], help="these students alone")
    parser.add_argument("--network", default="net3")
    parser.add_argument("--larger", default="dqn", help="the network of the larger student")
    parser.add_argument("--steps", type=int, default=61_440, help="recorded control steps of each game")
    parser.add_argument("--updates", type=int, default=2_000, help="of each student")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--lanes", type=int, default=16, help="of the recordings")
    parser.add_argument("--name", default="same_play", help="of the result file")
    options = parser.parse_args(argv)

    given = ("games", "seeds", "network", "larger", "steps", "updates", "episodes", "max_episode_steps", "lanes")
    settings: dict[str, Any] = {name: getattr(options, name) for name in given}
    settings |= {"learner": dataclasses.asdict(PLAIN)}
    rows: list[dict[str, Any]] = []
    # A seed of everything comes before the next seed, so that what is cut short is a table too.
    cells = list(itertools.product(options.seeds, options.games, options.only or [*LEARNERS, LARGER]))
    for index, (seed, game, label) in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {game}, {label}, seed {seed}", file=sys.stderr, flush=True)
        scores = options.out / "teachers" / f"{game}-{options.episodes}.json"
        summary = train_cell(config_of(options, game, label, seed), load(game), scores, steps=options.steps)
        rows.append(row_of({"game": game, "seed": seed, "learner": label}, summary))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table_of(rows)})
    title = "% of the teacher above random, ± over seeds (seconds)"
    Console().print(draw_table(table_of(rows), {"learner": "learner"}, title, "wall_seconds"))
    print(path)


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, for each game."""
    return mean_by_game(rows, ("learner",), ("wall_seconds",))


def config_of(options: argparse.Namespace, game: str, label: str, seed: int) -> DistillConfig:
    """The settings of a cell: all of the recording is there from the first update on."""
    network = options.larger if label == LARGER else options.network
    name = f"{game}-{label.replace(', ', '-').replace(' ', '')}-seed{seed}"
    return DistillConfig(
        teacher=game,
        data=str(options.out / "recordings" / game),
        out=str(options.out / "cells" / name),
        resume=True,
        seed=seed,
        env=EnvConfig(num_lanes=options.lanes),
        student=StudentConfig(network=network),
        learner=dataclasses.replace(PLAIN, **LEARNERS.get(label, {})),
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
