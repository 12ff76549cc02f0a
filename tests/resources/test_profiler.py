"""The profiler's window: it opens once all is compiled, closes on time, and no mishap of its own ends a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pd_jax.resources import profiler
from pd_jax.resources.profiler import Profiler
from pd_jax.system.interrupts import Interrupted, Interrupts
from support.commands import QUICK_EVALUATION, ordinary_user, public_directory, refusal, state_digests, succeed


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """JAX has one trace at a time; one that stays open would fail every test after it."""
    yield
    with pytest.raises(RuntimeError, match="No profile started"):
        jax.profiler.stop_trace()
    assert not [thread for thread in threading.enumerate() if thread.name == "profile"]


def compute() -> None:
    with jax.named_scope("sample"):
        jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((64, 64))))


def traces(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).parts[0] for path in directory.rglob("*.xplane.pb"))


def test_a_stage_is_traced_when_it_begins_for_the_third_time(tmp_path: Path, told: list[str]) -> None:
    with Profiler(tmp_path / "profile", 60.0, told.append, warn=told.append) as profiler:
        profiler.stage("updates")
        profiler.stage("updates")
        assert not (tmp_path / "profile").exists()
        profiler.stage("updates")
        compute()
        # Begins in the other's window, and needs none of its own.
        for _ in range(3):
            profiler.stage("play")
        assert told == []
    assert traces(tmp_path / "profile") == ["updates"]
    (path,) = (tmp_path / "profile").rglob("*.xplane.pb")
    writing, reading, text = told
    assert writing.startswith(f"{tmp_path / 'profile' / 'updates'}: JAX writes the trace of ")
    assert reading == f"{path}: {path.stat().st_size / 1e6:.1f} MB are being read"
    assert text.startswith("updates: CPU in ")
    assert str(tmp_path / "profile") in text


def test_a_window_closes_on_time_and_the_next_stage_has_its_own(tmp_path: Path, told: list[str]) -> None:
    with Profiler(tmp_path / "profile", 0.1, told.append, warn=told.append) as profiler:
        for name in ("updates", "play"):
            for _ in range(3):
                profiler.stage(name)
            compute()
            assert profiler._window is not None
            profiler._window.join(60)
            assert not profiler._window.is_alive()
        profiler.stage("updates")
        assert [text.partition(": CPU in ")[0] for text in told if "busy for" in text] == ["updates", "play"]
    assert traces(tmp_path / "profile") == ["play", "updates"]


@pytest.mark.parametrize("error", [Interrupted(signal.SIGTERM), KeyboardInterrupt(), ValueError("diverged")])
def test_a_run_that_is_ended_by_an_exception_gets_its_trace_unread(
    tmp_path: Path, told: list[str], error: BaseException
) -> None:
    began = time.monotonic()
    with pytest.raises(type(error)), Profiler(tmp_path, 600.0, told.append, warn=told.append) as profiler:
        for _ in range(3):
            profiler.stage("updates")
        compute()
        raise error
    assert time.monotonic() - began < 300
    (path,) = tmp_path.rglob("*.xplane.pb")
    _, text = told
    assert text == (
        f"{path.parent}: for TensorBoard (--logdir {tmp_path}) and ui.perfetto.dev; "
        "its tables were left out, not to hold up the end"
    )


@pytest.fixture
def long_reading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Reading a trace takes half a minute, if nothing ends it; the event is set once it goes on."""
    begun = threading.Event()

    def read(*_: object, check: Callable[[], None]) -> str:
        for _ in range(3_000):
            check()
            begun.set()
            time.sleep(0.01)
        return "tables"

    monkeypatch.setattr(profiler, "describe_trace", read)
    return begun


def test_how_large_a_trace_is_is_said_before_it_is_read(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "updates/plugins/profile/now/host.xplane.pb"
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, 130_000_000)
    monkeypatch.setattr(profiler, "describe_trace", lambda *_, check: f"tables after {len(told)} line")
    Profiler(tmp_path, 1.0, told.append)._read(tmp_path / "updates", 1.0, [])
    assert told == [f"{path}: 130.0 MB are being read", "tables after 1 line"]


def test_an_exception_ends_the_reading_of_a_trace(
    tmp_path: Path, told: list[str], long_reading: threading.Event
) -> None:
    with pytest.raises(Interrupted), Profiler(tmp_path, 0.01, told.append, warn=told.append) as profiler:
        for _ in range(3):
            profiler.stage("updates")
        assert long_reading.wait(60)
        began = time.monotonic()
        raise Interrupted(signal.SIGINT)
    assert time.monotonic() - began < 1
    assert told[-1].endswith("its tables were left out, not to hold up the end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_end_of_a_run_ends_the_wait_for_the_tables(
    tmp_path: Path, told: list[str], long_reading: threading.Event, number: signal.Signals
) -> None:
    sent: list[float] = []

    def send() -> None:
        long_reading.wait(60)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    with Interrupts() as interrupts:
        handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        with Profiler(tmp_path, 600.0, told.append, warn=told.append) as profiler:
            for _ in range(3):
                profiler.stage("updates")
            sender = threading.Thread(target=send)
            sender.start()
        assert time.monotonic() - sent[0] < 1
        sender.join()
        # Whoever else waits for a signal has it too, and those after it as before.
        assert interrupts.requested
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert told[-1].endswith("its tables were left out, not to hold up the end")


def test_a_profiler_that_runs_already_is_a_warning(tmp_path: Path, told: list[str]) -> None:
    jax.profiler.start_trace(tmp_path / "other")
    try:
        with Profiler(tmp_path / "profile", 1.0, told.append, warn=told.append) as profiler:
            for _ in range(5):
                profiler.stage("updates")
    finally:
        jax.profiler.stop_trace()
    (warning,) = told
    assert warning.startswith(f"{tmp_path / 'profile' / 'updates'}: no profile was written: Profile has already been ")
    assert warning.endswith("; the run goes on without")


def test_a_directory_that_cannot_be_written_is_a_warning(told: list[str]) -> None:
    with public_directory() as directory, ordinary_user():
        with Profiler(directory / "profile", 1.0, told.append, warn=told.append) as profiler:
            for _ in range(5):
                profiler.stage("updates")
        assert told == [
            f"{directory / 'profile' / 'updates'}: no profile was written: Permission denied; the run goes on without"
        ]


def test_a_run_that_ends_too_early_says_that_nothing_was_traced(tmp_path: Path, told: list[str]) -> None:
    with Profiler(tmp_path / "profile", 1.0, told.append, warn=told.append) as profiler:
        profiler.stage("updates")
    assert told == ["profile: the run ended before anything had begun three times; nothing was traced"]


FULL_DISK = """
import sys, resource
from pathlib import Path
import jax, jax.numpy as jnp
from pd_jax.resources.profiler import Profiler
told = []
with Profiler(Path(sys.argv[1]), 60.0, told.append, warn=told.append) as profiler:
    for _ in range(3):
        profiler.stage("updates")
    jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((64, 64))))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))
print(told[-1])
"""


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "p"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{tmp_path / 'p' / 'updates'}: no profile was written: ")
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def profiled_run(tmp_path_factory: pytest.TempPathFactory, recorded_run_options: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("runs") / "profiled"
    options = recorded_run_options | QUICK_EVALUATION | {"out": path, "profile": True, "profile-seconds": 0.3}
    succeed("distill", options)
    return path


def test_a_run_that_is_traced_computes_the_same_bits(profiled_run: Path, finished_run: Path) -> None:
    assert traces(profiled_run / "profile") == ["updates"]
    assert state_digests(profiled_run) == state_digests(finished_run)
    # It is the same run, too.
    own, other = ((run / "config.yaml").read_text() for run in (profiled_run, finished_run))
    assert own.replace(str(profiled_run), "x") == other.replace(str(finished_run), "x")


def test_a_run_may_be_resumed_with_and_without_a_profile(
    profiled_run: Path, recorded_run_options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    again = recorded_run_options | QUICK_EVALUATION | {"out": profiled_run, "resume": True}
    succeed("distill", again)
    succeed("distill", again | {"profile": True, "profile-seconds": 0.5})
    assert "nothing was traced" in capfd.readouterr().err


def test_an_evaluation_is_traced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores"
    evaluation = {"evaluation.episodes": 4, "evaluation.num-lanes": 2, "profile": True, "profile-seconds": 0.2}
    succeed("evaluate", evaluation | {"teacher": "cartpole", "out": out})
    assert traces(out / "profile") == ["teacher"]
    assert "inference" in capfd.readouterr().err


@pytest.mark.slow
def test_a_teachers_training_is_traced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "training"
    training = {"game": "cartpole", "network": "mlp", "pqn.total-steps": 40_960, "pqn.num-lanes": 8}
    succeed("train-teacher", training | QUICK_EVALUATION | {"out": out, "profile": True, "profile-seconds": 1.0})
    assert traces(out / "profile") == ["training"]
    err = capfd.readouterr().err
    assert [stage for stage in ("backward", "stepping", "inference") if stage not in err] == [], err


def test_where_there_is_no_place_for_a_trace_it_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal(capfd, "evaluate", "--teacher", "cartpole", "--profile") == (
        "pd-jax evaluate: --profile: true, and out is missing, where the trace would go; give --out DIR"
    )
    assert refusal(
        capfd, "sweep", "--teacher", "cartpole", "--out", "never", "--student.network", "mlp", "--profile"
    ) == ("pd-jax sweep: --profile: true; a sweep is not traced, but one of its cells can be, by pd-jax distill")
    assert not os.path.exists("never")
