"""The live loop against what its parts allow: play alone, updates alone, and both with and without overlap.

    python -m benchmarks.studies.overlap

On a CPU play and updates share the cores, and a round can be as fast as the sum of both alone; on an accelerator, as
fast as the slower of them. ``bound / live`` is 1 where a loop loses nothing. The live loops are runs of ``pd-jax
distill`` as anyone would start it, but without checkpoints, timed by the ``wall_seconds`` of their metrics; the first
round, which compiles, and the last, after which there is nothing left to play, are left out. All four take turns,
so that a machine whose speed drifts does not favour one. ``cpu`` is the processor time of this process over the wall
time: where it is well below the number of cores, others were at work and ratios are worth what their spread says.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.stages.live import Timed, bound_name, live_config, live_round, parts, round_bound, time_rounds
from pd_jax.config.distill import DistillConfig
from pd_jax.distill.setup import make_setup


def main() -> None:
    """Prints the table and writes ``benchmarks/results/overlap.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="pong")
    parser.add_argument("--network", default="net2")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--stepping", choices=["jit", "host"], default="jit")
    parser.add_argument("--steps", type=int, default=2_048, help="control steps of a round")
    parser.add_argument("--updates", type=int, default=900, help="updates of a round")
    parser.add_argument("--rounds", type=int, default=2, help="that are timed in every turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    parser.add_argument("--name", default="overlap", help="of the result file")
    options = parser.parse_args()
    if options.quick:
        options.teacher, options.network, options.turns, options.name = "cartpole", "mlp", 2, "overlap_quick"
        options.updates = 200
    with tempfile.TemporaryDirectory() as directory:
        turns = _measure(options, Path(directory))
    results = {"settings": {key: value for key, value in vars(options).items() if key != "name"}, **_summarise(turns)}
    table = Table("", "seconds a round", "bound / live (lowest to highest)")
    for name, seconds in results["seconds_per_round"].items():
        ratio = results["bound_over_live"].get(name)
        spread = f"{ratio['median']:.3f} ({ratio['lowest']:.3f} to {ratio['highest']:.3f})" if ratio else ""
        table.add_row(name, f"{seconds['median']:.2f}", spread)
    Console().print(table)
    print(record.write(options.name, results))


def _measure(options: argparse.Namespace, directory: Path) -> list[dict[str, Timed]]:
    with parts(make_setup(_config(options, directory / "alone", False))) as (play, updates):
        play()
        updates()
        turns = []
        for turn in range(options.turns):
            timed = {
                "play alone": time_rounds(play, options.rounds),
                "updates alone": time_rounds(updates, options.rounds),
            }
            for name, overlap in (("live, by turns", False), ("live, overlapped", True)):
                out = directory / f"{turn}-{overlap}"
                timed[name] = live_round(_config(options, out, overlap))
            print("  ".join(f"{name} {value.seconds:.2f} s" for name, value in timed.items()), flush=True)
            turns.append(timed)
    return turns


def _config(options: argparse.Namespace, out: Path, overlap: bool) -> DistillConfig:
    return live_config(
        options.teacher,
        options.network,
        out,
        steps=options.steps,
        updates=options.updates,
        rounds=options.rounds,
        lanes=options.lanes,
        stepping=options.stepping,
        overlap=overlap,
    )


def _summarise(turns: list[dict[str, Timed]]) -> dict[str, Any]:
    live = [name for name in turns[0] if name.startswith("live")]

    def bound(turn: dict[str, Timed]) -> float:
        return round_bound(turn["play alone"].seconds, turn["updates alone"].seconds)

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}

    return {
        "bound": bound_name(),
        "load_average": os.getloadavg(),
        "seconds_per_round": {name: spread([turn[name].seconds for turn in turns]) for name in turns[0]},
        "cpu": {name: spread([turn[name].cpu_seconds / turn[name].seconds for turn in turns]) for name in turns[0]},
        "bound_over_live": {name: spread([bound(turn) / turn[name].seconds for turn in turns]) for name in live},
    }


if __name__ == "__main__":
    main()
