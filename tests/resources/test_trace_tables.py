"""What is told of a trace, against arithmetic and against programs whose parts are known."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.profiler import ProfileData

from pd_jax.resources import traces
from pd_jax.resources.trace_tables import Paths, busy_nanoseconds, describe_trace, loaded_programs
from pd_jax.resources.traces import Span, read_trace


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=12))
def test_busy_is_when_anything_is_under_way(pieces: list[tuple[int, int]]) -> None:
    spans = [Span("x", "", begin, begin + length) for begin, length in pieces]
    moments = {moment for begin, length in pieces for moment in range(begin, begin + length)}
    assert busy_nanoseconds(spans) == len(moments)


@dataclasses.dataclass
class Event:
    name: str
    start_ns: float
    duration_ns: float
    stats: list[tuple[str, Any]] = dataclasses.field(default_factory=list)


def test_a_threads_own_time_leaves_out_what_was_called() -> None:
    events = [Event("inner", 2, 3), Event("outer", 0, 10), Event("innermost", 3, 1), Event("later", 20, 5)]
    own: dict[str, float] = {}
    for span in traces._own_time(events, "play"):
        own[span.name] = own.get(span.name, 0) + span.end - span.begin
    assert own == {"outer": 7, "inner": 2, "innermost": 1, "later": 5}


def test_an_operation_that_is_handed_on_lasts_until_its_end_is_told() -> None:
    def operation(name: str, begin: float, length: float, key: int) -> Event:
        return Event(name, begin, length, [("hlo_op", name), ("hlo_module", "jit_f"), ("program_id", 3), ("_p", key)])

    first = [operation("dot.1", 0, 1, 7), operation("while.2", 0, 99, 8), operation("add", 5, 2, 9)]
    second = [Event("end: dot.1", 30, 1, [("_c", 7)]), Event("end: add", 7, 0, [("_c", 9)]), Event("other", 0, 50)]
    assert sorted(traces._cpu_operations([first, second]), key=lambda span: span.begin) == [
        Span("dot.1", "jit_f 3", 0, 31),
        Span("add", "jit_f 3", 5, 7),
    ]
    # Of the beginning that was read until 20, no end of dot.1 is known; add has none elsewhere.
    alone = Event("add", 5, 2, [("hlo_op", "add"), ("hlo_module", "jit_f"), ("program_id", 3)])
    assert list(traces._cpu_operations([[first[0], alone]], 20)) == [
        Span("dot.1", "jit_f 3", 0, 20),
        Span("add", "jit_f 3", 5, 7),
    ]


@dataclasses.dataclass
class Line:
    name: str
    events: list[Event]


def test_an_operation_whose_end_was_not_recorded_lasts_as_long_as_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX ended the recording before XLA told that dot.1 had ended; its beginning says no other than the whole."""

    def operation(name: str, begin: float, length: float, key: int) -> Event:
        return Event(name, begin, length, [("hlo_op", name), ("hlo_module", "jit_f"), ("program_id", 3), ("_p", key)])

    python = [Event("dispatch of updates", 0, 40), Event("Await", 50, 30), Event("Wait", 81, 1), Event("Wait", 83, 2)]
    worker = [operation("dot.1", 2, 5, 6), Event("end: dot.1", 35, 1, [("_c", 6)]), operation("dot.1", 60, 5, 7)]
    worker += [operation("add", 75, 4, 8), Event("end: add", 78, 0, [("_c", 8)])]
    lines = [Line("python", python), Line("tf_XLAEigen/1", worker)]

    class Plane:
        name = "/host:CPU"

        def __init__(self) -> None:
            self.lines = lines

    class Data:
        planes = (Plane(),)

        @staticmethod
        def from_file(_: str) -> Data:
            return Data()

    monkeypatch.setattr(traces, "ProfileData", Data)
    whole = read_trace(Path("any"))
    assert whole.operations == {
        "CPU": [Span("dot.1", "jit_f 3", 2, 36), Span("dot.1", "jit_f 3", 60, 85), Span("add", "jit_f 3", 75, 79)]
    }
    begins = sorted(event.start_ns for line in lines for event in line.events)
    for most in range(1, len(begins)):
        part = read_trace(Path("any"), most_events=most)
        assert part.until == begins[most]
        assert clipped(part.operations["CPU"] if part.operations else [], math.inf) == clipped(
            whole.operations["CPU"], part.until
        )
        assert clipped(part.host, math.inf) == clipped(whole.host, part.until)
    assert read_trace(Path("any"), most_events=len(begins)) == whole


@given(st.lists(st.lists(st.integers(0, 20).map(float)), max_size=5), st.integers(1, 30))
def test_the_beginning_of_a_trace_ends_at_one_moment_for_all_its_threads(begins: list[list[float]], most: int) -> None:
    lines = [[Event("x", begin, 1) for begin in sorted(line)] for line in begins]
    read, until = traces._beginning(lines, most, traces.go_on)
    everything = sorted(begin for line in begins for begin in line)
    assert until == (everything[most] if len(everything) > most else math.inf)
    assert sum(map(len, read)) == min(most, len(everything))
    for line, part in zip(lines, read, strict=True):
        assert part == line[: len(part)]
        assert [event for event in line if event.start_ns < until] == [e for e in part if e.start_ns < until]
    assert traces._beginning(lines, None, traces.go_on) == (lines, math.inf)


class Enough(Exception):
    """Raised by a check."""


def test_a_check_ends_the_reading_of_a_large_trace() -> None:
    checks = itertools.count()

    def check() -> None:
        if next(checks) == 3:
            raise Enough

    with pytest.raises(Enough):
        traces._beginning([[Event("x", begin, 1) for begin in range(50_000)]], None, check)
    operations = [Event("add", begin, 1, [("hlo_op", "add")]) for begin in range(50_000)]
    checks = itertools.count()
    with pytest.raises(Enough):
        list(traces._cpu_operations([traces.checked(operations, check)]))


def test_of_an_accelerators_lines_one_is_read_or_those_of_its_streams() -> None:
    def operations(lines: list[Line]) -> list[Span]:
        return [span for line in traces._operation_lines(lines) for span in traces._device_operations(line.events)]

    fusion = Event("fusion.1", 0, 5, [("hlo_op", "fusion.1"), ("hlo_module", "jit_f"), ("program_id", 1)])
    step = Line("Steps", [Event("1", 0, 100)])
    gpu = [step, Line("Stream #7(Compute)", [fusion, Event("MemcpyH2D", 5, 1)])]
    assert [span.name for span in operations(gpu)] == ["fusion.1", "MemcpyH2D"]
    tpu = [step, Line("XLA Ops", [Event("%copy.3 = f32[] copy(%x)", 0, 2), Event("%while.1 = ()", 0, 90)])]
    assert [span.name for span in operations(tpu)] == ["copy.3"]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of 8 steps, 5 times, of a program that has a loop, three stages and a gradient."""
    directory = tmp_path_factory.mktemp("trace") / "updates"

    @jax.jit
    def learn(weights: jax.Array, seen: jax.Array) -> jax.Array:
        def update(weights: jax.Array, _: None) -> tuple[jax.Array, None]:
            with jax.named_scope("sample"):
                batch = jnp.sort(seen, axis=0)
            with jax.named_scope("loss"):
                gradient = jax.grad(lambda own: jnp.tanh(batch @ own).sum())(weights)
            with jax.named_scope("optimizer"):
                return weights - 1e-3 * gradient, None

        return jax.lax.scan(update, weights, length=8)[0]

    weights, seen = jnp.ones((128, 128)), jnp.arange(256.0 * 128).reshape(256, 128)
    jax.block_until_ready(learn(weights, seen))
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(directory, profiler_options=options)
    for _ in range(5):
        with jax.profiler.TraceAnnotation("dispatch of updates"):
            jax.block_until_ready(learn(weights, seen))
    jax.profiler.stop_trace()
    directory.with_name("text").write_text(describe_trace(directory, 1.0, loaded_programs()))
    (path,) = directory.rglob("*.xplane.pb")
    paths = Paths(read_trace(path).operations["CPU"], loaded_programs())
    stages = {paths.stage(span) for span in read_trace(path).operations["CPU"]}
    directory.with_name("stages").write_text(" ".join(sorted(stages)))
    return directory


def test_operations_are_told_by_the_stages_of_the_package(traced: Path) -> None:
    stages = set(traced.with_name("stages").read_text().split())
    assert {"forward", "backward", "sample"} <= stages
    assert stages <= {"forward", "backward", "sample", "optimizer", "learn"}


def test_operations_are_counted_as_often_as_they_ran(traced: Path) -> None:
    (path,) = traced.rglob("*.xplane.pb")
    counts: dict[str, int] = {}
    for span in read_trace(path).operations["CPU"]:
        counts[span.name] = counts.get(span.name, 0) + 1
    assert not any(name.startswith("while") for name in counts)
    # Once in each of five calls, or in each of eight steps of them.
    assert {count for name, count in counts.items() if "dot" in name or "tanh" in name} <= {5, 40}, counts
    assert 40 in counts.values()


def test_the_tables_say_what_took_the_time(traced: Path) -> None:
    text = traced.with_name("text").read_text()
    assert re.search(r"updates: CPU in 1\.0 s, busy for \d+ % of them", text)
    shares = [float(share) for share in re.findall(r"│ +([\d.]+) % │", text.split("CPU: operations")[0])]
    assert 99 <= sum(shares) <= 100.5
    assert shares == sorted(shares, reverse=True)
    assert "training" in text.split("host: threads of Python")[1]
    assert f"--logdir {traced.parent}" in text
    assert max(map(len, text.splitlines()[:-1])) <= 110


def all_begins(path: Path) -> list[float]:
    """When the events of a CPU's trace begin, of all threads, in order."""
    planes = [plane for plane in ProfileData.from_file(str(path)).planes if plane.name == "/host:CPU"]
    return sorted(event.start_ns for plane in planes for line in plane.lines for event in line.events)


def clipped(spans: Sequence[Span], until: float) -> list[tuple[str, str, float, float]]:
    return sorted((s.name, s.program, s.begin, min(s.end, until)) for s in spans if s.begin < until)


def test_the_beginning_of_a_trace_is_the_whole_cut_off_at_a_moment(traced: Path) -> None:
    (path,) = traced.rglob("*.xplane.pb")
    begins = all_begins(path)
    whole = read_trace(path)
    assert whole.until == math.inf
    assert read_trace(path, most_events=len(begins)) == whole
    for most in (len(begins) // 5, len(begins) // 2, len(begins) - 1):
        part = read_trace(path, most_events=most)
        assert part.until == begins[most]
        assert clipped(part.operations["CPU"], math.inf) == clipped(whole.operations["CPU"], part.until)
        assert clipped(part.host, math.inf) == clipped(whole.host, part.until)


def test_the_tables_of_a_beginning_say_so_and_count_its_seconds(traced: Path) -> None:
    (path,) = traced.rglob("*.xplane.pb")
    begins = all_begins(path)
    most = len(begins) // 2
    seconds = begins[most] / 1e9
    text = describe_trace(traced, 1.0, [], most_events=most)
    first = f"in the first {seconds:.2g} of 1.0 s"
    stages, host = text.split("host: threads of Python ")
    assert host.startswith(first)
    (busy,) = re.findall(rf"updates: CPU {re.escape(first)}, busy for (\d+) % of them", stages)
    ends = [(begin, end) for *_, begin, end in clipped(read_trace(path).operations["CPU"], begins[most])]
    moments = np.linspace(0, begins[most], 20_001)
    under_way = np.zeros(moments.shape, bool)
    for begin, end in ends:
        under_way |= (begin <= moments) & (moments < end)
    assert abs(int(busy) - 100 * under_way.mean()) < 1.5
    shares = [(float(ms), float(share)) for ms, share in re.findall(r"│ +([\d.]+) │ +([\d.]+) % │", host)]
    assert shares and all(share == pytest.approx(ms / 10 / seconds, abs=0.05 + 5e-3 / seconds) for ms, share in shares)


def test_a_check_ends_the_asking_of_programs(traced: Path) -> None:
    asked: list[int] = []

    class Program:
        def hlo_modules(self) -> list[Any]:
            asked.append(1)
            return []

    def check() -> None:
        if asked:
            raise Enough

    with pytest.raises(Enough):
        describe_trace(traced, 1.0, [Program(), Program()], check=check)
    assert len(asked) == 1


def test_a_directory_without_a_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="left no trace"):
        describe_trace(tmp_path, 1.0, [])
