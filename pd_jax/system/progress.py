"""Progress on stderr: bars on a terminal, a line now and then in a log file."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pd_jax.system.text import format_seconds

_REFRESHES_PER_SECOND = 2

_listener: contextvars.ContextVar[Callable[[Meter], None] | None] = contextvars.ContextVar("listener", default=None)


def print_warning(message: str) -> None:
    """Prints ``warning: message`` on stderr, above any bars."""
    print_line(f"warning: {message}", sys.stderr)


@contextlib.contextmanager
def warn_if_unwritable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError into a warning that names ``path``: what is known is not given up for a picture of it."""
    try:
        yield
    except OSError as error:
        print_warning(f"{os.fspath(path)}: cannot be written: {error.strerror}")


def print_line(text: str, file: IO[str]) -> None:
    """Prints a line if anybody can still read it: a closed terminal or pipe does not end the work."""
    with contextlib.suppress(OSError):
        print(text, file=file, flush=True)


@contextlib.contextmanager
def reporting_to(listener: Callable[[Meter], None]) -> Iterator[None]:
    """In this context a `Progress` draws nothing: whoever shows several processes' work is told of it.

    Args:
      listener: called with the meter that changed last, whenever one does.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Meter:
    """Counts one thing of a `Progress`, such as rounds or updates."""

    def __init__(self, name: str, total: float, completed: float, on_change: Callable[[], None]) -> None:
        """Made by `Progress.add`."""
        self.name = name
        self._on_change = on_change
        self.reset(total, completed=completed)

    def advance(self, amount: float = 1) -> None:
        """Counts ``amount`` more."""
        self.set(self.completed + amount)

    def set(self, completed: float) -> None:
        """Counts ``completed`` in all."""
        self.completed = completed
        self.last_change = time.monotonic()
        self._on_change()

    def reset(self, total: float | None = None, *, completed: float = 0) -> None:
        """Begins anew; what is ``completed`` from before does not count towards the rate."""
        if total is not None:
            self.total = total
        self.completed = self._first = completed
        self._start = self.last_change = time.monotonic()
        self._on_change()

    @property
    def rate(self) -> float:
        """Counts a second, from the start or the last reset to the last count: a pause does not lower it."""
        return (self.completed - self._first) / max(self.last_change - self._start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the rate so far; None before there is one."""
        rate = self.rate
        return max(self.total - self.completed, 0) / rate if rate > 0 else None

    def describe_count(self) -> str:
        """Such as ``1,200/10,000``."""
        return f"{self.completed:,.0f}/{self.total:,.0f}"

    def describe_rate(self) -> str:
        """Such as ``215/s``, or nothing while the rate is unknown or too low to say anything."""
        rate = self.rate
        if rate >= 10:
            return f"{rate:,.0f}/s"
        return f"{rate:.1f}/s" if rate >= 0.1 else ""

    def describe_time_left(self) -> str:
        """Such as ``1:02:03 left``, or nothing while it is unknown or over."""
        seconds = self.seconds_left
        return f"{format_seconds(seconds)} left" if seconds else ""


class Progress:
    """Nested meters and a status line, on stderr.

    On a terminal they are bars, redrawn in place. Anywhere else, with ``TERM=dumb`` and off the main thread, where
    several may be drawn at once, a plain line is printed at most every ``interval_seconds``, and a last one at the
    end::

        with Progress("distill pong") as progress:
            rounds, updates = progress.add("rounds", 10), progress.add("updates", 10_000)
            updates.advance(50)
            progress.status("loss 0.031  agreement 94 %")
    """

    def __init__(self, title: str, *, interval_seconds: float = 10.0, console: Console | None = None) -> None:
        """Draws nothing yet.

        Args:
          title: what is going on, such as ``distill pong``.
          interval_seconds: least time between plain lines.
          console: where to draw instead of stderr.
        """
        self.title = title
        self._console = console or Console(stderr=True, highlight=False)
        self._interval = interval_seconds
        self._meters: list[Meter] = []
        self._status = ""
        self._last_line = time.monotonic()
        self._changed = False
        self._live: Live | None = None
        self._listener = _listener.get()
        is_main = threading.current_thread() is threading.main_thread()
        if self._listener is None and is_main and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=_REFRESHES_PER_SECOND,
                # What is printed meanwhile goes above the bars; but results in a pipe stay in the pipe.
                redirect_stdout=sys.stdout.isatty(),
            )

    def add(self, name: str, total: float, *, completed: float = 0) -> Meter:
        """Adds a meter below those there are; ``completed`` is what a resumed run has behind it."""
        meter = Meter(name, total, completed, self._on_change)
        self._meters.append(meter)
        return meter

    def remove(self, meter: Meter) -> None:
        """Takes a meter away."""
        self._meters.remove(meter)
        self._on_change()

    def status(self, text: str) -> None:
        """Sets the free text beside the meters."""
        self._status = text
        self._on_change()

    def print(self, text: str) -> None:
        """Prints a line that stays, above the meters."""
        if self._live is None:
            # Not through rich, which ends the process when the reader of a pipe has gone.
            print_line(text, self._console.file)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._changed and self._listener is None:
            self._print_line()

    def _on_change(self) -> None:
        self._changed = True
        if self._listener is not None:
            if self._meters:
                self._listener(max(self._meters, key=lambda meter: meter.last_change))
        elif self._live is None and time.monotonic() - self._last_line >= self._interval:
            self._print_line()

    def _print_line(self) -> None:
        parts = []
        for meter in self._meters:
            details = ", ".join(filter(None, (meter.describe_rate(), meter.describe_time_left())))
            parts.append(f"{meter.name} {meter.describe_count()}" + (f" ({details})" if details else ""))
        line = ", ".join(filter(None, (*parts, self._status)))
        self.print(f"{self.title}: {line}")
        self._last_line = time.monotonic()
        self._changed = False

    def _render(self) -> Group:
        grid = Table.grid(padding=(0, 1))
        for justify in ("left", "left", "right", "right", "left"):
            grid.add_column(justify=justify, no_wrap=True)
        for meter in self._meters:
            # Narrow enough that a line fits 80 columns with counts in the millions.
            bar = ProgressBar(total=meter.total, completed=min(meter.completed, meter.total), width=20)
            cells = (meter.describe_count(), meter.describe_rate(), meter.describe_time_left())
            grid.add_row(Text(meter.name), bar, *map(Text, cells))
        status = Text(self._status, overflow="ellipsis", no_wrap=True)
        return Group(Text(self.title, style="bold"), grid, *([status] if self._status else []))
