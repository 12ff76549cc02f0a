"""Teachers: trained here, bundled, read from a file, imported from another library, or any function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.teachers.function import from_function
    from pd_jax.teachers.teacher import Teacher, bundled_names, load

__all__ = [
    "Teacher",
    "bundled_names",
    "from_function",
    "load",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "function": ["from_function"],
        "teacher": ["Teacher", "bundled_names", "load"],
    },
)
