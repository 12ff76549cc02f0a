"""Ctrl-C, SIGTERM, a closed terminal (SIGHUP) and a caller's event: finish the call in hand, save, say how to go on."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from pd_jax.system import hosts

P = ParamSpec("P")
R = TypeVar("R")

_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop", default=None)


def takes_signals() -> bool:
    """Whether handlers of signals can be set from here: Python allows it in the main thread alone."""
    return threading.current_thread() is threading.main_thread()


def stopping_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask for an end, as far as handlers of theirs can be set from here.

    SIGHUP is one unless it is ignored: nohup has it so for what is to outlive its terminal.
    """
    if not takes_signals():
        return ()
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if hangs_up else (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopped_by(event: threading.Event | None) -> Iterator[None]:
    """Work in this context, in this thread, is stopped by an event as by SIGTERM.

    Args:
      event: None leaves that to whoever called before.
    """
    if event is None:
        yield
        return
    token = _stop.set(event)
    try:
        yield
    finally:
        _stop.reset(token)


def stoppable(function: Callable[P, R]) -> Callable[P, R]:
    """Has a function that takes ``stop``, an event or None, heed it: :func:`stopped_by` around the call."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        event: Any = kwargs.get("stop")
        if event is not None and not callable(getattr(event, "is_set", None)):
            raise TypeError(f"stop is {event!r}, and no threading.Event")
        with stopped_by(event):
            return function(*args, **kwargs)

    return call


class Interrupted(BaseException):
    """The user, a scheduler or the caller asked for an end. ``signal_number`` says how: SIGTERM for a caller's event.

    Like KeyboardInterrupt no Exception: whoever takes any error for a damaged file must not take this for one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


_raised: int | None = None
"""The signal that :func:`interrupt_now` raised for, if any."""


def interrupt_now(number: int, frame: FrameType | None) -> None:
    """A handler for the time before there is anything to save: ends the command at once by :class:`Interrupted`.

    Python drops what a handler raises inside a callback of the garbage collector (JAX has one) or a destructor. So the
    signal is noted as well, and the next :class:`Interrupts` heeds it.
    """
    global _raised
    _raised = number
    raise Interrupted(number)


def raised_interrupt() -> Interrupted | None:
    """What :func:`interrupt_now` has raised since this command began, if anything.

    For those to whom another error came in its stead: CPython's parser, for one, answers an exception raised inside it
    with a SystemError.
    """
    return None if _raised is None else Interrupted(_raised)


def forget_interrupts() -> None:
    """Another command begins in this process."""
    global _raised
    _raised = None


class Interrupts:
    """Notes the first SIGINT, SIGTERM or SIGHUP instead of dying of it; a second SIGINT ends the process as usual.

    A context manager. Inside it, call :meth:`check` wherever stopping is safe. Off the main thread, where no signal
    arrives, and beside signals, it heeds the event of :func:`stopped_by`.
    """

    def __init__(self) -> None:
        self._noted = _raised if takes_signals() else None
        self._stop = _stop.get()
        self._previous: dict[int, Any] = {}

    @property
    def _received(self) -> int | None:
        if self._noted is None and self._stop is not None and self._stop.is_set():
            return signal.SIGTERM
        return self._noted

    @property
    def requested(self) -> bool:
        """Whether an end was asked for."""
        return self._received is not None

    def check(self) -> None:
        """Raises :class:`Interrupted` if an end was asked for."""
        if (number := self._received) is not None:
            raise Interrupted(number)

    def check_alone(self) -> None:
        """As :meth:`check`, where stopping is safe only if there is no other process that would go on."""
        if hosts.current() is None:
            self.check()

    def check_together(self) -> None:
        """As :meth:`check`, after each call of updates: several processes stop after the same one."""
        among = hosts.current()
        if among is None:
            self.check()
        else:
            received = self._received
            if (number := among.meet("stop", None if received is None else str(int(received)))) is not None:
                among.leaving = True
                raise Interrupted(int(number))

    def __enter__(self) -> Interrupts:
        for number in stopping_signals():
            self._previous[number] = signal.signal(number, self._note)
        if (among := hosts.current()) is not None:
            among.stopping = self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number
