"""Grids of distillations, compared in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.sweep.session import sweep

__all__ = [
    "sweep",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "session": ["sweep"],
        },
    )
