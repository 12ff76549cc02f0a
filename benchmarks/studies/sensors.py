r"""What a student makes of sensors: a pole that is balanced by encoders which are noisy, late, and lose samples.

    python -m benchmarks.studies.sensors --out runs/sensors
    python -m benchmarks.studies.sensors --out runs/sensors --seeds 0 --only gru

The teacher of CartPole knows the state: positions and velocities. The students are told positions alone, as encoders
give them, and have to find the velocities: from one step, from a window of steps, or by a memory (a GRU). They play
themselves while the teacher says what it would have done (DAgger), as a student that sees less goes elsewhere.

The result is written whenever a cell ends, and a study that was interrupted goes on with the cells that are not there
yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.cells import row_of, train_cell
from pd_jax.config.distill import DistillConfig
from pd_jax.config.observation import StudentObservationConfig
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
from pd_jax.report.figures import CYCLE, GREY, STYLE
from pd_jax.teachers import load

GAME = "cartpole"
POSITIONS = (0, 2)
"""The cart's place in metres and the pole's angle in radians; 1 and 3 are their velocities."""
NOISE = (0.02, 0.01)
"""Of a noise of 1: standard deviations in metres and radians. The pole has fallen at 0.21."""
LEVELS = (0.0, 0.1, 0.5, 1.0)
LOST = (0.0, 0.3)
LATE = (0, 1)
STUDENTS: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "one step": ({}, 1),
    "window 4": ({}, 4),
    "window 16": ({}, 16),
    "gru": ({"memory": "gru", "memory_size": 64}, 1),
}


@dataclasses.dataclass(frozen=True)
class Sensors:
    """What stands between the state and the student."""

    noise: float
    lost: float
    late: int

    @property
    def label(self) -> str:
        """Such as ``noise 0.5, 30 % lost, 1 step late``."""
        lost = f", {100 * self.lost:g} % lost" if self.lost else ""
        return f"noise {self.noise:g}{lost}" + (f", {self.late} step late" if self.late else "")

    def of_window(self, window: int) -> StudentObservationConfig:
        """The same as settings of a student that sees so many steps."""
        noise = tuple(self.noise * each for each in NOISE) if self.noise else 0.0
        return StudentObservationConfig(
            components=POSITIONS,
            window=window if window > 1 else None,
            noise=noise,
            missing=self.lost,
            delay=self.late,
        )


CONDITIONS = tuple(Sensors(*each) for each in itertools.product(LEVELS, LOST, LATE) if each[1] == 0.0 or each[2] == 0)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table, writes ``benchmarks/results/sensors.json`` and draws ``sensors.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs and the teacher's score")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=STUDENTS, help="these students alone")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=1_000, help="of a round")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--name", default="sensors", help="of the result file")
    options = parser.parse_args(argv)

    given = ("seeds", "rounds", "updates", "episodes")
    settings = {name: getattr(options, name) for name in given} | {"game": GAME, "noise_of_1": NOISE}
    teacher, rows, path = load(GAME), [], Path()
    # A seed of everything comes before the next seed, so that what is cut short is a table too.
    cells = list(itertools.product(options.seeds, CONDITIONS, options.only or STUDENTS))
    for index, (seed, sensors, student) in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {student}, {sensors.label}, seed {seed}", file=sys.stderr, flush=True)
        scores = options.out / f"teacher-{options.episodes}.json"
        summary = train_cell(config_of(options, sensors, student, seed), teacher, scores)
        told = {"game": GAME, "seed": seed, "student": student, **dataclasses.asdict(sensors)}
        rows.append(row_of(told, summary))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table_of(rows)})
    Console().print(draw_table(table_of(rows)))
    draw(table_of(rows), path.with_suffix(".png"))
    print(path)


def config_of(options: argparse.Namespace, sensors: Sensors, student: str, seed: int) -> DistillConfig:
    """The settings of a cell."""
    memory, window = STUDENTS[student]
    name = f"{student.replace(' ', '')}-{sensors.noise:g}-{sensors.lost:g}-{sensors.late}-seed{seed}"
    return DistillConfig(
        teacher=GAME,
        out=str(options.out / "cells" / name),
        resume=True,
        seed=seed,
        env=EnvConfig(num_lanes=16),
        behaviour=BehaviourConfig(policy="student"),
        student=StudentConfig(network="mlp", mlp_hidden=(64, 64), observation=sensors.of_window(window), **memory),
        loss=LossConfig(kind="kl", temperature=0.1),
        learner=LearnerConfig(batch_size=64, optimizer="adam", learning_rate=1e-3, learning_rate_decay=True),
        replay=ReplayConfig(capacity=options.rounds * 4_096),
        schedule=ScheduleConfig(
            rounds=options.rounds, steps_per_round=4_096, updates_per_round=options.updates, rollout_length=64
        ),
        evaluation=StudentEvaluationConfig(
            episodes=options.episodes,
            epsilon=0.0,
            # All seeds meet the same starts.
            seed_offset=1_000_000 - seed,
        ),
        checkpoint=DistillCheckpointConfig(keep=1),
    )


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean scores over the seeds with their standard errors, by sensors and student."""
    keys = ("noise", "lost", "late", "student")
    table = []
    for values in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        scores = [float(row["student_score"]) for row in rows if tuple(row[key] for key in keys) == values]
        error = float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None
        entry = dict(zip(keys, values, strict=True))
        table.append(entry | {"score": float(np.mean(scores)), "standard_error": error, "seeds": len(scores)})
    return table


def draw_table(table: Sequence[Mapping[str, Any]]) -> Table:
    """Sensors down, students across."""
    students = list(dict.fromkeys(entry["student"] for entry in table))
    shown = Table("sensors", *students, title="CartPole's score by positions alone; the teacher, by the state, has 500")
    for sensors in dict.fromkeys(_sensors_of(entry) for entry in table):
        own = {entry["student"]: entry for entry in table if _sensors_of(entry) == sensors}
        shown.add_row(sensors.label, *(_spell(own.get(student)) for student in students))
    return shown


def draw(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the figure: the score over the noise, a panel for what else the sensors do."""
    panels = list(dict.fromkeys((entry["lost"], entry["late"]) for entry in table))
    students = list(dict.fromkeys(entry["student"] for entry in table))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, (lost, late) in zip(axes, panels, strict=True):
            panel.axhline(500, color=GREY, linestyle="--", linewidth=1)
            panel.text(1.0, 505, "teacher, by the state", color=GREY, fontsize=8, ha="right", va="bottom")
            for student, (colour, _) in zip(students, CYCLE, strict=False):
                own = [each for each in table if (each["student"], each["lost"], each["late"]) == (student, lost, late)]
                panel.errorbar(
                    [entry["noise"] for entry in own],
                    [entry["score"] for entry in own],
                    yerr=[entry["standard_error"] or 0.0 for entry in own],
                    color=colour, marker="o", markersize=4, capsize=2, label=student,
                )  # fmt: skip
            title = ", ".join(filter(None, (f"{100 * lost:g} % lost" if lost else "", "a step late" if late else "")))
            panel.set(title=title or "in time, none lost", xlabel="noise (1: 0.02 m and 0.01 rad)", ylim=(0, 540))
        axes[0].set(ylabel="score")
        axes[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 0.9))
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _sensors_of(entry: Mapping[str, Any]) -> Sensors:
    return Sensors(entry["noise"], entry["lost"], entry["late"])


def _spell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    error = "" if entry["standard_error"] is None else f" ± {entry['standard_error']:.0f}"
    return f"{entry['score']:.0f}{error}"


if __name__ == "__main__":
    main()
