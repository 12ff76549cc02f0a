"""Memory, time and traces: what a run takes, and what bounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.resources.liveness import peak_bytes
    from pd_jax.resources.memory import MemoryEstimate, Part
    from pd_jax.resources.traces import Span, Trace, find_trace, read_trace

__all__ = [
    "MemoryEstimate",
    "Part",
    "Span",
    "Trace",
    "find_trace",
    "peak_bytes",
    "read_trace",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "liveness": ["peak_bytes"],
            "memory": ["MemoryEstimate", "Part"],
            "traces": ["Span", "Trace", "find_trace", "read_trace"],
        },
    )
