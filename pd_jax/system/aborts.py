"""The last word of a process that C++ ends by ``abort``."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from typing import Any

_handler: Any = None
"""Kept from the garbage collector: C calls it."""


def before_aborting(function: Callable[[], None]) -> None:
    """Has a function called, in whatever thread it is, when this process is about to be ended by ``abort``.

    JAX's client of the coordination service lives in a thread of C++, which does that when its service is gone. What
    it offers for that case did not work from Python with jaxlib 0.10. A handler of Python's `signal` would not do:
    these wait for the main thread.

    Args:
      function: may end the process by ``os._exit``; once it returns, the process is aborted as usual.
    """

    def handle(number: int) -> None:
        function()
        # Back in abort(), the signal is raised again.
        library.signal(number, None)

    global _handler
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    library = ctypes.CDLL(None)
    library.signal.restype, library.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    library.signal(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))
