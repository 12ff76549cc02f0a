"""What a student loses in 8-bit integers: calibrated afterwards, and trained for them.

    python -m benchmarks.studies.int8 --out runs/int8 runs/pong runs/pong-net3 runs/freeway runs/freeway-net3

Each directory is of a student that ``pd-jax distill`` left. For each seed:

- It is exported as it is (``--precision int8``): its layers' ranges are calibrated on its own play. The float student
  plays as many games from the same starts.
- It goes on learning from its teacher with ``--student.quantisation int8``, and is exported from there; and, for the
  first seed, once more without, for as many updates, to tell what integers cost from what longer learning brings.

Games are played by the ONNX file, those of the float students by JAX. Each seed has its own starts, the same for all.
``of the float student`` is the score above random play. What is there already in ``--out`` is not done again, and the
result file is written after each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.environments.tasks import get_task

_KINDS = ("calibrated", "trained", "float, learning on")


def main() -> None:
    """Prints the table and writes ``benchmarks/results/int8.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--frames", type=int, default=10_000, help="that outputs are compared on")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--updates", type=int, default=300, help="of a round")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--name", default="int8", help="of the result file")
    options = parser.parse_args()
    cells: list[dict[str, Any]] = []
    settings = {key: value for key, value in vars(options).items() if key not in ("name", "out", "runs")}
    for seed in options.seeds:
        for run in options.runs:
            cells.append(_cell(options, run, seed))
            written = record.write(options.name, {"settings": settings, "cells": cells, "table": _table(cells)})
    _print(_table(cells))
    print(written)


def _cell(options: argparse.Namespace, run: Path, seed: int) -> dict[str, Any]:
    config = read_config(DistillConfig, run / "config.yaml")
    (game,) = json.loads((run / "summary.json").read_text())["games"]
    cell: dict[str, Any] = {"game": game, "network": config.student.network, "seed": seed}
    directory = options.out / f"{game}-{config.student.network}-{seed}"
    trained, longer = directory / "trained", directory / "longer"
    _learn(options, run, seed, trained, "int8")
    before = _export(options, run, seed, directory / "calibrated.export", game, "int8")
    after = _export(options, trained, seed, directory / "trained.export", game, "int8")
    cell["float"] = before["policy_games"]
    cell["calibrated"], cell["trained"] = (_of_file(report, "int8") for report in (before, after))
    if seed == options.seeds[0]:
        _learn(options, run, seed, longer, "none")
        on = _export(options, longer, seed, directory / "longer.export", game, "float32")
        cell["float, learning on"] = {"games": on["policy_games"]}
    random = get_task(game).random_score
    assert random is not None
    above = cell["float"]["mean"] - random
    there = [kind for kind in _KINDS if kind in cell]
    for kind in there:
        cell[kind]["percent_of_float"] = 100 * (cell[kind]["games"]["mean"] - random) / above
    shown = (f"{kind} {cell[kind]['percent_of_float']:.1f} %" for kind in there)
    print(
        f"{game} {config.student.network} seed {seed}: float {cell['float']['mean']:.2f}, {', '.join(shown)}",
        flush=True,
    )
    return cell


def _of_file(report: dict[str, Any], precision: str) -> dict[str, Any]:
    (entry,) = (entry for entry in report["files"].values() if f".{precision}." in entry["file"])
    return {"games": entry["games"], "bytes": entry["bytes"], "frames": entry["frames"]}


def _learn(options: argparse.Namespace, run: Path, seed: int, out: Path, quantisation: str) -> None:
    if (out / "summary.json").exists():
        return
    # As the student learnt before, but for how long, at which rate, and with which draws.
    _run(
        "distill", "--config", run / "config.yaml", "--out", out, "--resume", "--init-from", run, "--seed", seed + 100,
        "--student.quantisation", quantisation, "--learner.learning-rate", options.learning_rate,
        "--schedule.rounds", options.rounds, "--schedule.updates-per-round", options.updates,
        "--evaluation.episodes", 1, "--evaluation.num-lanes", 1, "--evaluation.max-episode-steps", 100,
    )  # fmt: skip


def _export(options: argparse.Namespace, run: Path, seed: int, out: Path, game: str, precision: str) -> dict[str, Any]:
    if not (out / "export.json").exists():
        # Nothing is refused here: what is lost is what is measured.
        _run(
            "export", "--run", run, "--out", out, "--precision", precision, "--seed", seed,
            "--proof.max-loss", 1.0, "--proof.frames", options.frames,
            "--evaluation.episodes", options.episodes, "--evaluation.num-lanes", options.episodes,
        )  # fmt: skip
    report: dict[str, Any] = json.loads((out / "export.json").read_text())["games"][game]
    return report


def _run(*command: Any) -> None:
    words = [sys.executable, "-m", "pd_jax", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")


def _table(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for game, network in dict.fromkeys((cell["game"], cell["network"]) for cell in cells):
        own = [cell for cell in cells if (cell["game"], cell["network"]) == (game, network)]
        row: dict[str, Any] = {"game": game, "network": network, "seeds": len(own)}
        row["float"] = statistics.mean(cell["float"]["mean"] for cell in own)
        for kind in _KINDS:
            percents = [cell[kind]["percent_of_float"] for cell in own if kind in cell]
            row[kind] = {"mean": statistics.mean(percents), "lowest": min(percents), "highest": max(percents)}
        for kind in _KINDS[:2]:
            row[kind]["equal_actions"] = statistics.mean(cell[kind]["frames"]["share_of_equal_actions"] for cell in own)
            row[kind]["bytes"] = own[0][kind]["bytes"]
        rows.append(row)
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("game", "network", "seeds", "float", *(f"{kind}, % of it" for kind in _KINDS))
    for row in rows:
        percents = [
            f"{row[kind]['mean']:.1f} ({row[kind]['lowest']:.1f} to {row[kind]['highest']:.1f})" for kind in _KINDS
        ]
        table.add_row(row["game"], row["network"], f"{row['seeds']}", f"{row['float']:.2f}", *percents)
    Console().print(table)


if __name__ == "__main__":
    main()
