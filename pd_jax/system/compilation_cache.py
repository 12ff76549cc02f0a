"""JAX's persistent compilation cache, on by default: the second run of a command starts without compiling."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from pd_jax.errors import UserError

VARIABLE = "PD_JAX_COMPILATION_CACHE"
"""Environment variable: a directory, or ``off``."""
_JAX_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
# A program of 0.1 s is worth reading back, smaller ones are not. On CUDA EnvPool's in-jit step has an address in it, so
# that it is new in every process: without a bound the cache would grow with every run.
_JAX_DEFAULTS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
}


JAX_VARIABLES = (_JAX_DIRECTORY, *_JAX_DEFAULTS)
"""JAX's own, which win if they are set."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where compiled programs are to be kept.

    Attributes:
      directory: None if nowhere.
      is_ours: whether JAX has to be told; it may have been by the user.
      is_wanted: whether the user named it.
    """

    directory: Path | None
    is_ours: bool
    is_wanted: bool


def place(environment: Mapping[str, str]) -> Place:
    """Where an environment has them kept; nothing is made."""
    wanted = environment.get(VARIABLE, "")
    if wanted.lower() in ("off", "0", "false", "no", "none"):
        return Place(None, is_ours=False, is_wanted=True)
    if _JAX_DIRECTORY in environment:
        theirs = environment[_JAX_DIRECTORY]
        return Place(Path(theirs) if theirs else None, is_ours=False, is_wanted=True)
    directory = Path(wanted).expanduser() if wanted else _default_directory(environment) / _machine()
    return Place(directory, is_ours=True, is_wanted=bool(wanted))


def turn_on(environment: MutableMapping[str, str] | None = None) -> Path | None:
    """Has JAX keep compiled programs in a directory of the user's, unless it was told where to keep them.

    Where the default directory cannot be written, nothing is kept.

    To be called before JAX is imported: it is told through ``JAX_VARIABLES``.

    Args:
      environment: ``os.environ`` by default.

    Returns:
      the directory, or None if JAX was left as it is.

    Raises:
      UserError: the directory that the user wants cannot be written.
    """
    environment = os.environ if environment is None else environment
    found = place(environment)
    directory = found.directory
    if directory is None or not found.is_ours or "jax" in sys.modules:
        return None
    if not _can_write(directory):
        if found.is_wanted:
            raise UserError(f"{VARIABLE}: {directory} is no directory that can be written; off does without")
        return None
    environment[_JAX_DIRECTORY] = os.fspath(directory)
    for name, value in _JAX_DEFAULTS.items():
        environment.setdefault(name, value)
    return directory


def _default_directory(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "pd_jax" / "compiled"


def _machine() -> str:
    """A name for what programs are compiled for: on a home directory that machines share, CPUs differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        described = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        described = ""
    text = f"{platform.machine()} {platform.processor()} {described}"
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _can_write(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(directory, os.W_OK | os.X_OK)
