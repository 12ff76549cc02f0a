"""The cores that this process may use, and shares of them for processes that work side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

# Where Linux says how much processor time a container may take: control groups of version 2, and of version 1.
_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = Path("/sys/fs/cgroup/cpu")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology"
_CACHES = "/sys/devices/system/cpu/cpu{}/cache"
_XLA_THREADS = ("PJRT_NPROC", "NPROC")
"""Environment variables by which XLA's CPU client is told how many threads to have; the first that is set wins."""


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on; hardware threads of one core stand side by side.

    Where the system does not say (macOS), all of them.
    """
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0), key=_place))
    return tuple(range(os.cpu_count() or 1))


def count_cores() -> int:
    """How many cores' worth of time this process may take: the usable ones, or what a container leaves of them."""
    cores = len(usable_cores())
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cache_bytes(level: int) -> int | None:
    """What a core that this process may run on has of its caches of some level for data.

    Of a cache that several cores share it is a part. Of cores that differ the least counts.

    Args:
      level: 1 to 3, such as 2.

    Returns:
      None where the system does not say: on macOS, and in some virtual machines.
    """
    sizes = [size for core in usable_cores() for size in _data_caches(core, level)]
    return min(sizes, default=None)


def _data_caches(core: int, level: int) -> list[int]:
    """Bytes of a core's data caches of a level, each divided by how many cores share it."""
    sizes = []
    for cache in sorted(Path(_CACHES.format(core)).glob("index*")):
        try:
            texts = {name: (cache / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")}
            if int(texts["level"]) != level or texts["type"] == "Instruction":
                continue
            unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(texts["size"][-1:], 1)
            sizes.append(int(texts["size"].rstrip("KMG")) * unit // max(1, _count_listed(texts["shared_cpu_list"])))
        except (OSError, ValueError):
            continue
    return [size for size in sizes if size > 0]


def _count_listed(text: str) -> int:
    """How many cores a list such as ``0-3,8`` names."""
    blocks = [block.partition("-") for block in text.split(",") if block]
    return sum(int(last or first) - int(first) + 1 for first, _, last in blocks)


def share_cores(cores: Sequence[int], shares: int) -> list[tuple[int, ...]]:
    """Deals cores out in neighbouring blocks whose sizes differ by one at most.

    Args:
      cores: in order.
      shares: at least 1, and at most as many as there are cores.
    """
    ends = [len(cores) * index // shares for index in range(shares + 1)]
    return [tuple(cores[low:high]) for low, high in zip(ends, ends[1:], strict=False)]


def describe_cores(cores: Sequence[int]) -> str:
    """Such as ``core 3`` or ``cores 0-3, 8``."""
    blocks: list[list[int]] = []
    for core in sorted(cores):
        if blocks and core == blocks[-1][-1] + 1:
            blocks[-1].append(core)
        else:
            blocks.append([core])
    texts = [str(block[0]) if len(block) == 1 else f"{block[0]}-{block[-1]}" for block in blocks]
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(texts)}"


def stay_on(cores: Sequence[int]) -> None:
    """Keeps this process, with all threads that it will start, on some cores, where the system knows how."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def is_confined() -> bool:
    """Whether this process may run on fewer cores than the machine has."""
    return len(usable_cores()) < (os.cpu_count() or 1)


def xla_threads(environment: Mapping[str, str] | None = None) -> int:
    """How many threads XLA's CPU client has, or will have, in a process like this one.

    XLA takes large sums in as many parts, so the bits of a result depend on this number; on which cores the threads run
    they do not depend. Measured with JAX 0.10.2: students trained on 1 core with 2 and 8 threads are those of 2 cores
    with as many, bit for bit, and those of 1, 2 and 8 threads differ.
    """
    environment = os.environ if environment is None else environment
    told = next((environment[name] for name in _XLA_THREADS if environment.get(name)), "")
    return int(told) if told.isdecimal() and int(told) > 0 else len(usable_cores())


def keep_xla_threads(environment: MutableMapping[str, str], threads: int) -> None:
    """Has XLA's CPU client in a process with this environment use so many threads, whatever cores it may run on."""
    environment[_XLA_THREADS[0]] = str(threads)


def _place(core: int) -> tuple[int, int, int]:
    """Package, core in it, and number of the hardware thread."""
    place = []
    for name in ("physical_package_id", "core_id"):
        try:
            place.append(int((Path(_TOPOLOGY.format(core)) / name).read_text()))
        except (OSError, ValueError):
            place.append(core)
    return place[0], place[1], core


def _quota() -> float | None:
    """Cores' worth of time that a control group allows; None without a limit."""
    for texts in (lambda: _CGROUP_2.read_text().split(), _quota_1):
        try:
            quota, period = texts()
            # Without a limit it is "max", or negative.
            if float(quota) > 0 and float(period) > 0:
                return float(quota) / float(period)
        except (OSError, ValueError):
            continue
    return None


def _quota_1() -> list[str]:
    return [(_CGROUP_1 / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
