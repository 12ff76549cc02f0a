"""What the allocator of the host's memory keeps, and how it is given back.

A run's programs are compiled in its first seconds, by threads that ask for hundreds of megabytes and free them. Without
a word glibc keeps those while the replay fills: the peak of a run is then the sum of both. (Fewer arenas, or blocks of
a megabyte mapped apart, would keep 40 MB less, but updates were 3 to 15 % slower with either.) Everything here is
advice about pages that nothing is in, and changes no bit of what is computed.

It is for Linux and glibc; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much a container may take: control groups of version 2, and of version 1."""
_DONT_NEED = 4
# Of JAX's events: a program was compiled, or was taken from the compilation cache.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_has_compiled = threading.Event()


def physical_bytes() -> int:
    """This machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def container_limits(paths: Sequence[str] = CGROUP_LIMITS) -> Iterable[int]:
    """What a container may take of it, by each of the files that say so."""
    for path in map(Path, paths):
        try:
            # Without a limit it is "max", or a number beyond any machine.
            yield int(path.read_text())
        except (OSError, ValueError):
            continue


def release_freed() -> None:
    """Gives the operating system what was freed; takes a few milliseconds, in which others wait to allocate."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def release_compiled() -> None:
    """As :func:`release_freed`, if JAX has compiled something since."""
    _listen()
    if _has_compiled.is_set():
        _has_compiled.clear()
        release_freed()


def forget_zeros(arrays: Any) -> None:
    """Gives the operating system the memory of arrays that hold nothing but zeros, page by page until it is written.

    Linux reads as zeros what has been let go of, and has a page again for what is written: an empty replay takes what
    is stored in it, and not what it may hold one day.

    Args:
      arrays: any pytree of JAX's arrays. On other devices than CPUs they stay as they are.
    """
    if (library := _glibc()) is None:
        return
    import jax

    for leaf in jax.tree.leaves(jax.block_until_ready(arrays)):
        for shard in leaf.addressable_shards:
            if shard.device.platform == "cpu":
                _forget(library, shard.data.unsafe_buffer_pointer(), shard.data.nbytes)


def _forget(library: ctypes.CDLL, address: int, num_bytes: int) -> None:
    """Lets go of the whole pages among some bytes; the others keep their zeros."""
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (address + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if size > 0:
        # Refused, for pages that are locked, they stay: as good, and as large, as before.
        library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _DONT_NEED)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "malloc_trim") else None


@functools.cache
def _listen() -> None:
    """Notes from now on whenever JAX has compiled; the first time counts."""
    import jax

    _has_compiled.set()

    def note(event: str, duration_secs: float, **others: str | int) -> None:
        if event == _COMPILED:
            _has_compiled.set()

    jax.monitoring.register_event_duration_secs_listener(note)
