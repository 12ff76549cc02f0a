"""What the same score costs under different settings of a teacher's training.

    python -m benchmarks.studies.teacher_settings --teachers BEFORE.safetensors AFTER.safetensors --scores breakout=30

Each file is of a teacher that ``pd-jax train-teacher`` trained; its learning curve and its settings stand in it. The
first file of a game is what the others of that game are compared with. How fast each trains is measured here:
iterations of all settings take turns, so that a machine whose speed drifts favours nobody. A curve over steps and a
rate give a curve over minutes. ``minutes to`` is where a curve is at a score first, between its points as on a straight
line; ``at equal time`` are scores after as many minutes as the shortest training of the game took.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.studies.teacher_training import Training
from pd_jax.config.algorithms import PQNConfig
from pd_jax.environments.tasks import get_task
from pd_jax.system.cores import usable_cores
from pd_jax.teachers.files import read_teacher
from pd_jax.teachers.metadata import TeacherMetadata

_GAME = "breakout"
"""Whose iterations are timed: games differ by a few percent of a step."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A learning curve: control steps, rising, and the mean score after each."""

    steps: tuple[float, ...]
    scores: tuple[float, ...]

    @classmethod
    def of(cls, metadata: TeacherMetadata) -> Curve:
        """The curve that a teacher's file holds, which begins with play at random."""
        points = [(0.0, get_task(metadata.game).random_score or 0.0)]
        points += [(float(point["env_steps"]), float(point["mean"])) for point in metadata.learning_curve]
        steps, scores = zip(*points, strict=True)
        return cls(steps, scores)

    def steps_to(self, score: float) -> float | None:
        """Control steps after which a score is reached first; None if it is not."""
        for (before, low), (after, high) in zip(self._pairs(), self._pairs()[1:], strict=False):
            if low < score <= high:
                return before + (after - before) * (score - low) / (high - low)
        return None

    def at(self, steps: float) -> float:
        """The score after so many steps; after the last point, its score."""
        for (before, low), (after, high) in zip(self._pairs(), self._pairs()[1:], strict=False):
            if before <= steps <= after:
                return low + (high - low) * (steps - before) / (after - before)
        return self.scores[-1]

    def _pairs(self) -> list[tuple[float, float]]:
        return list(zip(self.steps, self.scores, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables and writes ``benchmarks/results/teacher_settings.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teachers", nargs="+", type=Path, required=True, help="files; the first of a game is compared with"
    )
    parser.add_argument("--scores", nargs="*", default=[], metavar="GAME=SCORE", help="whose minutes are told")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--name", default="teacher_settings", help="of the result file")
    options = parser.parse_args(argv)
    wanted = {game: float(score) for game, score in (entry.split("=") for entry in options.scores)}
    teachers = [read_teacher(path)[1] for path in options.teachers]
    rates = _rates([settings_of(metadata) for metadata in teachers], options.turns)
    rows = compare(teachers, rates, wanted)
    _print(rows)
    results = {"cores": len(usable_cores()), "timed_on": _GAME, "turns": options.turns, "trainings": rows}
    print(record.write(options.name, results))


def settings_of(metadata: TeacherMetadata) -> dict[str, Any]:
    """The settings of a training that its rate depends on, and those that learning does."""
    config = metadata.training_config
    known = {field.name for field in dataclasses.fields(PQNConfig)}
    return {"network": metadata.network} | {key: value for key, value in config["pqn"].items() if key in known}


def compare(
    teachers: Sequence[TeacherMetadata], rates: Sequence[Mapping[str, float]], wanted: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row for each training.

    Args:
      teachers: what their files say.
      rates: of each, ``steps_per_second`` and ``over_first``, the ratio to the first file's.
      wanted: a score by game, whose minutes are told.
    """
    curves = [Curve.of(metadata) for metadata in teachers]
    minutes = [curve.steps[-1] / rate["steps_per_second"] / 60 for curve, rate in zip(curves, rates, strict=True)]
    rows: list[dict[str, Any]] = []
    for metadata, curve, rate in zip(teachers, curves, rates, strict=True):
        shortest = min(own for own, other in zip(minutes, teachers, strict=True) if other.game == metadata.game)
        row: dict[str, Any] = {
            "game": metadata.game,
            "settings": settings_of(metadata),
            "rate": dict(rate),
            "curve": [list(point) for point in zip(curve.steps, curve.scores, strict=True)],
            "minutes": curve.steps[-1] / rate["steps_per_second"] / 60,
            "equal_minutes": shortest,
            "score_at_equal_time": curve.at(shortest * 60 * rate["steps_per_second"]),
        }
        if metadata.game in wanted:
            steps = curve.steps_to(wanted[metadata.game])
            row |= {
                "score": wanted[metadata.game],
                "steps_to_score": steps,
                "minutes_to_score": None if steps is None else steps / rate["steps_per_second"] / 60,
            }
        rows.append(row)
    return rows


def _rates(settings: Sequence[Mapping[str, Any]], turns: int) -> list[dict[str, float]]:
    """Control steps a second of each, and over the first's: medians over turns of one iteration each."""
    trainings = []
    for each in settings:
        config = PQNConfig(**{key: value for key, value in each.items() if key != "network"})
        trainings.append(Training(get_task(_GAME), config, each["network"], "auto"))
    rates: list[list[float]] = [[] for _ in trainings]
    for turn in range(turns + 1):
        for training, found in zip(trainings, rates, strict=True):
            rate = training.config.steps_per_rollout / training.iterate()
            # The first turn compiles.
            if turn:
                found.append(rate)
    for training in trainings:
        training.close()
    ratios = [[own / first for own, first in zip(found, rates[0], strict=True)] for found in rates]
    return [
        {
            "steps_per_second": statistics.median(found),
            "over_first": statistics.median(ratio),
            "over_first_lowest": min(ratio),
            "over_first_highest": max(ratio),
        }
        for found, ratio in zip(rates, ratios, strict=True)
    ]


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("game", "network", "optimizer", "rate", "steps/s", "against the first", "at equal time", "minutes to")
    for row in rows:
        settings, rate = row["settings"], row["rate"]
        to = (
            ""
            if "score" not in row
            else "never"
            if row["minutes_to_score"] is None
            else f"{row['minutes_to_score']:.1f}"
        )
        table.add_row(
            row["game"],
            settings["network"],
            settings.get("optimizer", "radam"),
            f"{settings['learning_rate']:g}",
            f"{rate['steps_per_second']:,.0f}",
            f"{rate['over_first']:.2f}",
            f"{row['score_at_equal_time']:.1f} after {row['equal_minutes']:.1f} min",
            to and f"{to} to {row['score']:g}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
