"""Packages whose public names are imported only once somebody asks for them (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], submodules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: ``import pd_jax`` is quick, and JAX takes seconds.

    Args:
      package: its ``__name__``.
      modules: by module, relative to the package or absolute, the public names that it holds, such as ``"load"`` or
        ``"load as load_teacher"``.
      submodules: the modules and packages below it that are public themselves.

    Returns:
      both. An unknown name is an AttributeError that names the nearest public one.
    """
    holders: dict[str, tuple[str, str]] = {name: (f"{package}.{name}", "") for name in submodules}
    for module, names in modules.items():
        holder = module if module.startswith("pd_jax.") else f"{package}.{module}"
        for name in names:
            original, _, alias = name.partition(" as ")
            holders[alias or original] = (holder, original)

    def get(name: str) -> Any:
        if name not in holders:
            from pd_jax.errors import nearest

            # Python itself asks for names such as __path__.
            hint = "" if name.startswith("__") else nearest(name, holders)
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        module, original = holders[name]
        holder = importlib.import_module(module)
        return getattr(holder, original) if original else holder

    return get, lambda: sorted(holders)
