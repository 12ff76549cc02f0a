"""Distillation of teachers that stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.distill.session import distill

__all__ = [
    "distill",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "session": ["distill"],
    },
)
