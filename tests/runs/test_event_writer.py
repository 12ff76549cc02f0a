"""Event files are, byte for byte, those of tensorboardX."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from pd_jax.runs.event_writer import EventWriter

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
LINES = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(1e-3, 1e12),
    st.dictionaries(NAMES, st.floats(), max_size=5),
)


@given(lines=st.lists(LINES, max_size=5), starts=st.booleans())
@settings(max_examples=60, deadline=None)
def test_files_are_those_of_tensorboardx(lines: list[tuple[int, float, dict[str, float]]], starts: bool) -> None:
    with tempfile.TemporaryDirectory() as directory, mock.patch("time.time", lambda: 1_700_000_000.25):
        theirs = EventsWriter(f"{directory}/events", ".theirs")
        ours = EventWriter(Path(directory), ".ours")
        if starts:
            ours.start_session()
            theirs.write_event(
                Event(wall_time=1_700_000_000.25, step=0, session_log=SessionLog(status=SessionLog.START))
            )
        for step, wall_time, scalars in lines:
            ours.write(step, wall_time, scalars)
            values = [Summary.Value(tag=tag, simple_value=scalar) for tag, scalar in scalars.items()]
            theirs.write_event(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))
        ours.close()
        theirs.close()
        (our_file,), (their_file,) = Path(directory).glob("*.ours"), Path(directory).glob("*.theirs")
        assert our_file.name.removesuffix(".ours") == their_file.name.removesuffix(".theirs")
        assert our_file.read_bytes() == their_file.read_bytes()


def test_to_write_events_imports_no_library(tmp_path: Path) -> None:
    """tensorboardX imports PyTorch where that is installed: 60 MB of it and 700 modules."""
    code = """
import sys
from pathlib import Path
from pd_jax.runs.metrics import MetricsWriter
with MetricsWriter(Path(sys.argv[1])) as writer:
    writer.write(1, {"loss": 0.5})
assert list((Path(sys.argv[1]) / "tb").iterdir())
print(*{"tensorboardX", "torch", "google.protobuf"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
