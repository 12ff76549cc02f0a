"""Where a measurement was taken, and writing it down."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("jax", "flax", "optax", "envpool", "orbax-checkpoint", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, devices, versions and git revision."""
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.local_devices()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "revision": revision.stdout.strip() or None,
    }


def write(name: str, results: Any) -> Path:
    """Writes ``results/NAME.json`` and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    return path
