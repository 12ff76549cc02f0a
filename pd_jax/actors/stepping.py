"""Where EnvPool is stepped: inside jit where its step exists for the device that plays, from the host elsewhere.

The step inside jit is a call of EnvPool's own that XLA knows for CPUs and for CUDA. With some versions the latter ends
the process when it runs: an abort, which nothing can catch. So it is tried in a process of its own first.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypedDict

import jax

from pd_jax.errors import UserError
from pd_jax.system.devices import target_platform
from pd_jax.system.files import write_atomically
from pd_jax.system.progress import print_warning

Stepping = Literal["auto", "jit", "host"]

GROUPS = 4
"""That lanes are stepped in from the host beside an accelerator: two are with EnvPool while the device decides for two.

With two groups in all each would wait for the other's way there and back.
"""
_PROBE_SECONDS = 120.0
_PROBE = """
import jax
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task

environment = Environment(get_task("cartpole"), 2, 0)
handle, timestep = environment.reset()
step = jax.jit(lambda handle, timestep: environment.step(handle, jax.numpy.zeros(2, int), timestep))
for _ in range(3):
    handle, timestep = jax.block_until_ready(step(handle, timestep))
assert (timestep.rewards == 1.0).all()
"""


class SteppingOptions(TypedDict):
    """Keyword arguments of `pd_jax.environments.envpool.Environment`."""

    stepping: Literal["jit", "host"]
    num_groups: int


def stepping_options(
    wanted: Stepping, platform: str | None = None, backend: Literal["envpool", "ale"] = "envpool"
) -> SteppingOptions:
    """How an environment is to be stepped.

    Args:
      wanted: the setting ``env.stepping``.
      platform: of the device that plays: ``cpu``, ``gpu`` or ``tpu``; the default device's if None.
      backend: the setting ``env.backend``: ale-py is stepped from the host.

    Raises:
      UserError: it is to be stepped inside jit, and there is no such step for the platform or the backend.
    """
    platform = platform or target_platform()
    if wanted == "jit" and platform not in ("cpu", "gpu"):
        raise UserError(
            f"env.stepping: EnvPool's step inside jit exists for CPUs and CUDA, not for a {platform}; auto steps from "
            "the host there"
        )
    if wanted == "jit" and backend == "ale":
        raise UserError("env.stepping: 'jit', and env.backend is 'ale', which is stepped from the host; leave one out")
    if wanted == "jit" or (wanted == "auto" and backend == "envpool" and steps_in_jit(platform)):
        return SteppingOptions(stepping="jit", num_groups=1)
    # A CPU that decides has no time left for the other group.
    return SteppingOptions(stepping="host", num_groups=1 if platform == "cpu" else GROUPS)


def steps_in_jit(platform: str) -> bool:
    """Whether EnvPool can be stepped inside jit on a platform; says so in one line where it ought to and does not."""
    if platform == "cpu":
        return True
    return platform == "gpu" and _works_on_gpu()


@functools.cache
def _works_on_gpu() -> bool:
    """What a probe found, now or when this GPU and these versions were first met."""
    versions = (metadata.version(name) for name in ("envpool", "jaxlib"))
    key = " ".join((jax.devices("gpu")[0].device_kind, *versions))
    path = _notes_path()
    notes = _read_notes(path)
    if key not in notes:
        notes[key] = probe_in_jit()
        if path is not None:
            # Not to know it next time costs some seconds, no more.
            with contextlib.suppress(OSError):
                write_atomically(path, json.dumps(notes))
    if fault := notes[key]:
        print_warning(f"EnvPool's step inside jit fails on this GPU ({fault}); it is stepped from the host")
    return not fault


def probe_in_jit() -> str:
    """Steps an environment inside jit, on the default device of a process of its own.

    Returns:
      what went wrong, in a few words; "" if nothing did.
    """
    # Beside this process, which may hold most of the GPU's memory.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONSAFEPATH": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS:.0f} s"
    except OSError as error:
        return f"no process for a trial: {error.strerror}"
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1][:200] if lines else f"exit code {done.returncode}")


def _notes_path() -> Path | None:
    """Beside the compiled programs, which are this machine's own as well."""
    config: Any = jax.config
    directory = config.jax_compilation_cache_dir
    return None if not directory or "://" in directory else Path(directory) / "envpool_in_jit.json"


def _read_notes(path: Path | None) -> dict[str, str]:
    try:
        notes = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    is_sound = isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())
    return notes if is_sound else {}
