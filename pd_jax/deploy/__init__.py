"""A finished student at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.deploy.student import TrainedStudent, load_student

__all__ = [
    "TrainedStudent",
    "load_student",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "student": ["TrainedStudent", "load_student"],
    },
)
