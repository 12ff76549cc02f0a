"""Three students of one teacher, one recording and one budget, differing in their loss alone (Rusu et al. 2016).

    python -m benchmarks.studies.losses --out runs/losses

The recording is made once and kept in ``OUT/recording``; a comparison that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.collect import CollectConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    LearnerConfig,
    LossConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.distill.collect import collect
from pd_jax.distill.session import distill

LEARNER = LearnerConfig(optimizer="adam", learning_rate=1e-3, learning_rate_decay=True)
LOSSES: tuple[Literal["nll", "mse", "kl"], ...] = ("nll", "mse", "kl")


def main() -> None:
    """Runs the comparison, prints its table and writes ``benchmarks/results/losses.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the recording and the runs")
    parser.add_argument("--teacher", default="pong")
    parser.add_argument("--network", default="net2")
    parser.add_argument("--steps", type=int, default=81_920, help="recorded control steps")
    parser.add_argument("--updates", type=int, default=20_000, help="updates of each student")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="losses", help="of the result file")
    options = parser.parse_args()

    recording = str(options.out / "recording")
    collect(CollectConfig(teacher=options.teacher, out=recording, steps=options.steps, seed=options.seed, resume=True))
    summaries = {loss: distill(_config(options, recording, loss)) for loss in LOSSES}
    rows = []
    for loss, summary in summaries.items():
        ((game, scores),) = summary["games"].items()
        rows.append({"loss": loss, "game": game, **scores, "updates": summary["updates"]})
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "name")}
    settings |= {"learner": dataclasses.asdict(LEARNER)}
    path = record.write(options.name, {"settings": settings, "rows": rows})
    _print(rows)
    print(path)


def _config(options: argparse.Namespace, recording: str, loss: Literal["nll", "mse", "kl"]) -> DistillConfig:
    return DistillConfig(
        teacher=options.teacher,
        data=recording,
        out=str(options.out / loss),
        resume=True,
        seed=options.seed,
        student=StudentConfig(network=options.network),
        loss=LossConfig(kind=loss, temperature=0.01 if loss == "kl" else None),
        learner=LEARNER,
        replay=ReplayConfig(capacity=options.steps),
        # All of the recording is there from the first update on: the losses differ in nothing else.
        schedule=ScheduleConfig(rounds=1, steps_per_round=options.steps, updates_per_round=options.updates),
        evaluation=StudentEvaluationConfig(episodes=options.episodes),
    )


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("loss", "student", "teacher", "% of teacher")
    for row in rows:
        percent = row["percent_of_teacher"]
        table.add_row(
            str(row["loss"]),
            f"{row['student_score']:.1f} ± {row['student_standard_error']:.1f}",
            f"{row['teacher_score']:.1f} ± {row['teacher_standard_error']:.1f}",
            "undefined" if percent is None else f"{percent:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
