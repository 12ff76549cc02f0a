"""Counting: what a compiled program consists of, what a call has XLA do, and what a piece of work compiles."""

from __future__ import annotations

import collections
import functools
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from pd_jax.resources.plan import hlo
from pd_jax.resources.plan.hlo import RingShape
from pd_jax.resources.traces import find_trace

Counts = dict[str, int]
"""By what is counted. Less is better of all of it."""

LARGE_BYTES = 16_384
"""Smaller copies are not counted: compilers come and go with those of counters and keys."""
# Those that XLA leaves on their own on every platform, rather than fusing them into others.
_KINDS = ("all-reduce", "convolution", "custom-call", "dot", "sort")
# What the profiler calls them.
_DISPATCH = "PjitFunction("
_LAUNCH = "Executable::ExecuteHelperOnSingleDevice"
_UPLOADS = ("DevicePut", "DevicePutWithSharding", "BatchedCopyToDeviceWithSharding: dispatch")
_COMPILATION = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


def count_program(compiled: Any, rings: Collection[RingShape] = ()) -> Counts:
    """What a compiled program consists of. Bodies of loops are counted once, insides of fusions not at all.

    Args:
      compiled: of ``jax.jit(...).lower(...).compile()``.
      rings: the columns of a replay, which nothing is to copy.

    Returns:
      ``operations``, and of them ``dot operations`` and so on; ``large copies`` and ``bytes copied``: of operations
      that do nothing but write an array down once more, in the same order or another; with rings, ``ring copies``;
      ``temporary bytes``; and ``new output bytes``: of results that do not take over the memory of an argument.
    """
    text, memory = compiled.as_text(), compiled.memory_analysis()
    known = list(hlo.instructions(text))
    executed = hlo.executed(known)
    kinds = collections.Counter(one.opcode for one in executed)
    temporary, new = memory.temp_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes
    # XLA for CPUs puts a copy behind what is written in place, onto itself: there is no room for another.
    copied = [size for size in hlo.bytes_moved(known) if LARGE_BYTES <= size <= temporary + new]
    counts = {"operations": len(executed), "large copies": len(copied), "bytes copied": sum(copied)}
    counts |= {f"{kind} operations": kinds[kind] for kind in _KINDS if kinds[kind]}
    if rings:
        has_room = temporary >= max(ring.nbytes for ring in rings)
        counts["ring copies"] = len(hlo.ring_copies(text, rings, has_room=has_room))
    return counts | {"temporary bytes": temporary, "new output bytes": new}


def count_call(work: Callable[[], object]) -> Counts:
    """What a call has XLA do, by the profiler's trace of it.

    Args:
      work: is called three times; only the third counts, since all is compiled and settled by then.

    Returns:
      ``dispatches``: calls of compiled functions from Python; ``launches``: of programs, each on one device; and
      ``uploads``: arrays and numbers that go from the host to the device. Only those that the traces of this JAX tell
      of.
    """
    for _ in range(2):
        jax.block_until_ready(work())
    counts = _traced(work)
    return {name: counts[name] for name in ("dispatches", "launches", "uploads") if name in _told()}


def count_compilations(work: Callable[[], object]) -> Counts:
    """How many programs a piece of work compiles.

    Args:
      work: to be done in a process whose compilation cache was empty and keeps all programs.

    Returns:
      ``compilations``, and ``compiled again``: those of them that the cache had already.
    """
    counts = {"compilations": 0, "compiled again": 0}

    def note_duration(event: str, duration_secs: float, **_: Any) -> None:
        counts["compilations"] += event == _COMPILATION

    def note(event: str, **_: Any) -> None:
        counts["compiled again"] += event == _CACHE_HIT

    jax.monitoring.register_event_duration_secs_listener(note_duration)
    jax.monitoring.register_event_listener(note)
    try:
        jax.block_until_ready(work())
    finally:
        jax.monitoring.unregister_event_duration_listener(note_duration)
        jax.monitoring.unregister_event_listener(note)
    return counts


@functools.cache
def _told() -> frozenset[str]:
    """What the traces of this JAX tell of: names of events are no interface."""
    double = jax.jit(lambda x: 2 * x)
    host = jax.device_get(double(jnp.ones(3)))
    return frozenset(name for name, count in _traced(lambda: double(host)).items() if count == 1)


def _traced(work: Callable[[], object]) -> Counts:
    """What happened while a piece of work was done, in all threads."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    counts = {"dispatches": 0, "launches": 0, "uploads": 0}
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            jax.block_until_ready(work())
        data = ProfileData.from_file(str(find_trace(Path(directory))))
    for plane in data.planes:
        for line in plane.lines:
            dispatched_until = 0.0
            for event in sorted(line.events, key=lambda event: (event.start_ns, -event.duration_ns)):
                # The profiler tells of a call twice, one within the other.
                if event.name.startswith(_DISPATCH) and event.start_ns >= dispatched_until:
                    counts["dispatches"] += 1
                    dispatched_until = event.start_ns + event.duration_ns
                counts["launches"] += event.name.endswith(_LAUNCH)
                counts["uploads"] += event.name in _UPLOADS
    return counts
