"""What a trace of JAX's profiler says, as tables: stages, operations of the devices, and threads of the host."""

from __future__ import annotations

import collections
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich.console import Console
from rich.table import Table

from pd_jax.resources.traces import Span, checked, find_trace, go_on, read_trace

MOST_EVENTS = 400_000
"""So many are read in two to four seconds, beside the second that JAX takes to load 150 MB of them."""
_TOP = 12
_WIDTH = 110
_STAGES = ("sample", "loss", "all_reduce", "optimizer", "inference", "stepping", "targets", "insert")
"""Scopes (`jax.named_scope`) that the package's programs have, one for each of their parts."""
_LOOPS = ("", "while", "body", "cond", "closed_call", "vmap()", "pjit")
_LEAST_SHARE = 0.002
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*?metadata=\{[^}]*op_name="([^"]*)"')
K = TypeVar("K")


def trace_viewers(path: Path) -> str:
    """What opens a trace, in a line that begins with where it is.

    Args:
      path: of its ``xplane.pb``.
    """
    return f"{path.parent}: for TensorBoard (--logdir {path.parents[4]}) and ui.perfetto.dev"


def describe_trace(
    directory: Path,
    seconds: float,
    programs: Sequence[Any],
    *,
    most_events: int | None = MOST_EVENTS,
    check: Callable[[], None] = go_on,
) -> str:
    """The tables of the newest trace below a directory, as text.

    Args:
      directory: where `jax.profiler.start_trace` was to write.
      seconds: wall time of the window.
      programs: that may have run in it, as of :func:`loaded_programs`.
      most_events, check: as :func:`read_trace` takes them. The tables of a beginning say how many seconds it has, and
        shares of the time are shares of these.

    Raises:
      FileNotFoundError: there is no trace.
      Exception: whatever ``check`` raises, and JAX's reader for a damaged trace.
    """
    path = find_trace(directory)
    trace = read_trace(path, most_events=most_events, check=check)
    paths = Paths((span for spans in trace.operations.values() for span in spans), checked(programs, check, every=1))
    read_seconds = min(seconds, trace.until / 1e9)
    first = "" if math.isinf(trace.until) else f"the first {read_seconds:.2g} of "
    text = io.StringIO()
    console = Console(file=text, width=_WIDTH, highlight=False)
    for device, spans in trace.operations.items():
        check()
        console.print(stage_table(f"{directory.name}: {device} in {first}{seconds:.1f} s", spans, paths, read_seconds))
        console.print(operation_table(f"{device}: operations", spans, paths))
    within = f" in {first}{seconds:.1f} s" if first else ""
    console.print(host_table(f"host: threads of Python{within}", trace.host, read_seconds))
    return text.getvalue() + trace_viewers(path)


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
    title = f"{title}, busy for {100 * busy:.0f} % of them"
    table = Table(title=title, title_justify="left", min_width=len(title))
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


def host_table(title: str, spans: Sequence[Span], seconds: float) -> Table:
    """What took most of the time of the threads that run Python, without what was called by it."""
    table = Table(title=title, title_justify="left")
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
