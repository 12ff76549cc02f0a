"""``--profile``: a trace of a few seconds of a run, taken by JAX's profiler once all is compiled."""

from __future__ import annotations

import collections
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from pd_jax.config.base import ProfiledConfig
from pd_jax.resources.trace_tables import describe_trace, loaded_programs, trace_viewers
from pd_jax.resources.traces import find_trace
from pd_jax.system import hosts
from pd_jax.system.interrupts import stopping_signals
from pd_jax.system.progress import print_warning

_BEGINNINGS = 3
"""The third time that a stage begins all of it is compiled: what fetches its results is on the second."""


class _LeftOut(Exception):
    """Nobody waits for the tables any more."""


class Profiler:
    """Traces each stage of a run once, for a few seconds, while the run goes on.

    A stage is traced when it begins for the third time: all is compiled by then. One that begins while another is being
    traced is traced with it. A thread ends the window on time, however long the calls are, reads the trace (the
    beginning of a large one) and says what took the time. Whatever goes wrong with it is a warning, and there are no
    more windows. A run that ends by an exception, or is told by a signal to end while the tables are waited for, gets
    the trace but no tables.

    Args:
      directory: for the traces, a directory for each window; made when the first begins.
      seconds: of a window.
      say: is told the tables, and what is being waited for before them.
      warn: is told, in one line, what went wrong.
    """

    def __init__(
        self,
        directory: Path,
        seconds: float,
        say: Callable[[str], None],
        warn: Callable[[str], None] = print_warning,
    ) -> None:
        self._directory = directory
        self._seconds = seconds
        self._say = say
        self._warn = warn
        self._begun: collections.Counter[str] = collections.Counter()
        self._traced: set[str] = set()
        self._ends = 0.0
        self._is_closing = threading.Event()
        self._is_left_out = threading.Event()
        self._window: threading.Thread | None = None

    def stage(self, name: str) -> None:
        """A stage begins: its window too, if it is time for it."""
        self._begun[name] += 1
        if self._begun[name] < _BEGINNINGS or name in self._traced or self._is_closing.is_set():
            return
        if self._window is not None and self._window.is_alive():
            # With less than half a window left there is little to see of it; it has its own later.
            if self._ends - time.monotonic() > self._seconds / 2:
                self._traced.add(name)
            return
        self._traced.add(name)
        self._open(name)

    def close(self, *, reads: bool = True) -> None:
        """Ends the window, if one is open, and waits for its tables.

        Args:
          reads: whether there are to be tables. If not, and after SIGINT or SIGTERM meanwhile, it only waits until JAX
            has written the trace.
        """
        is_first_call = not self._is_closing.is_set()
        if not reads:
            self._is_left_out.set()
        self._is_closing.set()
        if self._window is not None:
            with _on_signals(self._is_left_out.set):
                self._window.join()
        if is_first_call and not self._traced:
            self._warn("profile: the run ended before anything had begun three times; nothing was traced")

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(reads=kind is None)

    def _open(self, name: str) -> None:
        options = jax.profiler.ProfileOptions()
        # An event for every call of a Python function would slow the run down and bury what is looked for.
        options.python_tracer_level = 0
        # Otherwise a profiler that cannot start says nothing, and writes an empty trace.
        options.raise_error_on_start_failure = True
        directory = self._directory / name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(directory, profiler_options=options)
        except (OSError, RuntimeError, ValueError) as error:
            self._give_up(directory, error)
            return
        begin = time.monotonic()
        self._ends = begin + self._seconds
        # A run that ends in the window lets go of its programs, and they are to be asked what was traced.
        programs = loaded_programs()
        self._window = threading.Thread(target=self._finish, args=(directory, begin, programs), name="profile")
        self._window.start()

    def _finish(self, directory: Path, begin: float, programs: list[Any]) -> None:
        self._is_closing.wait(self._seconds)
        seconds = time.monotonic() - begin
        try:
            # With those that were compiled meanwhile.
            programs += loaded_programs()
            # 8 s for 37 MB and 37 s for 227 MB, beside a run on two cores; JAX cannot be told to stop.
            self._say(f"{directory}: JAX writes the trace of {seconds:.1f} s")
            jax.profiler.stop_trace()
            self._read(directory, seconds, programs)
        # A thread that dies of an error would tell it as a traceback, and the run is not to suffer from being watched.
        except Exception as error:
            self._give_up(directory, error)

    def _read(self, directory: Path, seconds: float, programs: list[Any]) -> None:
        path = find_trace(directory)
        try:
            self._check()
            self._say(f"{path}: {path.stat().st_size / 1e6:.1f} MB are being read")
            tables = describe_trace(directory, seconds, programs, check=self._check)
        except _LeftOut:
            tables = f"{trace_viewers(path)}; its tables were left out, not to hold up the end"
        self._say(tables)

    def _check(self) -> None:
        if self._is_left_out.is_set():
            raise _LeftOut

    def _give_up(self, directory: Path, error: Exception) -> None:
        self._is_closing.set()
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        self._warn(f"{directory}: no profile was written: {reason}; the run goes on without")


@contextlib.contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Has signals that ask for an end do this before what they do anyway, where that is Python's."""
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        act()
        previous[number](number, frame)

    # Only the main thread may set handlers, and only there do they interrupt a wait.
    if numbers := stopping_signals():
        own = {number: signal.getsignal(number) for number in numbers}
        previous |= {number: handler for number, handler in own.items() if callable(handler)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def profiling(config: ProfiledConfig, directory: Path, say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Whom a run is to tell of its stages: a :class:`Profiler` if one is asked for, else nobody.

    Of several processes only the first is traced.

    Args:
      config: the run's.
      directory: the run's.
      say: is told the tables.
    """
    if not config.profile or not hosts.is_primary():
        yield lambda stage: None
        return
    with Profiler(directory / "profile", config.profile_seconds, say) as profiler:
        yield profiler.stage
