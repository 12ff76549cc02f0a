"""From the command to the first updates, in processes of their own: with an empty compilation cache, and a full one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness.measure import seconds_of
from benchmarks.harness.rows import Row, make_row
from benchmarks.stages.context import Context
from pd_jax.system import compilation_cache

_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 600.0


def run(context: Context) -> list[Row]:
    """Imports alone, then a run with a fresh cache and the same run again, by turns."""
    config = context.size.start_up_config
    seconds: dict[str, list[float]] = {"imports": [], "empty": [], "filled": []}
    for _ in range(min(context.turns, context.size.start_up_turns)):
        with tempfile.TemporaryDirectory() as directory:
            seconds["imports"].append(seconds_of(_import))
            for cache in ("empty", "filled"):
                seconds[cache].append(
                    seconds_to_first_updates(config, Path(directory) / cache, Path(directory) / "cache")
                )
    rows = [make_row("startup", {"until": "imports are done"}, "s", seconds["imports"])]
    for cache in ("empty", "filled"):
        setting = {"until": "first updates", "run": config.removesuffix(".yaml"), "cache": f"{cache} compilation cache"}
        rows.append(make_row("startup", setting, "s", seconds[cache], note="the run as it ships"))
    return rows


def _import() -> None:
    subprocess.run([sys.executable, "-c", "import pd_jax.distill.session"], cwd=_ROOT, check=True)


def seconds_to_first_updates(config: str, out: Path, cache: Path) -> float:
    """Wall seconds from the start of ``pd-jax distill`` until the metrics of its first call of updates are written.

    The run is ended there.

    Args:
      config: a file in ``configs/``.
      out: the run's directory.
      cache: directory of the compilation cache.

    Raises:
      RuntimeError: the run ended by itself before, or it took longer than ten minutes.
    """
    # What a user has told JAX would win over the package's own default, which is what is measured.
    environment = {name: value for name, value in os.environ.items() if name not in compilation_cache.JAX_VARIABLES}
    environment[compilation_cache.VARIABLE] = str(cache)
    command = [sys.executable, "-m", "pd_jax", "distill", "--config", str(_ROOT / "configs" / config)]
    command += ["--out", str(out)]
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=_ROOT, stdout=said, stderr=said)
        try:
            while not _has_updated(out / "metrics.jsonl"):
                time.sleep(_POLL_SECONDS)
                if process.poll() is not None or time.perf_counter() - started > _PATIENCE_SECONDS:
                    said.seek(0)
                    raise RuntimeError(f"{' '.join(command)}: no updates; it said: {said.read()[-2000:]}")
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def _has_updated(metrics: Path) -> bool:
    """Whether there is a line, which may still be in the writing, about an update."""
    if not metrics.exists():
        return False
    lines = metrics.read_text().split("\n")[:-1]
    return any("loss" in json.loads(line) for line in lines)
