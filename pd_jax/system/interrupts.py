"""Ctrl-C and SIGTERM: finish the call in hand, save, and say how to go on."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from pd_jax.system import hosts


class Interrupted(BaseException):
    """The user, or a scheduler, asked for an end. ``signal_number`` says how.

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
    """Notes the first SIGINT or SIGTERM instead of dying of it; a second SIGINT ends the process as usual.

    A context manager. Inside it, call :meth:`check` wherever stopping is safe.
    """

    def __init__(self) -> None:
        self._received = _raised
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def check(self) -> None:
        """Raises :class:`Interrupted` if a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def check_alone(self) -> None:
        """As :meth:`check`, where stopping is safe only if there is no other process that would go on."""
        if hosts.current() is None:
            self.check()

    def check_together(self) -> None:
        """As :meth:`check`, after each call of updates: several processes stop after the same one."""
        among = hosts.current()
        if among is None:
            self.check()
        elif (number := among.meet("stop", None if self._received is None else str(self._received))) is not None:
            among.leaving = True
            raise Interrupted(int(number))

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        if (among := hosts.current()) is not None:
            among.stopping = self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
