"""A sweep by one process against the same sweep by several, each on its share of the cores.

    python -m benchmarks.studies.sweep_jobs

The sweep is ``configs/quick/compression.yaml`` from one recording, with fewer updates and games. Both ways take turns,
as runs of ``pd-jax sweep`` that anyone would start, with compiled programs at hand: a first turn, which compiles, is
not counted. ``wall`` is from the start of the command to its end. ``busy cores`` is the processor time of the command
and its workers over the wall time: where one job keeps all cores busy, several have nothing to win but what cores lose
on one another. ``scores are the same`` compares the tables, ``students are the same`` all arrays of the last
checkpoints, bit for bit. A machine with other work to do makes the ratios of wall times worth what their spread says;
those of processor times suffer less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.system.cores import usable_cores


class Timed(NamedTuple):
    """One run of the command: its wall time, its processor time, and what it left."""

    wall: float
    cpu: float
    table: bytes
    students: str


def main() -> None:
    """Prints the table and writes ``benchmarks/results/sweep_jobs.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=len(usable_cores()))
    parser.add_argument("--networks", nargs="+", default=["net1", "net2", "net3"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=16_384, help="of the recording")
    parser.add_argument("--updates", type=int, default=2_000, help="of a cell")
    parser.add_argument("--episodes", type=int, default=4, help="of a score")
    parser.add_argument("--episode-steps", type=int, default=1_000, help="after which a game is cut")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    parser.add_argument("--name", default="sweep_jobs", help="of the result file")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.seeds, options.steps, options.updates = ["net3"], [0, 1], 1_024, 50
        options.episodes, options.episode_steps, options.turns, options.name = 1, 50, 1, "sweep_jobs_quick"
    with tempfile.TemporaryDirectory() as directory:
        turns = _measure(options, Path(directory))
    results = {"settings": {key: value for key, value in vars(options).items() if key != "name"}, **_summarise(turns)}
    table = Table("", "wall, seconds", "busy cores", "wall against one job (lowest to highest)", "processor time")
    ratio, cpu = results["wall_over_one_job"], results["cpu_over_one_job"]
    for name in results["wall_seconds"]:
        spread = "" if name == "1 job" else f"{ratio['median']:.3f} ({ratio['lowest']:.3f} to {ratio['highest']:.3f})"
        wall, busy = results["wall_seconds"][name]["median"], results["busy_cores"][name]["median"]
        table.add_row(name, f"{wall:.1f}", f"{busy:.2f}", spread, "" if name == "1 job" else f"{cpu['median']:.3f}")
    Console().print(table)
    print(f"scores are the same: {results['same_scores']}; students are the same: {results['same_students']}")
    print(record.write(options.name, results))


def _measure(options: argparse.Namespace, directory: Path) -> list[dict[str, Timed]]:
    environment = {**os.environ, "PD_JAX_COMPILATION_CACHE": str(directory / "compiled")}
    data = directory / "data"
    collect = ["collect", "--teacher", "pong", "--out", data, "--steps", options.steps, "--env.num-lanes", 16]
    _run(collect, environment)
    turns: list[dict[str, Timed]] = []
    for turn in range(options.turns + 1):
        timed = {}
        for jobs in (1, options.jobs):
            timed[f"{jobs} job{'s' * (jobs > 1)}"] = _sweep(
                options, jobs, data, directory / f"{turn}-{jobs}", environment
            )
        print("  ".join(f"{name} {value.wall:.1f} s" for name, value in timed.items()), flush=True)
        turns.append(timed)
    return turns[1:]


def _sweep(options: argparse.Namespace, jobs: int, data: Path, out: Path, environment: dict[str, str]) -> Timed:
    command = [
        "sweep", "--config", "quick/compression", "--out", out, "--jobs", jobs, "--data", data, "--record", "null",
        "--grid.networks", *options.networks, "--grid.seeds", *options.seeds, "--replay.capacity", options.steps,
        "--schedule.steps-per-round", options.steps, "--schedule.updates-per-round", options.updates,
        "--evaluation.episodes", options.episodes, "--evaluation.num-lanes", options.episodes,
        "--evaluation.max-episode-steps", options.episode_steps,
    ]  # fmt: skip
    started, before = time.monotonic(), os.times()
    _run(command, environment)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    wall = time.monotonic() - started
    digest = hashlib.sha256()
    for path in sorted(path for path in out.glob("cells/*/checkpoints/*/metadata/metadata") if path.is_file()):
        # The digest of each array stands there.
        digest.update(json.dumps(json.loads(path.read_text())["leaves"], sort_keys=True).encode())
    return Timed(wall, cpu, (out / "table.json").read_bytes(), digest.hexdigest())


def _run(command: list[Any], environment: dict[str, str]) -> None:
    words = [sys.executable, "-m", "pd_jax", *map(str, command)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")


def _summarise(turns: list[dict[str, Timed]]) -> dict[str, Any]:
    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}

    one, several = turns[0]
    everything = [timed for turn in turns for timed in turn.values()]
    return {
        "load_average": os.getloadavg(),
        "usable_cores": len(usable_cores()),
        "wall_seconds": {name: spread([turn[name].wall for turn in turns]) for name in turns[0]},
        "busy_cores": {name: spread([turn[name].cpu / turn[name].wall for turn in turns]) for name in turns[0]},
        "cpu_seconds": {name: spread([turn[name].cpu for turn in turns]) for name in turns[0]},
        "wall_over_one_job": spread([turn[several].wall / turn[one].wall for turn in turns]),
        "cpu_over_one_job": spread([turn[several].cpu / turn[one].cpu for turn in turns]),
        "same_scores": len({timed.table for timed in everything}) == 1,
        "same_students": len({timed.students for timed in everything}) == 1,
    }


if __name__ == "__main__":
    main()
