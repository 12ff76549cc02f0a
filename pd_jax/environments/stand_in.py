"""An environment's place in programs that outlive it, so that the next environment of its kind finds them compiled."""

from __future__ import annotations

import threading
import weakref
from typing import Any


class StandIn:
    """Stands, in what is traced, for one environment after another of one kind (:attr:`Environment.kind`).

    It holds none of them: emulators end with the run that opened them. Every call of what was traced comes after
    :meth:`stands_for`, by the same thread, as JAX may trace it once more for other arguments. Other threads have
    environments of their own.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def stands_for(self, environment: Any) -> None:
        """From now on, in this thread, it is this one, which somebody else holds."""
        self._of_thread.now = weakref.ref(environment)

    def __getattr__(self, name: str) -> Any:
        environment = getattr(self._of_thread, "now", lambda: None)()
        if environment is None:
            raise AttributeError(f"{name}: there is no environment that this stands for")
        return getattr(environment, name)
