"""Reading a trace of JAX's profiler, whole or its beginning: operations of the devices, and threads of the host."""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jax.profiler import ProfileData

_CONTAINERS = ("while", "conditional", "call")
"""Operations that do nothing but have others done."""
_EVENTS_BETWEEN_CHECKS = 4_096
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Span:
    """Something that took time: an operation of a device, or a piece of work of the host.

    Attributes:
      name: the operation's in its program, or the work's.
      program: of the operation, such as ``jit_scanned 63``; of the host's work the thread.
      begin, end: nanoseconds since the trace began.
    """

    name: str
    program: str
    begin: float
    end: float


@dataclasses.dataclass(frozen=True)
class Trace:
    """What is told of a trace.

    Attributes:
      operations: by device.
      host: of the threads that run Python, each with what it did itself: spans do not overlap.
      until: nanoseconds since the trace began; nothing later was read, and what went on for longer is cut off there.
        Infinite if all of it was read.
    """

    operations: Mapping[str, Sequence[Span]]
    host: Sequence[Span]
    until: float = math.inf


def go_on() -> None:
    """Checks nothing."""


def find_trace(directory: Path) -> Path:
    """The newest ``xplane.pb`` below a directory.

    Args:
      directory: where `jax.profiler.start_trace` was to write.

    Returns:
      its path.

    Raises:
      FileNotFoundError: there is none.
    """
    files = sorted(directory.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(2, "the profiler left no trace", str(directory))
    return files[-1]


def read_trace(path: Path, *, most_events: int | None = None, check: Callable[[], None] = go_on) -> Trace:
    """Reads an ``xplane.pb``, or its beginning.

    Args:
      path: the file.
      most_events: to read of all threads and devices together. All of them are read until the same moment, so that what
        is read is as it would be of a shorter window. None for the whole trace.
      check: is called again and again, and ends the reading by raising.

    Returns:
      what ran on devices and on the host.
    """
    data = ProfileData.from_file(str(path))
    check()
    names: list[str] = []
    lines: list[Any] = []
    for plane in data.planes:
        if plane.name == "/host:CPU":
            chosen = list(plane.lines)
        elif plane.name.startswith("/device:") and "CUSTOM" not in plane.name:
            chosen = _operation_lines(list(plane.lines))
        else:
            continue
        lines += chosen
        names += [plane.name] * len(chosen)
    events, until = _beginning([line.events for line in lines], most_events, check)
    operations: dict[str, list[Span]] = collections.defaultdict(list)
    threads: list[Sequence[Any]] = []
    for name, of_line in zip(names, events, strict=True):
        if name == "/host:CPU":
            threads.append(of_line)
        else:
            operations[name.removeprefix("/device:")] += _device_operations(checked(of_line, check))
    known_until = _last_moment(checked(itertools.chain(*events), check)) if math.isinf(until) else until
    operations["CPU"] += _cpu_operations((checked(thread, check) for thread in threads), known_until)
    host: list[Span] = []
    for number, thread in enumerate(_python_threads(checked(threads, check, every=1)), start=1):
        host += _own_time(thread, _thread_name(thread, number))
    cut = {device: _cut(spans, until) for device, spans in operations.items() if spans}
    return Trace(cut, _cut(host, until), until)


def _operation_lines(lines: Sequence[Any]) -> list[Any]:
    """Of an accelerator: a TPU's have a line of their own, beside lines that tell the same in other words."""
    return [line for line in lines if line.name == "XLA Ops"] or [
        line for line in lines if line.name.startswith("Stream")
    ]


def _beginning(
    lines: Sequence[Iterable[Any]], most: int | None, check: Callable[[], None]
) -> tuple[list[list[Any]], float]:
    """The first events of all lines together, by line, and the time in nanoseconds at which the next begins.

    JAX writes the events of a line in the order in which they begin, so none of the later ones is touched.
    """
    read: list[list[Any]] = [[] for _ in lines]
    ordered = heapq.merge(*(_numbered(number, line) for number, line in enumerate(lines)))
    for _, number, event in itertools.islice(checked(ordered, check), most):
        read[number].append(event)
    following = next(ordered, None)
    return read, math.inf if following is None else following[0]


def _numbered(number: int, line: Iterable[Any]) -> Iterator[tuple[float, int, Any]]:
    for event in line:
        yield event.start_ns, number, event


def checked(items: Iterable[T], check: Callable[[], None], every: int = _EVENTS_BETWEEN_CHECKS) -> Iterator[T]:
    """The items, with a check before every so many of them."""
    for count, item in enumerate(items):
        if count % every == 0:
            check()
        yield item


def _last_moment(events: Iterable[Any]) -> float:
    """When the last of the events ended, in nanoseconds: the trace was recorded until then, or for a little longer."""
    return max((event.start_ns + event.duration_ns for event in events), default=0.0)


def _cut(spans: Iterable[Span], until: float) -> list[Span]:
    """The spans as they were at a time in nanoseconds."""
    return [span if span.end <= until else dataclasses.replace(span, end=until) for span in spans if span.begin < until]


def _device_operations(events: Iterable[Any]) -> Iterator[Span]:
    """Of a line of an accelerator."""
    for event in events:
        stats = dict(event.stats)
        name = str(stats.get("hlo_op") or event.name.split(" = ")[0].lstrip("%"))
        if _kind(name) not in _CONTAINERS:
            yield Span(name, _program(stats), event.start_ns, event.start_ns + event.duration_ns)


def _cpu_operations(lines: Iterable[Iterable[Any]], until: float = math.inf) -> Iterator[Span]:
    """Of a CPU, whose operations are events of XLA's threads.

    One that is handed on to other threads ends with another event, which refers to its beginning. If that was not read,
    the operation lasts until a time in nanoseconds, at which reading ended, or recording did: XLA goes on with the
    program first and tells afterwards that an operation has ended, so whoever waits for the program may have ended the
    recording by then.
    """
    begun: list[tuple[Any, str, str, float, float]] = []
    ended: dict[Any, float] = {}
    for events in lines:
        for event in events:
            if event.name.startswith("ThreadpoolListener"):
                continue
            stats = dict(event.stats)
            end = event.start_ns + event.duration_ns
            if event.name.startswith("end: "):
                ended[stats.get("_c")] = end
            elif "hlo_op" in stats and _kind(event.name) not in _CONTAINERS:
                begun.append((stats.get("_p"), event.name, _program(stats), event.start_ns, end))
    for key, name, program, begin, end in begun:
        if key in ended:
            end = max(end, ended[key])
        elif key is not None:
            end = until
        yield Span(name, program, begin, end)


def _kind(operation: str) -> str:
    """What an operation does, which its name begins with."""
    return re.split(r"[.\d]", operation, maxsplit=1)[0]


def _program(stats: Mapping[str, Any]) -> str:
    return f"{stats.get('hlo_module', '')} {stats.get('program_id', '')}".strip()


def _python_threads(lines: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Those that call compiled programs, or wait for them, or do what the package has given a name."""
    for events in lines:
        if any(event.name.startswith(("PjitFunction", "np.asarray", "dispatch of updates")) for event in events):
            yield events


def _thread_name(events: Iterable[Any], number: int) -> str:
    """Linux has one name for all threads of Python, so what they do has to tell."""
    done = {event.name for event in events}
    return "training" if "dispatch of updates" in done else "play" if "rollout" in done else f"thread {number}"


def _own_time(events: Sequence[Any], thread: str) -> Iterator[Span]:
    """The events of a thread without those inside them, in pieces."""
    open_events: list[tuple[str, float]] = []
    at = 0.0
    ordered = sorted(events, key=lambda event: (event.start_ns, -event.duration_ns))
    for event in [*ordered, None]:
        begin = float("inf") if event is None else event.start_ns
        while open_events and open_events[-1][1] <= begin:
            name, end = open_events.pop()
            if end > at:
                yield Span(name, thread, at, end)
            at = max(at, end)
        if event is not None:
            if open_events and begin > at:
                yield Span(open_events[-1][0], thread, at, begin)
            at = max(at, begin)
            open_events.append((event.name, event.start_ns + event.duration_ns))
