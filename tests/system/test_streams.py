"""Commands whose standard output or error is closed, full, or read by nobody any more, from the start or midway."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.commands import QUICK_EVALUATION, Ended, options, read_lines, run

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
GONE = [
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    "| true",
    "2>&1 | head -1",
    pytest.param(">/dev/full", marks=needs_dev_full),
    pytest.param("2>/dev/full", marks=needs_dev_full),
    pytest.param(">/dev/full 2>&1", marks=needs_dev_full),
]


def shell(argv: list[str], redirection: str) -> Ended:
    """``pd-jax ARGV REDIRECTION``; the exit code is that of pd-jax, whoever stands behind it in a pipe."""
    command = shlex.join([sys.executable, "-m", "pd_jax", *argv])
    return run(["bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"])


@pytest.mark.parametrize("redirection", GONE)
def test_a_report_that_is_written_is_a_success_whoever_hears_of_it(
    tmp_path: Path, finished_run: Path, redirection: str
) -> None:
    ended = shell(["report", str(finished_run), "--out", str(tmp_path / "report")], redirection)
    assert ended.code == 0, ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert {"report.json", "report.md"} <= set(os.listdir(tmp_path / "report"))
    told = f"warning: standard output: No space left on device; what was made is in {tmp_path / 'report'}\n"
    assert (told in ended.stderr) is (redirection == ">/dev/full")


@pytest.mark.slow
@pytest.mark.parametrize("redirection", GONE)
def test_a_distillation_that_is_finished_is_a_success_whoever_hears_of_it(
    tmp_path: Path, recorded_run_options: dict[str, Any], redirection: str
) -> None:
    out = tmp_path / "run"
    ended = shell(["distill", *options(recorded_run_options | QUICK_EVALUATION | {"out": out})], redirection)
    assert ended.code == 0, ended.stderr
    assert json.loads((out / "summary.json").read_text())["updates"] == len(read_lines(out)) * 20 == 1000


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("| true", 1),
        pytest.param(">/dev/full", 2, marks=needs_dev_full),
        pytest.param(">/dev/full 2>&1", 2, marks=needs_dev_full),
    ],
)
def test_a_command_that_makes_nothing_but_words_says_that_they_were_lost(redirection: str, code: int) -> None:
    # More than a pipe holds is not needed: there is nobody behind it.
    ended = shell(["teachers", "list", "--json"], redirection.replace("| true", "| sleep 0"))
    assert ended.code in {code, 0} if "|" in redirection else ended.code == code
    assert "Traceback" not in ended.stderr and ended.stderr.count("\n") <= 1
    assert ended.stderr == ("pd-jax teachers list: No space left on device\n" if redirection == ">/dev/full" else "")


@needs_dev_full
def test_what_is_wrong_keeps_its_exit_code_where_nobody_can_be_told() -> None:
    assert shell(["teachers", "show", "no-such-teacher"], "2>/dev/full").code == 2
    assert shell(["teachers", "show", "no-such-teacher"], "2>&-").code == 2


PROGRAM = """
import os, sys, threading, time
from pd_jax.system import streams
streams.prepare()
if {outlasts}:
    streams.outlast("stdout")
print("first", flush=True)
sys.stdin.readline()
try:
    print("x" * 100_000, flush=True)
    print("last", file=sys.stderr)
except BrokenPipeError:
    print("broken", file=sys.stderr)
    os._exit(1)
fault = streams.fault_in("stdout")
print(type(fault).__name__, sys.stdout.isatty(), sys.stdout.fileno(), file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("outlasts", "told"), [(True, "last\nBrokenPipeError False 1\n"), (False, "broken\n")])
def test_a_reader_may_go_midway(outlasts: bool, told: str, unbuffered: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(outlasts=outlasts)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.write("go on\n")
    process.stdin.close()
    assert process.stderr.read() == told
    assert process.wait() == (0 if outlasts else 1)


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    code = (
        "import os, sys\nfrom pd_jax.system import streams\nos.set_blocking(1, False)\nstreams.prepare()\n"
        "print('x' * 1_000_000, flush=True)"
    )
    ended = run([sys.executable, "-c", code])
    assert (ended.code, len(ended.stdout), ended.stderr) == (0, 1_000_001, "")


def test_descriptors_that_are_closed_are_not_given_to_files() -> None:
    code = (
        "import os, sys\nfrom pd_jax.system import streams\nstreams.prepare()\n"
        "os.write(int(sys.argv[1]), str(os.open(os.devnull, os.O_RDONLY) > 2).encode())"
    )
    reader, writer = os.pipe()
    with os.fdopen(reader) as told:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {writer} <&- >&- 2>&-"],
            pass_fds=[writer],
        )
        os.close(writer)
        assert told.read() == "True"
    assert process.wait() == 0
