"""Where a measurement was taken, and writing it down."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parents[1] / "results"
MACHINE_KEYS = ("processor", "cores", "devices")
"""What tells one machine from another in :func:`machine`."""
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "envpool", "orbax-checkpoint", "numpy")
_OPTIONAL_PACKAGES = ("torch",)


def machine() -> dict[str, Any]:
    """Processor, cores, devices, versions and git revision."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.local_devices()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES} | _optional_versions(),
        "revision": revision(),
    }


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
    """Writes ``results/NAME.json`` and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    return path
