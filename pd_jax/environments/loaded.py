"""EnvPool, imported so that it changes nothing else, and takes no longer than it must.

Its import has matplotlib draw without a window, and look for its settings elsewhere, by variables of the process's
environment that it sets: for all that this process, and those that it starts, draw. And with its family Jumanji comes
matplotlib itself, to draw boards when somebody asks for that: a fifth of the start of a program that plays MuJoCo. Here
both wait until something is drawn (EnvPool 1.2.5 and 1.2.7).
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import Any

_OF_MATPLOTLIB = ("MPLBACKEND", "MPLCONFIGDIR")
_DRAWS = "envpool.jumanji.jumanji_official_render"
_PREPARES = "configure_matplotlib"
"""Called while EnvPool is imported, and once more by the module itself when that is."""


class _Later(types.ModuleType):
    """In the place of a module of functions, which is imported when one of them is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            if name == _PREPARES:
                return None
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return call


_before = {name: os.environ.get(name) for name in _OF_MATPLOTLIB}
if "envpool" not in sys.modules:
    sys.modules[_DRAWS] = _Later(_DRAWS)

import envpool  # noqa: E402

for _name, _value in _before.items():
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

__all__ = ["envpool"]
