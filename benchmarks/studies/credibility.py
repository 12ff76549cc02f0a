"""Students of several teachers of one game, some of them damaged, by each way to weigh them.

    python -m benchmarks.studies.credibility --out runs/credibility
    python -m benchmarks.studies.credibility --out runs/credibility --damaged 1 --seeds 0 --only good both none

Two teachers are good: the bundled one, and a large student of it that this distils first. The others are the bundled
one with its outputs permuted in half of the states, which a hash of the observation chooses; all of these are damaged
in the same states and in the same way, so that two of them are of one mind against two good ones. Each way to weigh
records its committee's play once, and students learn from that. Recordings, scores and the second teacher are made once
and kept in ``OUT``. The result is written whenever a cell ends, and a study that was interrupted goes on with the cells
that are not there yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.cells import record_play, score_once, summary_of
from pd_jax.config.credibility import CredibilityConfig
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
from pd_jax.distill.session import distill
from pd_jax.evaluation.teacher_scores import TeacherScore, read_teacher_score
from pd_jax.runs.students import load_teacher
from pd_jax.runs.summary import Summary
from pd_jax.teachers import Teacher, load, make_committee

LEARNER = LearnerConfig(optimizer="muon", learning_rate=1e-2, learning_rate_decay=True)
LABELS = ("good", "none", "score", "state", "both", "stale")
"""Of the two good teachers alone, by both; of all, by each; and by both, where the damaged ones' files tell the score
from before they were damaged."""


@dataclasses.dataclass(frozen=True)
class DamagedNetwork:
    """A network whose outputs are permuted in some of the states.

    Attributes:
      network: with its ``apply``.
      share: of the states.
      which: tells one damaged teacher from another of the same damage; it changes nothing.
    """

    network: Any
    share: float
    which: int

    def apply(self, variables: Any, observations: Array) -> Array:
        """The outputs, each the next action's where :func:`hash_of` is in the share."""
        outputs = self.network.apply(variables, observations)
        hit = hash_of(observations) < jnp.uint32(min(self.share * 2**32, 2**32 - 1))
        return jnp.where(hit[:, None], outputs[:, _permutation(outputs.shape[-1])], outputs)


def hash_of(observations: Array) -> Array:
    """A number for each observation, uniform over uint32: of a frame and the next one they have nothing in common.

    Args:
      observations: uint8 or float32 ``[N, ...]``.
    """
    flat = observations.reshape(len(observations), -1)
    words = flat.astype(jnp.uint32) if flat.dtype == jnp.uint8 else lax.bitcast_convert_type(flat, jnp.uint32)
    odd = np.random.default_rng(0).integers(0, 2**31, flat.shape[1], np.uint32) * np.uint32(2) + np.uint32(1)
    mixed = (words * odd).sum(axis=1, dtype=jnp.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed ^ (mixed >> 16)


def _permutation(actions: int) -> np.ndarray:
    """One in which no action stays where it is, the same always."""
    order = np.random.default_rng(0).permutation(actions)
    permutation = np.empty(actions, int)
    permutation[order] = np.roll(order, 1)
    return permutation


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student.

    Attributes:
      label: of `LABELS`.
      damaged: how many teachers are, beside two good ones; 0 of ``good``.
      seed: of the student.
    """

    label: str
    damaged: int
    seed: int

    @property
    def committee(self) -> str:
        """What its teachers, their recording and their score are called."""
        return "good" if self.label == "good" else f"{self.label}-damaged{self.damaged}"

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.committee}-seed{self.seed}"


class Study:
    """The cells of a study, and what they have in common.

    Args:
      options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.game: str = options.game

    def cells(self) -> Iterator[Cell]:
        """A seed of everything comes before the next seed, so that what is cut short is a table too."""
        wanted = self.options.only or LABELS
        for seed in self.options.seeds:
            if "good" in wanted:
                yield Cell("good", 0, seed)
            for damaged in self.options.damaged:
                yield from (Cell(label, damaged, seed) for label in LABELS[1:] if label in wanted)

    def run(self, cell: Cell) -> Summary:
        """The summary of a cell, which is trained if there is none yet."""
        config = self.config(cell)
        if (summary := summary_of(config)) is not None:
            return summary
        teacher = self.teacher(cell)
        assert isinstance(config.data, tuple)
        self.collect(teacher, Path(config.data[0]))
        return distill(config, teacher, {self.game: self.score(teacher, cell.committee)}, tells_memory=False)

    def teacher(self, cell: Cell) -> Teacher:
        """The cell's committee."""
        names = ["bundled", "second", *[f"damaged{place}" for place in range(cell.damaged)]]
        members = [self.member(name) for name in names]
        by = cast(Literal["none", "score", "state", "both"], "both" if cell.label in ("good", "stale") else cell.label)
        scores = None
        if by in ("score", "both"):
            # Damaged ones are damaged alike.
            claims = "bundled" if cell.label == "stale" else "damaged0"
            scored = [claims if name.startswith("damaged") else name for name in names]
            scores = tuple(self.score(self.member(name), name).score.mean for name in scored)
        return make_committee(members, CredibilityConfig(by=by, scores=scores), name=cell.committee)

    def member(self, name: str) -> Teacher:
        """A teacher by its name."""
        bundled = load(self.game)
        if name == "bundled":
            return bundled
        if name == "second":
            return self._second(bundled)
        network = DamagedNetwork(bundled.network, self.options.share, int(name.removeprefix("damaged")))
        sha256 = f"{bundled.sha256[:40]}{name}x{self.options.share:g}"
        return Teacher(bundled.metadata, bundled.variables["params"], name, sha256, network)

    def _second(self, bundled: Teacher) -> Teacher:
        """A large student of the bundled teacher's own play."""
        options, data = self.options, self.options.out / "recordings" / "bundled"
        config = dataclasses.replace(
            self.config(Cell("good", 0, 1000), options.second, options.second_updates),
            teacher=(self.game,),
            out=str(options.out / "second"),
            data=(str(data),),
        )
        if summary_of(config) is None:
            self.collect(bundled, data)
            distill(config, bundled, {self.game: self.score(bundled, "bundled")}, tells_memory=False)
        return load_teacher(config.out, self.game)

    def collect(self, teacher: Teacher, out: Path) -> None:
        """Records a teacher's play, if that is not there yet."""
        record_play(out, teacher, steps=self.options.steps, lanes=self.options.lanes)

    def score(self, teacher: Teacher, name: str) -> TeacherScore:
        """A teacher's score, taken once; on the same starts for all."""
        path = self.options.out / "teachers" / f"{name}-{self.options.episodes}.json"
        return score_once(path, self.config(Cell("good", 0, 0)), teacher)

    def config(self, cell: Cell, network: str | None = None, updates: int | None = None) -> DistillConfig:
        """The settings of a cell: all of the recording is there from the first update on."""
        options = self.options
        return DistillConfig(
            teacher=cell.committee,
            game=self.game,
            data=str(options.out / "recordings" / cell.committee),
            out=str(options.out / "cells" / cell.name),
            resume=True,
            seed=cell.seed,
            env=EnvConfig(),
            student=StudentConfig(network=cast(Any, network or options.network), mlp_hidden=tuple(options.mlp_hidden)),
            learner=LEARNER,
            replay=ReplayConfig(capacity=options.steps),
            schedule=ScheduleConfig(
                rounds=1, steps_per_round=options.steps, updates_per_round=updates or options.updates
            ),
            evaluation=StudentEvaluationConfig(
                episodes=options.episodes,
                max_episode_steps=options.max_episode_steps,
                seed_offset=1_000_000 - cell.seed,
            ),
            checkpoint=DistillCheckpointConfig(keep=1),
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, prints their table and writes ``benchmarks/results/credibility.json`` whenever one ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of recordings, scores and runs")
    parser.add_argument("--game", default="pong", help="of a bundled teacher")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--damaged", nargs="+", type=int, default=[1, 2], help="teachers beside the two good ones")
    parser.add_argument("--share", type=float, default=0.5, help="of the states in which they are damaged")
    parser.add_argument("--only", nargs="+", choices=LABELS, help="these alone")
    parser.add_argument("--network", default="net3", help="of the students")
    parser.add_argument("--mlp-hidden", nargs="+", type=int, default=[64, 64], help="of students that are an mlp")
    parser.add_argument("--second", default="dqn", help="network of the second good teacher")
    parser.add_argument("--second-updates", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=81_920, help="recorded control steps of each committee")
    parser.add_argument("--updates", type=int, default=5_000, help="of each student")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--max-episode-steps", type=int, default=None)
    parser.add_argument("--lanes", type=int, default=16, help="of the recordings")
    parser.add_argument("--name", default="credibility", help="of the result file")
    options = parser.parse_args(argv)

    settings = {name: value for name, value in vars(options).items() if name not in ("out", "name")}
    settings |= {"learner": dataclasses.asdict(LEARNER)}
    study, rows = Study(options), list[dict[str, Any]]()
    cells = list(study.cells())
    for index, cell in enumerate(cells):
        print(f"cell {index + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        rows.append(row_of(cell, study.run(cell), study.game))
        members = {path.stem: _read(path) for path in sorted((options.out / "teachers").glob("*.json"))}
        content = {"settings": settings, "teachers": members, "rows": rows, "table": table_of(rows)}
        path = record.write(options.name, content)
    _print(table_of(rows))
    print(path)


def _read(path: Path) -> dict[str, Any] | None:
    score = read_teacher_score(path)
    return None if score is None else {"mean": score.score.mean, "standard_error": score.score.standard_error}


def row_of(cell: Cell, summary: Summary, game: str) -> dict[str, Any]:
    """What the result says of a cell."""
    committee = summary["committees"][game]
    told = {"label": cell.label, "damaged": cell.damaged, "seed": cell.seed}
    weights = {
        member["teacher"]: {"weight": member["weight"], "where_outvoted": member["weight_where_outvoted"]}
        for member in committee["members"]
    }
    rate = committee["contradiction_rate"]
    return told | {**summary["games"][game], "contradiction_rate": rate, "weights": weights}


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, and what they are of the good ones' student, above random."""
    table = []
    good = [row for row in rows if row["label"] == "good"]
    best = float(np.mean([row["student_score"] for row in good])) if good else None
    for label, damaged in dict.fromkeys((row["label"], row["damaged"]) for row in rows):
        own = [row for row in rows if (row["label"], row["damaged"]) == (label, damaged)]
        scores, random = [float(row["student_score"]) for row in own], own[0]["random_score"]
        weights = [
            float(weight["weight"])
            for row in own
            for name, weight in row["weights"].items()
            if name.startswith("damaged")
        ]
        of_good = None
        if best is not None and random is not None and best > random:
            of_good = 100 * (float(np.mean(scores)) - random) / (best - random)
        table.append(
            {
                "label": label,
                "damaged": damaged,
                "seeds": len(own),
                "score": float(np.mean(scores)),
                "standard_error": float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None,
                "committee_score": float(np.mean([row["teacher_score"] for row in own])),
                "percent_of_good_normalised": of_good,
                "weight_of_damaged": float(np.mean(weights)) if weights else None,
                "contradiction_rate": float(np.mean([row["contradiction_rate"] for row in own])),
            }
        )
    return table


def _print(table: Sequence[Mapping[str, Any]]) -> None:
    columns = ("credibility", "damaged", "student", "% of good", "committee", "weight", "contradict")
    shown = Table(*columns, title="students of two good teachers and damaged ones, ± over seeds")
    for entry in table:
        error, of_good = entry["standard_error"], entry["percent_of_good_normalised"]
        weight = entry["weight_of_damaged"]
        shown.add_row(
            entry["label"],
            str(entry["damaged"]),
            f"{entry['score']:.1f}" + ("" if error is None else f" ± {error:.1f}"),
            "" if of_good is None else f"{of_good:.1f}",
            f"{entry['committee_score']:.1f}",
            "" if weight is None else f"{weight:.3f}",
            f"{100 * entry['contradiction_rate']:.1f} %",
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
