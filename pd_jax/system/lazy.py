"""Packages whose public names are imported only once somebody asks for them (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: ``import pd_jax`` is quick, and JAX takes seconds.

    Args:
      package: its ``__name__``.
      modules: by module, relative to the package or absolute, the public names that it holds; none stand for the
        module itself.
    """
    holders = {name: module for module, names in modules.items() for name in names}
    submodules = [module for module, names in modules.items() if not names]

    def get(name: str) -> Any:
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        if name not in holders:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        holder = holders[name]
        module = importlib.import_module(holder if holder.startswith("pd_jax.") else f"{package}.{holder}")
        return getattr(module, name)

    return get, lambda: sorted([*holders, *submodules])
