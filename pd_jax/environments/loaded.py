"""EnvPool, imported so that it changes nothing else, and takes no longer than it must.

Its import has matplotlib draw without a window, and look for its settings elsewhere, by variables of the process's
environment that it sets: for all that this process, and those that it starts, draw. And it imports matplotlib, to draw
Jumanji's games when somebody asks for that: a fifth of the start of every command. Here both wait until they are needed
(EnvPool 1.2.5 and 1.2.7).
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import Any

_OF_MATPLOTLIB = ("MPLBACKEND", "MPLCONFIGDIR")
_DRAWS = "envpool.jumanji.jumanji_official_render"


class _Later(types.ModuleType):
    """In the place of a module of functions, which is imported when one of them is called.

    Attributes:
      waits: whether calls do nothing. While EnvPool is imported it calls one that prepares drawing, which the module
        does itself when it is imported.
    """

    waits: bool = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            if self.waits:
                return None
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return call


_before = {name: os.environ.get(name) for name in _OF_MATPLOTLIB}
_later = _Later(_DRAWS)
if "envpool" not in sys.modules:
    sys.modules[_DRAWS] = _later

import envpool  # noqa: E402

_later.waits = False

for _name, _value in _before.items():
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

__all__ = ["envpool"]
