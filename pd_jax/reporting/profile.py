"""What a trace of JAX's profiler says, as tables: stages, operations of the devices, and threads of the host."""

from __future__ import annotations

import collections
import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.profiler import ProfileData
from rich.console import Console
from rich.table import Table

_TOP = 12
_WIDTH = 110
_STAGES = ("sample", "loss", "all_reduce", "optimizer", "inference", "stepping", "targets", "insert")
"""Scopes (`jax.named_scope`) that the package's programs have, one for each of their parts."""
_CONTAINERS = ("while", "conditional", "call")
"""Operations that do nothing but have others done."""
_LOOPS = ("", "while", "body", "cond", "closed_call", "vmap()", "pjit")
_LEAST_SHARE = 0.002
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*?metadata=\{[^}]*op_name="([^"]*)"')
K = TypeVar("K")


@dataclasses.dataclass(frozen=True)
class Span:
    """Something that took time: an operation of a device, or a piece of work of the host.

    Attributes:
      name: the operation's in its program, or the work's.
      program: of the operation, such as ``jit_scanned 63``; of the host's work the thread.
      begin, end: nanoseconds.
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
    """

    operations: Mapping[str, Sequence[Span]]
    host: Sequence[Span]


def describe_trace(directory: Path, seconds: float, programs: Sequence[Any]) -> str:
    """The tables of the newest trace below a directory, as text.

    Args:
      directory: where `jax.profiler.start_trace` was to write.
      seconds: wall time of the window.
      programs: that may have run in it, as of :func:`loaded_programs`.

    Raises:
      FileNotFoundError: there is no trace.
      Exception: whatever JAX's reader raises for a damaged one.
    """
    files = sorted(directory.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(2, "the profiler left no trace", str(directory))
    trace = read_trace(files[-1])
    paths = Paths((span for spans in trace.operations.values() for span in spans), programs)
    text = io.StringIO()
    console = Console(file=text, width=_WIDTH, highlight=False)
    for device, spans in trace.operations.items():
        console.print(stage_table(f"{directory.name}: {device} in {seconds:.1f} s", spans, paths, seconds))
        console.print(operation_table(f"{device}: operations", spans, paths))
    console.print(host_table(trace.host, seconds))
    return f"{text.getvalue()}{files[-1].parent}: for TensorBoard (--logdir {directory.parent}) and ui.perfetto.dev"


def read_trace(path: Path) -> Trace:
    """Reads an ``xplane.pb``."""
    operations: dict[str, list[Span]] = collections.defaultdict(list)
    host: list[Span] = []
    for plane in ProfileData.from_file(str(path)).planes:
        if plane.name.startswith("/device:") and "CUSTOM" not in plane.name:
            operations[plane.name.removeprefix("/device:")] += _device_operations(list(plane.lines))
        elif plane.name == "/host:CPU":
            lines = [list(line.events) for line in plane.lines]
            if cpu := list(_cpu_operations(lines)):
                operations["CPU"] += cpu
            for number, thread in enumerate(_python_threads(lines), start=1):
                host += _own_time(thread, _thread_name(thread, number))
    return Trace({device: spans for device, spans in operations.items() if spans}, host)


def _device_operations(lines: Sequence[Any]) -> Iterator[Span]:
    """Of an accelerator: a TPU's have a line of their own, beside lines that tell the same in other words."""
    chosen = [line for line in lines if line.name == "XLA Ops"] or [
        line for line in lines if line.name.startswith("Stream")
    ]
    for line in chosen:
        for event in line.events:
            stats = dict(event.stats)
            name = str(stats.get("hlo_op") or event.name.split(" = ")[0].lstrip("%"))
            if _kind(name) not in _CONTAINERS:
                yield Span(name, _program(stats), event.start_ns, event.start_ns + event.duration_ns)


def _cpu_operations(lines: Iterable[Sequence[Any]]) -> Iterator[Span]:
    """Of a CPU, whose operations are events of XLA's threads.

    One that is handed on to other threads ends with another event, which refers to its beginning.
    """
    begun: dict[Any, tuple[str, str, float, float]] = {}
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
                begun[stats.get("_p", object())] = (event.name, _program(stats), event.start_ns, end)
    for key, (name, program, begin, end) in begun.items():
        yield Span(name, program, begin, max(end, ended.get(key, end)))


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


class Paths:
    """What operations belong to: the scopes of the package and of its networks, which compiled programs know.

    A trace has the names of programs and operations alone. Programs may share a name; which one is meant is seen from
    the operations it has.

    Args:
      spans: the operations that were traced.
      programs: theirs, and any others.
    """

    def __init__(self, spans: Iterable[Span], programs: Iterable[Any]) -> None:
        traced: dict[str, set[str]] = collections.defaultdict(set)
        for span in spans:
            traced[span.program].add(span.name)
        loaded = _paths_in(programs, {program.split(" ")[0] for program in traced})
        self._paths: dict[str, Mapping[str, str]] = {}
        for program, names in traced.items():
            candidates = loaded.get(program.split(" ")[0], [])
            self._paths[program] = max(candidates, key=lambda paths: len(names & paths.keys()), default={})

    def path(self, span: Span) -> str:
        """Such as ``loss/jvp(PolicyNetwork)/torso/conv1/dot_general``; empty if it is not known."""
        path = self._paths.get(span.program, {}).get(span.name, "")
        return "/".join(part for part in path.split("/")[1:] if part not in _LOOPS)

    def stage(self, span: Span) -> str:
        """The stage it belongs to; for want of one its program, if that has a name."""
        path = self.path(span)
        for scope in map(_scope, path.split("/")):
            if scope == "loss":
                return "backward" if "transpose(" in path else "forward"
            if scope in _STAGES:
                return scope.replace("_", "-")
        program = span.program.split(" ")[0].removeprefix("jit_")
        # What is mapped over devices has no name of its own.
        return program if program and program != "_fun" else "other"


def _scope(part: str) -> str:
    """The scope inside transformations: ``loss`` of ``transpose(jvp(loss))``."""
    return part.rstrip(")").rpartition("(")[2]


def loaded_programs() -> list[Any]:
    """The compiled programs there are, which stay loaded for as long as the list does."""
    clients = {device.platform: device.client for device in jax.local_devices()}
    return [program for client in clients.values() for program in client.live_executables()]


def _paths_in(programs: Iterable[Any], names: set[str]) -> dict[str, list[Mapping[str, str]]]:
    """For each name the programs that have it: paths by operation."""
    found: dict[str, list[Mapping[str, str]]] = collections.defaultdict(list)
    for program in programs:
        for module in program.hlo_modules():
            if module.name in names:
                lines = map(_OPERATION.match, module.to_string().splitlines())
                found[module.name].append({match[1]: match[2] for match in lines if match})
    return found


def stage_table(title: str, spans: Sequence[Span], paths: Paths, seconds: float) -> Table:
    """What each stage takes of a device's time."""
    busy = min(1.0, busy_nanoseconds(spans) / 1e9 / seconds)
    table = Table(title=f"{title}, busy for {100 * busy:.0f} % of them", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("operations", "ms", "share of all operations' time"):
        table.add_column(name, justify="right", no_wrap=True)
    total = sum(span.end - span.begin for span in spans)
    groups: dict[str, list[float]] = collections.defaultdict(list)
    for span in spans:
        groups[paths.stage(span)].append(span.end - span.begin)
    for stage, taken in _largest(groups, total):
        table.add_row(stage, f"{len(taken):,}", f"{sum(taken) / 1e6:,.1f}", f"{100 * sum(taken) / total:.1f} %")
    return table


def operation_table(title: str, spans: Sequence[Span], paths: Paths) -> Table:
    """The operations that took most of a device's time."""
    table = Table(title=title, title_justify="left")
    table.add_column("operation", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("belongs to", overflow="fold")
    for name in ("calls", "ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    total = sum(span.end - span.begin for span in spans)
    groups: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for span in spans:
        groups[span.program, span.name].append(span.end - span.begin)
    for (program, name), taken in _largest(groups, total):
        one = Span(name, program, 0, 0)
        numbers = f"{len(taken):,}", f"{sum(taken) / 1e6:,.1f}", f"{100 * sum(taken) / total:.1f} %"
        table.add_row(name, paths.stage(one), _tail(paths.path(one)), *numbers)
    return table


def host_table(spans: Sequence[Span], seconds: float) -> Table:
    """What took most of the time of the threads that run Python, without what was called by it."""
    table = Table(title="host: threads of Python", title_justify="left")
    table.add_column("thread")
    table.add_column("what it did or waited for", no_wrap=True)
    for name in ("times", "ms", "of the time"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for span in spans:
        groups[span.program, span.name].append(span.end - span.begin)
    for (thread, name), taken in _largest(groups, seconds * 1e9):
        numbers = f"{len(taken):,}", f"{sum(taken) / 1e6:,.1f}", f"{sum(taken) / 1e7 / seconds:.1f} %"
        table.add_row(thread, name, *numbers)
    return table


def _largest(groups: Mapping[K, Sequence[float]], total: float) -> list[tuple[K, Sequence[float]]]:
    """The groups that took most, without those that are next to nothing."""
    ordered = sorted(groups.items(), key=lambda item: -sum(item[1]))
    return [(key, taken) for key, taken in ordered[:_TOP] if sum(taken) >= _LEAST_SHARE * total]


def busy_nanoseconds(spans: Iterable[Span]) -> float:
    """How long at least one of the operations was under way."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin):
        total += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    return total


def _tail(path: str, parts: int = 4) -> str:
    """The last parts of a path, without what the stage says."""
    said = (*_STAGES, "PolicyNetwork", "MultiGameNetwork")
    return "/".join([part for part in path.split("/") if "(" not in part and part not in said][-parts:])
