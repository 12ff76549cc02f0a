"""Standard output and standard error that may be closed, full, or read by nobody any more.

Work that is done and on disk is done, whoever can be told of it.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any


class _Raw(io.FileIO):
    """A file descriptor to write to, which can be told to take what goes nowhere.

    Attributes:
      lasts: whether an error is noted instead of raised.
      fault: the first that was noted.
    """

    lasts = False
    fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all of it, and waits for a descriptor that is set not to block."""
        whole = memoryview(data).cast("B")
        done = 0
        while done < len(whole):
            try:
                written: int | None = super().write(whole[done:])
            except OSError as error:
                if not self.lasts:
                    raise
                self.fault = self.fault or error
                break
            if written is None:
                select.select([], [self], [])
            else:
                done += written
        return len(whole)


def prepare() -> None:
    """Makes standard output and error ones that :func:`outlast` knows; error outlasts everything from now on.

    A descriptor that is closed becomes /dev/null: the next file that is opened would take its number, and then receive
    what libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Descriptors are given out from the lowest on, so this one is next.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, _rewrapped(stream))
    outlast("stderr")


def outlast(name: str) -> None:
    """Has ``stdout`` or ``stderr`` take everything from now on, whether or not anybody can receive it."""
    if (raw := _raw(name)) is not None:
        raw.lasts = True


def fault_in(name: str) -> OSError | None:
    """The first error that ``stdout`` or ``stderr`` has outlasted, if any."""
    raw = _raw(name)
    return None if raw is None else raw.fault


def _rewrapped(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _Raw(stream.fileno(), "w", closefd=False)
    # With PYTHONUNBUFFERED there is no buffer between.
    buffer: Any = io.BufferedWriter(raw) if isinstance(stream.buffer, io.BufferedWriter) else raw
    # A terminal without ± shows a question mark there.
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(name: str) -> _Raw | None:
    buffer = getattr(getattr(sys, name), "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Raw) else None
