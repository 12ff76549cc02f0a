"""Which of EnvPool's families of environments are imported.

EnvPool 1.2 imports all of them, 17, with its first line: among them libraries of physics, and Matplotlib for drawing
boards. That is 100 MB and a second or two of every command. Three have tasks that are known by a name of their own; the
others are imported when a name is none of these.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

FAMILIES = ("atari", "box2d", "classic_control")
"""Those that are imported with EnvPool."""
OTHERS = tuple(
    "mujoco.gym mujoco.dmc mujoco.playground mujoco.metaworld mujoco.robotics mujoco.myosuite toy_text minigrid "
    "jumanji pgx highway procgen gfootball vizdoom".split()
)
"""Those that are imported when a task of theirs is asked for."""
_REGISTERS_ALL = "envpool.entry"


def import_few() -> None:
    """Has this process import these families alone with EnvPool, unless it has imported more already.

    For a process that is the program's own: elsewhere somebody else may want the others.
    """
    if "envpool" not in sys.modules and not any(isinstance(finder, _Few) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Few())


def import_others() -> None:
    """Imports the families that :func:`import_few` leaves out. Without an effect where they are there."""
    for family in OTHERS:
        # A family may be missing from a build of EnvPool, and its tasks are then not known.
        with contextlib.suppress(ImportError):
            importlib.import_module(f"envpool.{family}.registration")


class _Few(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for the module of EnvPool's that imports every family."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == _REGISTERS_ALL else None

    def exec_module(self, module: ModuleType) -> None:
        for family in FAMILIES:
            importlib.import_module(f"envpool.{family}.registration")
