"""Distillation of teachers that stay as they are, and the recording of their play."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.distill.collect import collect as run_collect
    from pd_jax.distill.session import distill

__all__ = [
    "distill",
    "run_collect",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "collect": ["collect as run_collect"],
            "session": ["distill"],
        },
    )
