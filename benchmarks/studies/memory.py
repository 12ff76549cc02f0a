"""What the main job takes of memory, stage by stage, by two revisions of this package.

    git worktree add /tmp/before REVISION
    python -m benchmarks.studies.memory --before /tmp/before

Runs of ``pd-jax distill --config configs/pong.yaml`` take turns, each by its own file unless ``--config`` gives one for
both, and shortened: as much play and as large a replay, but few updates, and short games at the end. What they take
(``VmRSS``: memory of their own, and mapped files) is read from ``/proc`` twenty times a second, until each of these is
seen: the estimate of memory (all is imported), the first line of metrics (all is compiled), the end of the updates, and
of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import record

ROOT = Path(__file__).parents[2]
STAGES = ("imports and teacher", "compiling and first updates", "play and updates", "evaluation and report")


def main() -> None:
    """Prints the peaks and writes ``benchmarks/results/memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another revision")
    parser.add_argument("--config", type=Path, help="for both")
    parser.add_argument("--updates", type=int, default=50, help="of a round, a multiple of the 50 of a call")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--name", default="memory", help="of the result file")
    options = parser.parse_args()
    trees = ({"before": options.before} if options.before else {}) | {"now": ROOT}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for turn in range(options.turns):
        for name, tree in trees.items():
            turns[name].append(_measure(tree, options))
            print(turn, name, turns[name][-1], flush=True)
    peaks = {name: statistics.median(run["peak_mib"] for run in runs) for name, runs in turns.items()}
    results: dict[str, Any] = {
        "settings": {"updates": options.updates, "turns": options.turns},
        "runs": turns,
        "peak_mib": peaks,
    }
    if options.before:
        revision = subprocess.run(
            ["git", "-C", options.before, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        results |= {"before": revision.stdout.strip(), "now_over_before": peaks["now"] / peaks["before"]}
        if options.config:
            results["same_metrics"] = all(
                one["metrics"] == other["metrics"] for one, other in zip(turns["before"], turns["now"], strict=True)
            )
    for run in (run for runs in turns.values() for run in runs):
        del run["metrics"]
    print(json.dumps({key: value for key, value in results.items() if key != "runs"}, indent=2))
    print(record.write(options.name, results))


def _measure(tree: Path, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        config = (options.config or tree / "configs" / "pong.yaml").resolve()
        calls = yaml.safe_load(config.read_text())["schedule"]["rounds"] * options.updates // 50
        command = [
            *(sys.executable, "-m", "pd_jax", "distill", "--config", str(config), "--out", str(out)),
            *("--schedule.updates-per-round", str(options.updates), "--checkpoint.every-updates", "500"),
            *("--evaluation.max-episode-steps", "200"),
        ]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        listener.start()
        stage, peak, most, resident = 0, 0.0, [0.0] * len(STAGES), {"own": 0.0, "files": 0.0}
        last_of = [dict(resident) for _ in STAGES]
        while process.poll() is None:
            sizes = _sizes(process.pid)
            if sizes:
                total = sizes["RssAnon"] + sizes["RssFile"]
                peak = max(peak, sizes["VmHWM"])
                most[stage] = max(most[stage], total)
                last_of[stage] = {"own": sizes["RssAnon"], "files": sizes["RssFile"]}
                stage = max(stage, _stage(out, said, calls))
            time.sleep(0.05)
        listener.join()
        if process.returncode:
            raise SystemExit("".join(said))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return {
            "peak_mib": peak,
            "most_mib": dict(zip(STAGES, most, strict=True)),
            "at_the_end_of_mib": dict(zip(STAGES, last_of, strict=True)),
            # Of live play that is the same, bit for bit, so is all that is learnt from it.
            "metrics": [[line[key] for key in ("step", "loss", "agreement", "grad_norm")] for line in lines],
        }


def _sizes(pid: int) -> dict[str, float]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = {name: int(size) / 1024 for name, size in re.findall(r"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB", text, re.M)}
    return found if len(found) == 3 else {}


def _stage(out: Path, said: list[str], calls: int) -> int:
    metrics = out / "metrics.jsonl"
    written = metrics.read_text().count("\n") if metrics.exists() else 0
    if written >= calls:
        return 3
    return 2 if written else int(any(line.startswith("memory:") for line in said))


if __name__ == "__main__":
    main()
