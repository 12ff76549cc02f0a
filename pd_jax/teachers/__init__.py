"""Teachers: trained here, bundled, read from a file, imported from another library, or any function."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pd_jax.teachers.function import from_function
    from pd_jax.teachers.teacher import Teacher, bundled_names, load

__all__ = ["Teacher", "bundled_names", "from_function", "load"]

_MODULES = {"Teacher": "teacher", "bundled_names": "teacher", "from_function": "function", "load": "teacher"}


def __getattr__(name: str) -> Any:
    # Imported late: whoever only lists teachers should not wait for JAX.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
