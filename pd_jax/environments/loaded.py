"""EnvPool, imported so that it changes nothing else.

Its import has matplotlib draw without a window, and look for its settings elsewhere, by variables of the process's
environment that it sets: for all that this process, and those that it starts, draw (EnvPool 1.2.5 and 1.2.7).
"""

from __future__ import annotations

import os

_OF_MATPLOTLIB = ("MPLBACKEND", "MPLCONFIGDIR")
_before = {name: os.environ.get(name) for name in _OF_MATPLOTLIB}

import envpool  # noqa: E402

for _name, _value in _before.items():
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

__all__ = ["envpool"]
