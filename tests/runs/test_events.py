"""TensorBoard's files hold what metrics.jsonl holds, after kills, resumes, roll-backs and full disks."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from pd_jax.runs import events
from pd_jax.runs.metrics import MetricsWriter, read_metrics
from support.commands import read_lines


def in_tensorboard(run: Path) -> list[dict[str, Any]]:
    """What all event files of a run hold, by tensorboardX's own messages; each whole record once."""
    lines = []
    for path in (run / "tb").glob("*tfevents*"):
        content, position = path.read_bytes(), 0
        while position + 12 <= len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            if position + 16 + length > len(content):
                break
            event = Event.FromString(content[position + 12 : position + 12 + length])
            if event.HasField("summary"):
                values = {value.tag: value.simple_value for value in event.summary.value}
                lines.append({"step": event.step, "time": event.wall_time, **values})
            position += 16 + length
    return sorted(lines, key=lambda line: line["step"])


def as_floats(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics as TensorBoard can hold them: in float32, without what is unknown."""
    return [
        {
            name: value if name in ("step", "time") else float(np.float32(value))
            for name, value in line.items()
            if value is not None
        }
        for line in lines
    ]


def assert_alike(run: Path) -> None:
    assert in_tensorboard(run) == as_floats(read_lines(run))


CHILD = """
import sys, time
from pd_jax.runs.metrics import MetricsWriter
path, keep, flushes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
from pd_jax.runs import events
events._FLUSH_SECONDS = flushes
writer = MetricsWriter(path)
writer.truncate_after(keep)
for step in range(keep + 1, 1_000_000):
    writer.write(step, {"loss": 1 / (step + 2), "score/pong": None if step % 3 else float(step)})
    print(step, flush=True)
"""


@pytest.mark.parametrize("flush_seconds", [0.01, 10.0])
def test_events_are_the_metrics_after_kills_and_resumes(tmp_path: Path, flush_seconds: float) -> None:
    chance = random.Random(int(flush_seconds))
    keep = -1
    for _ in range(2):
        argv = [sys.executable, "-c", CHILD, str(tmp_path), str(keep), str(flush_seconds)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 60)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        # The checkpoint that the run goes on from.
        keep = max(-1, read_lines(tmp_path)[-1]["step"] - chance.randint(0, 9))
    with MetricsWriter(tmp_path) as writer:
        writer.truncate_after(keep)
        writer.write(keep + 1, {"loss": 2.0, "nan": float("nan")})
    assert [line["step"] for line in read_lines(tmp_path)] == list(range(keep + 2))
    assert_alike(tmp_path)


def test_a_run_that_is_killed_and_has_nothing_more_to_write_is_mended_when_it_is_opened(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(5):
            writer.write(step, {"loss": step})
    (path,) = (tmp_path / "tb").iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    assert len(in_tensorboard(tmp_path)) == 4
    with MetricsWriter(tmp_path) as writer:
        assert writer.truncate_after(4) == 0
    assert_alike(tmp_path)


def test_files_that_are_right_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(-1, {"loss": 0.5})
        writer.write(2**40, {})
    before = {path: path.read_bytes() for path in (tmp_path / "tb").iterdir()}
    with monkeypatch.context() as patched:
        # Nothing is to be written, so no file is begun.
        patched.setattr(events, "EventWriter", None)
        with MetricsWriter(tmp_path) as writer:
            writer.truncate_after(2**40)
    assert {path: path.read_bytes() for path in (tmp_path / "tb").iterdir()} == before
    with MetricsWriter(tmp_path) as writer:
        writer.truncate_after(2**40)
        writer.write(2**40 + 1, {"loss": 1.5})
    assert before.items() <= {path: path.read_bytes() for path in (tmp_path / "tb").iterdir()}.items()
    assert_alike(tmp_path)


def test_a_roll_back_in_mid_run_takes_its_events_back(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(6):
            writer.write(step, {"loss": step})
        assert writer.truncate_after(2) == 3
        for step in range(3, 6):
            writer.write(step, {"loss": -step})
    assert [line["loss"] for line in in_tensorboard(tmp_path)] == [0, 1, 2, -3, -4, -5]
    assert_alike(tmp_path)


def test_a_run_that_begins_anew_leaves_no_events_of_the_first_attempt(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
    with MetricsWriter(tmp_path) as writer:
        assert writer.truncate_after(-1) == 1
    assert in_tensorboard(tmp_path) == read_metrics(tmp_path / "metrics.jsonl") == []


def test_events_without_metrics_are_somebody_elses(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
    (tmp_path / "metrics.jsonl").unlink()
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 2.0})
    assert [line["loss"] for line in in_tensorboard(tmp_path)] in ([1.0, 2.0], [2.0, 1.0])


def test_what_a_full_disk_has_cost_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_FLUSH_SECONDS", 0.0)
    warnings: list[str] = []
    with MetricsWriter(tmp_path, warn=warnings.append) as writer:
        for step in range(20):
            writer.write(step, {f"value/{index}": step for index in range(20)})
        (path,) = (tmp_path / "tb").iterdir()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Events take less room than lines: the next ones are to fit nowhere, and the lines still to fit.
        (tmp_path / "metrics.jsonl").write_bytes(
            b"".join((tmp_path / "metrics.jsonl").read_bytes().splitlines(True)[-3:])
        )
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))
            for step in range(20, 25):
                writer.write(step, {f"value/{index}": step for index in range(20)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(warnings) == 1 and "metrics cannot be written" in warnings[0]
        writer.write(25, {"loss": 1.0})
    assert [line["step"] for line in read_lines(tmp_path)] == [17, 18, 19, *range(20, 26)]
    assert_alike(tmp_path)
