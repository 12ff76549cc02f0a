"""Where a measurement was taken, and writing it down."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pd_jax.system.files import to_json, write_atomically

RESULTS = Path(__file__).parents[1] / "results"
MACHINE_KEYS = ("processor", "cores", "devices")
"""What tells one machine from another in :func:`machine`, beside its rates."""
RATE_TOLERANCE = 1.4
"""By so much rates of one machine may differ. Beside three busy processes on two cores they differ by 1.2."""
_RATE_SECONDS = 0.2
_FEWEST_TRIES = 20
_MATRIX_SIZE = 192
_COPIED_BYTES = 2**25
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "envpool", "orbax-checkpoint", "numpy")
_OPTIONAL_PACKAGES = ("torch",)


def machine() -> dict[str, Any]:
    """Processor, cores, devices, measured rates, versions and git revision."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.local_devices()],
        "rates": dict(rates()),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES} | _optional_versions(),
        "revision": revision(),
    }


@functools.cache
def rates() -> Mapping[str, float]:
    """What this machine does a second: ``flops`` on all cores together, ``bytes`` that a core reads and writes.

    Machines of one processor and as many cores differ by a factor of two. By NumPy, whatever devices JAX has, and
    without BLAS, whose threads wait for one another. In processor time, which other work hardly changes: with all cores
    busy of their own accord it does not matter whether they would be otherwise. Measured once in a process, in 0.4 s.
    """
    matrix = np.random.default_rng(0).normal(size=(_MATRIX_SIZE, _MATRIX_SIZE)).astype(np.float32)
    array = np.ones(_COPIED_BYTES, np.uint8)
    copy = np.empty_like(array)
    cores = os.cpu_count() or 1
    products: list[float] = []

    def multiply() -> None:
        product = np.empty_like(matrix)
        products.extend(_seconds_of_tries(lambda: np.einsum("ij,jk->ik", matrix, matrix, out=product)))

    threads = [threading.Thread(target=multiply) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "flops": cores * 2.0 * _MATRIX_SIZE**3 / statistics.median(products),
        "bytes": 2.0 * _COPIED_BYTES / min(_seconds_of_tries(lambda: np.copyto(copy, array))),
    }


def _seconds_of_tries(work: Callable[[], object]) -> list[float]:
    """Of processor time each."""
    seconds: list[float] = []
    until = time.perf_counter() + _RATE_SECONDS
    while len(seconds) < _FEWEST_TRIES or time.perf_counter() < until:
        started = time.thread_time()
        work()
        seconds.append(time.thread_time() - started)
    return seconds


class Difference(NamedTuple):
    """Of two machines: by what they differ, and how it is there and here, in words."""

    name: str
    there: str
    here: str


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> Difference | None:
    """What tells two machines apart, if they are two.

    Args:
      there, here: as of :func:`machine`. Of a machine without rates nobody knows which one it was.

    Returns:
      the first thing by which they differ; None for the same machine.

    Raises:
      KeyError, TypeError, AttributeError, ValueError: one of them is no such description.
    """
    for key in MACHINE_KEYS:
        if there[key] != here[key]:
            return Difference(key, str(there[key]), str(here[key]))
    for name, own in here["rates"].items():
        unit = {"flops": "GFLOP/s", "bytes": "GB/s"}.get(name, name)
        if "rates" not in there:
            return Difference("measured rate", "none", f"{own / 1e9:.0f} {unit}")
        other = float(there["rates"][name])
        if not 1 / RATE_TOLERANCE <= other / own <= RATE_TOLERANCE:
            return Difference("measured rate", f"{other / 1e9:.0f} {unit}", f"{own / 1e9:.0f} {unit}")
    return None


def revision() -> str | None:
    """The short git revision, with a ``+`` where tracked files differ from it; None outside of a repository."""

    def git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *command], capture_output=True, text=True, cwd=RESULTS.parent, check=False)

    name = git("rev-parse", "--short", "HEAD").stdout.strip()
    # Results that are written in the meantime are no change of what is measured.
    changed = git("diff", "--quiet", "HEAD", "--", ":/", f":(exclude,top)benchmarks/{RESULTS.name}").returncode == 1
    return name + "+" * changed if name else None


def _optional_versions() -> dict[str, str]:
    versions = {}
    for name in _OPTIONAL_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def write(name: str, results: Any) -> Path:
    """Writes ``results/NAME.json``, with null for what is not a number, and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_atomically(path, json.dumps(to_json({"machine": machine(), "results": results}), indent=2) + "\n")
    return path
