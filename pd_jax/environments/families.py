"""Which of EnvPool's families of environments are imported.

EnvPool 1.2 imports all of them, 17, with its first line: among them libraries of physics, and Matplotlib for drawing
boards. That is 100 MB and a second or two of every command, for three that there are tasks of.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

FAMILIES = ("atari", "box2d", "classic_control")
"""Those that `pd_jax.environments.tasks` has tasks of."""
_REGISTERS_ALL = "envpool.entry"


def import_few() -> None:
    """Has this process import these families alone with EnvPool, unless it has imported more already.

    For a process that is the program's own: elsewhere somebody else may want the others.
    """
    if "envpool" not in sys.modules and not any(isinstance(finder, _Few) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Few())


class _Few(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for the module of EnvPool's that imports every family."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == _REGISTERS_ALL else None

    def exec_module(self, module: ModuleType) -> None:
        for family in FAMILIES:
            importlib.import_module(f"envpool.{family}.registration")
