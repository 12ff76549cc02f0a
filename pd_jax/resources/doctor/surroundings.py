"""What is around the program: Python, cores, memory, disk, the compilation cache, variables. Nothing is imported."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pd_jax.resources.doctor.findings import Finding, Status
from pd_jax.system import compilation_cache
from pd_jax.system.cores import count_cores, describe_cores, is_confined, usable_cores, xla_threads
from pd_jax.system.host_memory import container_limits, physical_bytes

_GIB = 2**30
# The Pong run takes 1.0 GiB with all libraries (benchmarks/results/memory.json).
_MAIN_JOB_BYTES = _GIB
_EASY_BYTES = 2 * _GIB
# A run of Pong leaves 3 MB, three checkpoints of the largest student 60 MB, and its compiled programs 100 MB.
_FREE_BYTES = _GIB
_LEAST_PYTHON = (3, 11)
_TOLD = re.compile(
    r"(JAX|XLA|PD_JAX|LIBTPU|TPU|PJRT|NCCL)_\w+|NPROC|OMP_NUM_THREADS|(CUDA|NVIDIA)_VISIBLE_DEVICES|LD_PRELOAD|PYTHONPATH"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)


def check_python() -> Finding:
    """Its version and the system."""
    says = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    facts = {"version": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    if sys.version_info < _LEAST_PYTHON:
        return Finding("python", "broken", says, "use Python 3.11 or newer", facts)
    if platform.system() != "Linux":
        return Finding("python", "broken", says, "EnvPool is for Linux: use a container, or WSL on Windows", facts)
    return Finding("python", "ok", says, facts=facts)


def check_cores(environment: Mapping[str, str]) -> Finding:
    """How many, and whether XLA has the two threads that some games of exported files need."""
    cores, share, threads = usable_cores(), count_cores(), xla_threads(environment)
    says = f"{describe_cores(cores)} of {os.cpu_count()}" if is_confined() else f"{len(cores)}"
    if share < len(cores):
        says += f", {share} cores' worth of time by the container's limit"
    facts = {"usable": len(cores), "machine": os.cpu_count(), "share": share, "xla_threads": threads}
    if threads < 2:
        return Finding(
            "cores",
            "warning",
            f"{says}; XLA has one thread, and games that exported files play need two",
            "for pd-jax export: PJRT_NPROC=2 in the environment",
            facts,
        )
    return Finding("cores", "ok", says, facts=facts)


def check_memory() -> Finding:
    """The machine's, what a container leaves of it, and what is free."""
    physical, limits = physical_bytes(), list(container_limits())
    limit, free = min([physical, *limits]), _available_bytes()
    says = f"{limit / _GIB:,.1f} GiB"
    says += f" by the container's limit, of {physical / _GIB:,.1f}" * (limit < physical)
    says += "" if free is None else f"; {free / _GIB:,.1f} GiB free on the machine"
    facts = {"physical_bytes": physical, "limit_bytes": limit, "available_bytes": free}
    remedy = "use a larger machine or container, or take CartPole: pd-jax distill --config cartpole"
    if limit < _MAIN_JOB_BYTES:
        return Finding("memory", "broken", f"{says}; Pong takes 1 GiB", remedy, facts)
    if limit < _EASY_BYTES or (free is not None and free < _MAIN_JOB_BYTES):
        remedy = "end other programs, or lower --replay.capacity and --learner.batch-size"
        return Finding("memory", "warning", f"{says}; Pong takes 1 GiB, larger runs more", remedy, facts)
    return Finding("memory", "ok", says, facts=facts)


def _available_bytes() -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def check_cache(environment: Mapping[str, str]) -> Finding:
    """Where compiled programs are kept, and how large that is."""
    place = compilation_cache.place(environment)
    if place.directory is None:
        return Finding("cache", "note", "off: each run compiles its programs anew", facts={"directory": None})
    size = sum(_size(path) for path in place.directory.rglob("*")) if place.directory.is_dir() else 0
    says = f"{place.directory}, {size / 2**20:,.0f} MiB"
    facts = {"directory": str(place.directory), "bytes": size}
    if not _can_make(place.directory):
        status: Status = "broken" if place.is_wanted else "warning"
        remedy = f"{compilation_cache.VARIABLE}=DIR names another directory, and off does without"
        says = f"{place.directory} cannot be written: each run compiles its programs anew"
        return Finding("cache", status, says, remedy, facts)
    return Finding("cache", "ok", says, facts=facts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def check_out(out: str) -> Finding:
    """Whether runs can be written there, and how much space there is. What is not there is not made."""
    path = Path(out).expanduser().absolute()
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    remedy = "name another directory with --out"
    if not there.is_dir():
        return Finding("out", "broken", f"{out}: {there} is a file", remedy, {"directory": str(path)})
    try:
        # Asked of the system itself: permissions say nothing of a file system that is mounted for reading.
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        says = f"{out}: {there} cannot be written: {error.strerror}"
        return Finding("out", "broken", says, remedy, {"directory": str(path)})
    says = f"{out} can be written, {free / _GIB:,.1f} GiB are free"
    facts = {"directory": str(path), "free_bytes": free}
    if free < _FREE_BYTES:
        return Finding("out", "warning", says, "make space: runs leave checkpoints, recordings gigabytes", facts)
    return Finding("out", "ok", says, facts=facts)


def _can_make(directory: Path) -> bool:
    """Whether there is such a directory that can be written, or can be one."""
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def check_variables(environment: Mapping[str, str]) -> Finding:
    """Those that change how JAX and XLA work."""
    told = {name: value for name, value in sorted(environment.items()) if _TOLD.fullmatch(name) and value}
    told = {name: "..." if _SECRET.search(name) else value for name, value in told.items()}
    if not told:
        return Finding("variables", "ok", "none that changes how JAX works", facts={})
    says = ", ".join(f"{name}={value}" for name, value in told.items())
    wrong, remedy = _wrong_with(told)
    if wrong:
        return Finding("variables", "warning", f"{says}: {wrong}", remedy, told)
    return Finding("variables", "note", says, facts=told)


def _wrong_with(variables: Mapping[str, str]) -> tuple[str, str]:
    flags = variables.get("XLA_FLAGS", "")
    if variables.get("JAX_DISABLE_JIT", "0").lower() not in ("0", "false", "off", "no"):
        return "nothing is compiled, and all is many times slower", "unset JAX_DISABLE_JIT"
    if re.search(r"--xla_backend_optimization_level=[01]\b|--xla_llvm_disable_expensive_passes=true", flags):
        return "XLA compiles programs that are slow", "unset XLA_FLAGS"
    match = re.search(r"--xla_force_host_platform_device_count=(\d+)", flags)
    if match and int(match[1]) > 1:
        return f"one CPU is taken for {match[1]} devices", "unset XLA_FLAGS, if this is no test of several devices"
    return "", ""
