"""What is told of a trace, against arithmetic and against programs whose parts are known."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.reporting import profile
from pd_jax.reporting.profile import Paths, Span, busy_nanoseconds, describe_trace, loaded_programs, read_trace


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
    for span in profile._own_time(events, "play"):
        own[span.name] = own.get(span.name, 0) + span.end - span.begin
    assert own == {"outer": 7, "inner": 2, "innermost": 1, "later": 5}


def test_an_operation_that_is_handed_on_lasts_until_its_end_is_told() -> None:
    def operation(name: str, begin: float, length: float, key: int) -> Event:
        return Event(name, begin, length, [("hlo_op", name), ("hlo_module", "jit_f"), ("program_id", 3), ("_p", key)])

    first = [operation("dot.1", 0, 1, 7), operation("while.2", 0, 99, 8), operation("add", 5, 2, 9)]
    second = [Event("end: dot.1", 30, 1, [("_c", 7)]), Event("end: add", 7, 0, [("_c", 9)]), Event("other", 0, 50)]
    assert sorted(profile._cpu_operations([first, second]), key=lambda span: span.begin) == [
        Span("dot.1", "jit_f 3", 0, 31),
        Span("add", "jit_f 3", 5, 7),
    ]


def test_of_an_accelerators_lines_one_is_read_or_those_of_its_streams() -> None:
    @dataclasses.dataclass
    class Line:
        name: str
        events: list[Event]

    fusion = Event("fusion.1", 0, 5, [("hlo_op", "fusion.1"), ("hlo_module", "jit_f"), ("program_id", 1)])
    step = Line("Steps", [Event("1", 0, 100)])
    gpu = [step, Line("Stream #7(Compute)", [fusion, Event("MemcpyH2D", 5, 1)])]
    assert [span.name for span in profile._device_operations(gpu)] == ["fusion.1", "MemcpyH2D"]
    tpu = [step, Line("XLA Ops", [Event("%copy.3 = f32[] copy(%x)", 0, 2), Event("%while.1 = ()", 0, 90)])]
    assert [span.name for span in profile._device_operations(tpu)] == ["copy.3"]


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


def test_a_directory_without_a_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="left no trace"):
        describe_trace(tmp_path, 1.0, [])
