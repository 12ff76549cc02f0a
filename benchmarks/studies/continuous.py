r"""Students of continuous tasks at a tenth of their teachers' size, by each loss.

    python -m benchmarks.studies.continuous --out runs/continuous

The students play themselves while the teacher says what it would have done (DAgger); teacher and student are scored
without noise. The result is written whenever a cell ends, and a study that was interrupted goes on with the cells that
are not there yet.
"""

from __future__ import annotations

import argparse
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
    BehaviourConfig,
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

SIZES = {"half_cheetah_v5": (64, 64), "cartpole_swingup_v1": (32, 32)}
"""Hidden layers of the students, at most a tenth of the teachers' parameters."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/continuous.json`` whenever one ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs and the teachers' scores")
    parser.add_argument("--games", nargs="+", choices=SIZES, default=list(SIZES), help="bundled teachers")
    parser.add_argument("--losses", nargs="+", default=["mse", "kl"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16_384, help="of a round, in all lanes together")
    parser.add_argument("--updates", type=int, default=3_000, help="of a round")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--name", default="continuous", help="of the result file")
    options = parser.parse_args(argv)

    settings = {name: value for name, value in vars(options).items() if name not in ("out", "name")}
    settings |= {"sizes": {game: SIZES[game] for game in options.games}}
    rows: list[dict[str, Any]] = []
    # A seed of everything comes before the next seed, so that what is cut short is a table too.
    cells = list(itertools.product(options.seeds, options.games, options.losses))
    for index, (seed, game, loss) in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {game}, {loss}, seed {seed}", file=sys.stderr, flush=True)
        scores = options.out / "teachers" / f"{game}-{options.episodes}.json"
        summary = train_cell(config_of(options, game, loss, seed), load(game), scores)
        told = {"game": game, "seed": seed, "loss": loss}
        smaller = summary["teacher_parameters"] / summary["student_parameters"]
        rows.append(row_of(told, summary) | {"times_smaller": smaller})
        table = mean_by_game(rows, ("loss",), ("percent_of_teacher", "times_smaller", "wall_seconds"))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table})
    title = "% of the teacher above random, ± over seeds (raw)"
    Console().print(draw_table(table, {"loss": "loss"}, title, "percent_of_teacher"))
    print(path)


def config_of(options: argparse.Namespace, game: str, loss: Any, seed: int) -> DistillConfig:
    """The settings of a cell."""
    return DistillConfig(
        teacher=game,
        out=str(options.out / "cells" / f"{game}-{loss}-seed{seed}"),
        resume=True,
        seed=seed,
        env=EnvConfig(num_lanes=16),
        behaviour=BehaviourConfig(policy="student"),
        student=StudentConfig(network="mlp", mlp_hidden=SIZES[game]),
        loss=LossConfig(kind=loss),
        learner=LearnerConfig(batch_size=64, optimizer="adam", learning_rate=1e-3, learning_rate_decay=True),
        replay=ReplayConfig(capacity=options.rounds * options.steps),
        schedule=ScheduleConfig(
            rounds=options.rounds,
            steps_per_round=options.steps,
            updates_per_round=options.updates,
            rollout_length=64,
        ),
        evaluation=StudentEvaluationConfig(
            episodes=options.episodes,
            epsilon=0.0,
            # All seeds meet the same starts.
            seed_offset=1_000_000 - seed,
        ),
        checkpoint=DistillCheckpointConfig(keep=1),
    )


if __name__ == "__main__":
    main()
