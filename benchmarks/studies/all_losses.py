"""Students of all losses, with temperatures by hand and found from the play: one recording of each game, several seeds.

    python -m benchmarks.studies.all_losses --out runs/all-losses
    python -m benchmarks.studies.all_losses --out runs/all-losses --games pong --seeds 0 --only kl-auto reverse_kl-auto

The recordings and the teachers' scores are made once and kept in ``OUT``. The result is written whenever a cell ends,
and a study that was interrupted goes on with the cells that are not there yet. Beside the losses there are students of
teachers whose outputs are multiplied by 0.001 and by 1,000: at the temperature auto these ought to be the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
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
from pd_jax.runs.summary import Summary
from pd_jax.teachers import Teacher, load

LEARNER = LearnerConfig(optimizer="muon", learning_rate=1e-2, learning_rate_decay=True)
TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""By hand, of KL."""
_AUTO = LossConfig(temperature="auto")
LOSSES: Mapping[str, LossConfig] = {
    **{f"kl-{temperature:g}": LossConfig(temperature=temperature) for temperature in TEMPERATURES},
    "kl-auto": _AUTO,
    "nll": LossConfig(kind="nll"),
    "mse": LossConfig(kind="mse"),
    "huber": LossConfig(kind="huber"),
    **{
        f"{kind}-{temperature}": LossConfig(kind=kind, temperature=temperature)
        for kind in ("reverse_kl", "jsd", "expected_entropy", "advantage_mse", "advantage_huber")
        for temperature in (0.01, "auto")
    },
    **{
        f"kl-auto, {weights}": dataclasses.replace(_AUTO, weights=weights)
        for weights in ("action_gap", "entropy")
    },
}  # fmt: skip
FACTORS = (0.001, 1000.0)
"""Of outputs, beside 1."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student.

    Attributes:
      game, seed: of it.
      label: its loss in words.
      loss: its settings.
      factor: that its teacher's outputs are multiplied by.
    """

    game: str
    seed: int
    label: str
    loss: LossConfig
    factor: float = 1.0

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.game}-{self.label.replace(', ', '-')}-x{self.factor:g}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/all_losses.json`` whenever one ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of recordings, scores and runs")
    parser.add_argument("--games", nargs="+", default=["pong", "freeway", "breakout"], help="bundled teachers")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*LOSSES, "scaled"], help="these losses alone")
    parser.add_argument("--network", default="net3")
    parser.add_argument("--steps", type=int, default=81_920, help="recorded control steps of each game")
    parser.add_argument("--updates", type=int, default=5_000, help="of each student")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--lanes", type=int, default=16, help="of the recordings")
    parser.add_argument("--name", default="all_losses", help="of the result file")
    options = parser.parse_args(argv)

    given = ("games", "seeds", "network", "steps", "updates", "episodes", "max_episode_steps", "lanes")
    settings: dict[str, Any] = {name: getattr(options, name) for name in given}
    settings |= {"learner": dataclasses.asdict(LEARNER)}
    rows: list[dict[str, Any]] = []
    cells = list(cells_of(options))
    for index, cell in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        summary = run_cell(options, cell)
        told = {"game": cell.game, "seed": cell.seed, "loss": cell.label, "factor": cell.factor}
        rows.append(row_of(told | {"temperature": summary.get("temperature")}, summary))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table_of(rows)})
    title = "% of the teacher above random, ± over seeds (τ)"
    Console().print(draw_table(table_of(rows), {"loss": "loss", "factor": "outputs x"}, title, "temperature"))
    print(path)


def cells_of(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells: a seed of everything comes before the next seed, so that what is cut short is a table too."""
    wanted = options.only or [*LOSSES, "scaled"]
    for seed, game in itertools.product(options.seeds, options.games):
        for label, loss in LOSSES.items():
            if label in wanted:
                yield Cell(game, seed, label, loss)
        for factor in FACTORS if "scaled" in wanted else ():
            yield Cell(game, seed, "kl-auto", LOSSES["kl-auto"], factor)


def teacher_of(cell: Cell) -> Teacher:
    """The cell's teacher; one whose outputs are multiplied has a fingerprint of its own."""
    teacher = load(cell.game)
    if cell.factor == 1.0:
        return teacher
    params = {name: dict(part) for name, part in teacher.variables["params"].items()}
    factor = np.float32(cell.factor)
    params["head"]["output"] = jax.tree.map(lambda leaf: leaf * factor, params["head"]["output"])
    return Teacher(teacher.metadata, params, teacher.source, f"{teacher.sha256[:48]}x{cell.factor:g}")


def run_cell(options: argparse.Namespace, cell: Cell) -> Summary:
    """The summary of a cell, which is trained if there is none yet."""
    # The teacher's score is taken on the same starts for all seeds.
    scores = options.out / "teachers" / f"{cell.game}-x{cell.factor:g}-{options.episodes}.json"
    return train_cell(config_of(options, cell), teacher_of(cell), scores, steps=options.steps)


def config_of(options: argparse.Namespace, cell: Cell) -> DistillConfig:
    """The settings of a cell: all of the recording is there from the first update on."""
    return DistillConfig(
        teacher=cell.game,
        data=str(options.out / "recordings" / f"{cell.game}-x{cell.factor:g}"),
        out=str(options.out / "cells" / cell.name),
        resume=True,
        seed=cell.seed,
        env=EnvConfig(num_lanes=options.lanes),
        student=StudentConfig(network=options.network),
        loss=cell.loss,
        learner=LEARNER,
        replay=ReplayConfig(capacity=options.steps),
        schedule=ScheduleConfig(rounds=1, steps_per_round=options.steps, updates_per_round=options.updates),
        evaluation=StudentEvaluationConfig(
            episodes=options.episodes,
            max_episode_steps=options.max_episode_steps,
            seed_offset=1_000_000 - cell.seed,
        ),
        checkpoint=DistillCheckpointConfig(keep=1),
    )


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds: by loss and factor, for each game the percent of the teacher above random."""
    return mean_by_game(rows, ("loss", "factor"), ("temperature",))


if __name__ == "__main__":
    main()
