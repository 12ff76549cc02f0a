"""EnvPool, imported so that it changes nothing else, and takes no longer than it must.

Its import has matplotlib draw without a window, and look for its settings elsewhere, by variables of the process's
environment that it sets: for all that this process, and those that it starts, draw. And with its family Jumanji comes
matplotlib itself, to draw boards: a fifth of the start of a program that plays MuJoCo. Here it waits until something of
Jumanji is played, and the variables are as they were (EnvPool 1.2.5 and 1.2.7).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

_OF_MATPLOTLIB = ("MPLBACKEND", "MPLCONFIGDIR")
_DRAWS = "envpool.jumanji.jumanji_official_render"
_PREPARES = "configure_matplotlib"
"""Called while EnvPool is imported, and once more by the module itself when that is."""
_LATER = (_PREPARES, "render_official_frame", "update_render_aux")


@contextlib.contextmanager
def _variables_kept() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _OF_MATPLOTLIB}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Later(types.ModuleType):
    """In the place of a module of functions, which is imported when one of them is called, or anything else of it is
    asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in _LATER:
            return getattr(self._imported(), name)

        def call(*arguments: Any, **named: Any) -> Any:
            return None if name == _PREPARES else getattr(self._imported(), name)(*arguments, **named)

        return call

    def _imported(self) -> types.ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        with _variables_kept():
            return importlib.import_module(self.__name__)


if "envpool" not in sys.modules:
    sys.modules[_DRAWS] = _Later(_DRAWS)
try:
    with _variables_kept():
        import envpool
except BaseException:
    sys.modules.pop(_DRAWS, None)
    raise

__all__ = ["envpool"]
