"""Distil, then reinforce: does a student of a weak teacher overtake it, in how many steps, and what helps?

    python -m benchmarks.studies.reinforce --out runs/reinforce
    python -m benchmarks.studies.reinforce --out runs/reinforce --games pong --seeds 0 --teachers pong=WEAK.safetensors

For each game a teacher is trained until a snapshot's score lies between 25 and 50 % of the bundled teacher's above
random play, a recording is made of its play, and for each seed a student is distilled from that. Then the ways go on:

- ``reinforced``: from the student, by PQN, with the distillation fading by its schedule;
- ``return_ratio``: the same, fading by QDagger's return ratio (Agarwal et al. 2022). It is QDagger's idea with our PQN:
  CleanRL's program learns by DQN with a replay, mixes both losses in its offline phase, and runs under PyTorch;
- ``rewards alone``: from the student, by PQN, with a distillation weight of 0;
- ``kickstarted``: from nothing, with the teacher beside it from the first step (Schmitt et al. 2018);
- ``from nothing``: PQN from rewards alone. It plays as many steps more as were recorded.

All else is equal, but for exploration and the learning rate: what begins from nothing begins at random, and at the
rate that teachers are best trained at. The result is written whenever a cell
ends, and a study that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.algorithms import PQNConfig
from pd_jax.config.collect import CollectConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.guidance import GuidanceConfig, GuidanceLossConfig
from pd_jax.config.sections import (
    DistillCheckpointConfig,
    LearnerConfig,
    OneGameEnvConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
    TeacherCheckpointConfig,
    TeacherEvaluationConfig,
)
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.distill.collect import collect
from pd_jax.distill.session import distill
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.teacher_scores import TeacherScore, read_teacher_score, score_teacher, write_teacher_score
from pd_jax.report.guidance import SURE, errors_above
from pd_jax.runs.directory import read_run
from pd_jax.runs.summary import Summary
from pd_jax.system.interrupts import Interrupted
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.files import read_games
from pd_jax.trainers.session import train_teacher

WAYS = ("reinforced", "return_ratio", "rewards alone", "kickstarted", "from nothing")
SHARE = (0.25, 0.5)
"""Of the bundled teacher's score above random play, that a weak teacher is to have."""
LEARNER = LearnerConfig(optimizer="muon", learning_rate=1e-2, learning_rate_decay=True)
LOSS = GuidanceLossConfig(temperature="auto")
_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way to go on."""

    game: str
    seed: int
    way: str

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.game}-{self.way.replace(' ', '_')}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/reinforce.json`` whenever one ends."""
    options = _parser().parse_args(argv)
    given = {name: value for name, value in vars(options).items() if name not in ("out", "teachers", "name", "only")}
    settings = given | {"learner": dataclasses.asdict(LEARNER), "loss": dataclasses.asdict(LOSS)}
    rows: list[dict[str, Any]] = []
    cells = list(cells_of(options))
    for index, cell in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        rows.append(row_of(options, cell, run_cell(options, cell)))
        path = record.write(options.name, {"settings": settings, "rows": rows, "table": table_of(rows)})
    _print(table_of(rows))
    print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of teachers, recordings, scores and runs")
    parser.add_argument("--games", nargs="+", default=["pong", "breakout"], help="that have a bundled teacher")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=WAYS, help="these ways alone")
    parser.add_argument("--teachers", nargs="+", default=[], metavar="GAME=FILE", help="weak teachers that are there")
    parser.add_argument("--network", default="net1", help="of teachers and students")
    parser.add_argument("--mlp-hidden", nargs="+", type=int, default=[64, 64])
    parser.add_argument("--teacher-steps", type=int, default=2_000_000, help="control steps of a weak teacher at most")
    parser.add_argument("--snapshot-steps", type=int, default=50_000, help="control steps between its snapshots")
    parser.add_argument("--recorded", type=int, default=40_960, help="control steps of its play to distil from")
    parser.add_argument("--updates", type=int, default=5_000, help="of the distillation")
    parser.add_argument("--steps", type=int, default=200_000, help="control steps of reinforcement")
    parser.add_argument("--optimizer", choices=("muon", "radam"), default="muon", help="of reinforcement")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of reinforcement")
    parser.add_argument("--learning-rate-from-nothing", type=float, default=1e-2, help="of what begins from nothing")
    parser.add_argument("--distillation-weight", nargs="+", default=None, help="points of the schedule; guidance's own")
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--rollout", type=int, default=64, help="control steps of each lane")
    parser.add_argument("--curve-steps", type=int, default=50_000, help="control steps between points of the curve")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--name", default="reinforce", help="of the result file")
    return parser


def cells_of(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells: a seed of everything comes before the next seed, so that what is cut short is a table too."""
    for seed, game in itertools.product(options.seeds, options.games):
        for way in WAYS:
            if way in (options.only or WAYS):
                yield Cell(game, seed, way)


def run_cell(options: argparse.Namespace, cell: Cell) -> Summary:
    """The summary of a cell, which is trained if there is none yet."""
    weak = weak_teacher(options, cell.game)
    out = options.out / "cells" / cell.name
    if (summary := _finished(out)) is not None:
        return summary
    student = None if cell.way in ("kickstarted", "from nothing") else distilled(options, cell, weak)
    return train_teacher(config_of(options, cell, weak, student))


def weak_teacher(options: argparse.Namespace, game: str) -> Path:
    """The file of a game's weak teacher: the one that is given, or a snapshot of one that is trained for it.

    Raises:
      UserError: none of its snapshots is in the range that is wanted.
    """
    given = dict(text.split("=", 1) for text in options.teachers)
    if game in given:
        return Path(given[game])
    directory = options.out / "teachers" / f"{game}-weak"
    kept = directory / "weak.safetensors"
    if kept.exists():
        return kept
    found: list[Path] = []
    done, stop = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            found[:] = _in_range(directory, game)
            if found:
                stop.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    config = TrainTeacherConfig(
        game=game,
        out=str(directory),
        resume=True,
        network=options.network,
        mlp_hidden=tuple(options.mlp_hidden),
        pqn=PQNConfig(
            total_steps=options.teacher_steps,
            num_lanes=options.lanes,
            rollout_length=options.rollout,
            td_lambda=0.85,
            optimizer="muon",
            learning_rate=1e-2,
            epsilon_end=0.05,
        ),
        evaluation=TeacherEvaluationConfig(
            every_steps=options.snapshot_steps,
            progress_episodes=10,
            episodes=options.episodes,
            max_episode_steps=options.max_episode_steps,
            snapshots=True,
        ),
        checkpoint=TeacherCheckpointConfig(every_steps=options.snapshot_steps, keep=1),
    )
    try:
        train_teacher(config, stop=stop)
    except Interrupted:
        if not stop.is_set():
            raise
    finally:
        done.set()
        watcher.join()
    found = _in_range(directory, game)
    if not found:
        raise UserError(f"{directory}: no snapshot is at {SHARE[0]:.0%} to {SHARE[1]:.0%} of the bundled teacher")
    kept.write_bytes(found[0].read_bytes())
    return kept


def _in_range(directory: Path, game: str) -> list[Path]:
    """Snapshots whose scores are in the range, the earliest first."""
    random, bundled = get_task(game).random_score, load(game).metadata.evaluation["mean"]
    assert random is not None
    found = []
    for path in sorted(directory.glob("snapshots/*.safetensors")):
        _, (metadata, *_) = read_games(path)
        if SHARE[0] <= (metadata.evaluation["mean"] - random) / (bundled - random) <= SHARE[1]:
            found.append(path)
    return found


def distilled(options: argparse.Namespace, cell: Cell, weak: Path) -> Path:
    """The run of a seed's student, which is distilled if there is none yet."""
    data, out = options.out / "recordings" / cell.game, options.out / "students" / f"{cell.game}-seed{cell.seed}"
    if _finished(out) is not None:
        return Path(out)
    env = OneGameEnvConfig(num_lanes=16)
    teacher = load(weak)
    collect(
        CollectConfig(teacher=str(weak), out=str(data), steps=options.recorded, seed=0, env=env, resume=True),
        teacher,
        tells_memory=False,
    )
    config = DistillConfig(
        teacher=str(weak),
        data=str(data),
        out=str(out),
        resume=True,
        seed=cell.seed,
        # With LayerNorm, as PQN relies on it.
        student=StudentConfig(network=options.network, mlp_hidden=tuple(options.mlp_hidden), layer_norm=True),
        loss=LOSS,
        learner=LEARNER,
        replay=ReplayConfig(capacity=options.recorded),
        schedule=ScheduleConfig(rounds=1, steps_per_round=options.recorded, updates_per_round=options.updates),
        evaluation=StudentEvaluationConfig(episodes=options.episodes, max_episode_steps=options.max_episode_steps),
        checkpoint=DistillCheckpointConfig(keep=1),
    )
    distill(config, tells_memory=False)
    return Path(out)


def config_of(options: argparse.Namespace, cell: Cell, weak: Path, student: Path | None) -> TrainTeacherConfig:
    """The settings of a cell."""
    guidance = GuidanceConfig()
    if cell.way != "from nothing":
        weight = None if options.distillation_weight is None else tuple(options.distillation_weight)
        guidance = GuidanceConfig(teacher=str(weak), loss=LOSS, distillation_weight=weight)
    if cell.way == "rewards alone":
        guidance = dataclasses.replace(guidance, distillation_weight=("0:0",))
    if cell.way == "return_ratio":
        guidance = dataclasses.replace(guidance, fade="return_ratio", distillation_weight=None)
    return TrainTeacherConfig(
        game=cell.game,
        out=str(options.out / "cells" / cell.name),
        resume=True,
        seed=cell.seed,
        init_from=None if student is None else str(student),
        network=options.network,
        mlp_hidden=tuple(options.mlp_hidden),
        guidance=guidance,
        pqn=PQNConfig(
            total_steps=options.steps + (options.recorded if cell.way == "from nothing" else 0),
            num_lanes=options.lanes,
            rollout_length=options.rollout,
            td_lambda=0.85,
            optimizer=options.optimizer,
            learning_rate=options.learning_rate if student else options.learning_rate_from_nothing,
            epsilon_start=1.0 if student is None else 0.05,
            epsilon_end=0.05,
        ),
        evaluation=TeacherEvaluationConfig(
            every_steps=options.curve_steps,
            progress_episodes=10,
            episodes=options.episodes,
            max_episode_steps=options.max_episode_steps,
            # On the same starts for all seeds.
            seed_offset=1_000_000 - cell.seed,
        ),
        checkpoint=TeacherCheckpointConfig(every_steps=options.curve_steps, keep=1),
    )


def row_of(options: argparse.Namespace, cell: Cell, summary: Summary) -> dict[str, Any]:
    """What the result says of a cell."""
    ((_, game),) = summary.games.items()
    own, teacher = game.teacher, _teacher_score(options, cell)
    assert own is not None
    told = summary.get("guidance") or {}
    curve = [(point["env_steps"], point["mean"]) for point in summary["learning_curve"]]
    return {
        "game": cell.game,
        "seed": cell.seed,
        "way": cell.way,
        **own.entries("score"),
        **teacher.entries("teacher"),
        "standard_errors_above_teacher": errors_above(own, teacher),
        "start_score": told.get("start_score"),
        "scale": told.get("scale"),
        "offset": told.get("offset"),
        "temperature": told.get("temperature"),
        "steps": summary.env_steps,
        "steps_above_teacher": next((steps for steps, mean in curve if mean > teacher.mean), None),
        "curve": curve,
        "wall_seconds": summary.wall_seconds,
    }


def _teacher_score(options: argparse.Namespace, cell: Cell) -> Score:
    """The weak teacher's, on the starts that score the cells; taken once."""
    teacher: Teacher = load(weak_teacher(options, cell.game))
    protocol = Protocol.of(config_of(options, cell, Path(teacher.source), None), teacher.task, seed_offset=500_000)
    path = options.out / "scores" / f"{cell.game}-{options.episodes}.json"
    kept: TeacherScore | None = read_teacher_score(path)
    if kept is None or kept.protocol != protocol or kept.fingerprint != teacher.sha256:
        kept = score_teacher(protocol, teacher.task, teacher)
        write_teacher_score(path, kept)
    return kept.score


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each game and way the mean over seeds, and how surely it is above the teacher."""
    table = []
    for game, way in dict.fromkeys((row["game"], row["way"]) for row in rows):
        own = [row for row in rows if (row["game"], row["way"]) == (game, way)]
        scores = [float(row["score_score"]) for row in own]
        # Of one seed its episodes say how sure it is; of several, their spread.
        error = own[0]["score_standard_error"]
        if len(scores) > 1:
            error = float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
        teacher = Score.from_entries({**own[0], "episodes": 1}, "teacher")
        assert teacher is not None
        mean = Score(float(np.mean(scores)), error, None, None, len(scores))
        above = errors_above(mean, teacher)
        table.append(
            {
                "game": game,
                "way": way,
                "seeds": len(scores),
                "score": mean.mean,
                "standard_error": error,
                "teacher": teacher.mean,
                "teacher_standard_error": teacher.standard_error,
                "standard_errors_above_teacher": above,
                "overtakes": above is not None and above > SURE,
                "steps": own[0]["steps"],
                "steps_above_teacher": [row["steps_above_teacher"] for row in own],
            }
        )
    return table


def _finished(out: Path) -> Summary | None:
    return read_run(out).read_summary() if (out / "summary.json").exists() else None


def _print(table: Sequence[Mapping[str, Any]]) -> None:
    columns = ("game", "way", "seeds", "score", "teacher", "standard errors above", "overtakes", "first above after")
    shown = Table(*columns, title="Equal steps of play; ± one standard error")
    for entry in table:
        scores = [
            f"{entry[name]:.1f}" + ("" if error is None else f" ± {error:.1f}")
            for name, error in (
                ("score", entry["standard_error"]),
                ("teacher", entry["teacher_standard_error"]),
            )
        ]
        above = entry["standard_errors_above_teacher"]
        first = " ".join("never" if steps is None else f"{steps:,}" for steps in entry["steps_above_teacher"])
        sure = "" if above is None else f"{above:.1f}"
        shown.add_row(
            entry["game"],
            entry["way"],
            str(entry["seeds"]),
            *scores,
            sure,
            "yes" if entry["overtakes"] else "no",
            first,
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
