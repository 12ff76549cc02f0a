"""Teachers: trained here, bundled, or read from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pd_jax.teachers.teacher import Teacher, bundled_names, load

__all__ = ["Teacher", "bundled_names", "load"]


def __getattr__(name: str) -> Any:
    # Imported late: whoever only lists teachers should not wait for JAX.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pd_jax.teachers import teacher

    return getattr(teacher, name)
