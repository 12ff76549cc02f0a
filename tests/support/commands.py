"""What the tests of the commands share: running them, killing them, and looking at what they left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.networks.registry import make_network
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.metadata import TeacherMetadata

QUICK_EVALUATION = {
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.max-episode-steps": 40,
}
SHORT_OF_VECTORS: dict[str, Any] = {
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 4,
    "learner.batch-size": 32,
    "learner.updates-per-call": 20,
    "replay.capacity": 1024,
    "schedule.rounds": 2,
    "schedule.steps-per-round": 256,
    "schedule.updates-per-round": 20,
}
"""Two rounds of a small student of a vector."""
SHORT_OF_FRAMES: dict[str, Any] = {
    "student.network": "net3",
    "student.channels": [4, 4, 4],
    "student.hidden": 8,
    "student.joint-hidden": 8,
    "env.num-lanes": 2,
    "learner.batch-size": 8,
    "learner.updates-per-call": 4,
    "replay.capacity": 256,
    "schedule.rounds": 2,
    "schedule.steps-per-round": 32,
    "schedule.rollout-length": 16,
    "schedule.updates-per-round": 4,
    "checkpoint.every-updates": 4,
    **QUICK_EVALUATION,
    "evaluation.episodes": 2,
    "evaluation.num-lanes": 2,
}
"""Two rounds of a small student of several torsos, one of them of frames."""
ENDLESS_EVALUATION = {"evaluation.episodes": 1_000_000, "evaluation.num-lanes": 2}


def options(values: Mapping[str, Any]) -> list[str]:
    """``{"a.b-c": 1, "resume": True}`` as ``["--a.b-c", "1", "--resume"]``."""
    argv: list[str] = []
    for name, value in values.items():
        argv.append(f"--{name}")
        if value is not True:
            argv += map(str, value) if isinstance(value, list) else [str(value)]
    return argv


def start(*argv: str) -> subprocess.Popen[str]:
    """``pd-jax ARGV`` as a process of its own; ``finish`` reads its output."""
    return subprocess.Popen(
        [sys.executable, "-m", "pd_jax", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@dataclasses.dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


def finish(process: subprocess.Popen[str], timeout: float = 300) -> Ended:
    """Waits for a process to end."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, stdout, stderr)


def virtual_devices(count: int) -> dict[str, str]:
    """The environment in which a process finds so many CPU devices. It must be set before JAX starts."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}


def run(command: Sequence[str], **environment: str) -> Ended:
    """Runs a command to its end, with changes to the environment."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return finish(process)


def stop_when(condition: Callable[[], object], signal_number: int, *argv: str) -> Ended:
    """Runs ``pd-jax ARGV`` and sends it a signal as soon as the condition holds."""
    process = start(*argv)
    try:
        wait_until(condition, process)
        process.send_signal(signal_number)
        return finish(process)
    finally:
        process.kill()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], timeout: float = 300) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended too early, with code {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.001)


def succeed(command: str, values: Mapping[str, Any]) -> None:
    """Runs a command in this process."""
    assert main([command, *options(values)]) == 0


def refusal(capfd: Any, *argv: str) -> str:
    """The message of a command that is refused: one line on stderr, nothing on stdout, exit code 2."""
    capfd.readouterr()
    code = main(argv)
    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    return err.removesuffix("\n")


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory. Locks are left out: they say who looked last."""
    paths = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def checkpoint_steps(run: Path) -> list[int]:
    """The complete checkpoints, by what Orbax names them."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit())


def state_digests(run: Path, step: int | None = None) -> dict[str, str]:
    """SHA-256 of every array of a checkpoint: parameters, optimizer state, counters and PRNG key."""
    step = checkpoint_steps(run)[-1] if step is None else step
    (path,) = (path for path in (run / "checkpoints" / str(step)).rglob("metadata") if path.is_file())
    return {name: leaf["sha256"] for name, leaf in json.loads(path.read_text())["leaves"].items()}


def read_lines(run: Path) -> list[dict[str, Any]]:
    """The metrics, as anyone would read them; a line that is being written is left out."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without what no two runs have alike."""
    timed = ("time", "wall_seconds", "seconds/")
    return [{name: value for name, value in line.items() if not name.startswith(timed)} for line in lines]


def write_teacher(path: Path, game: str, **changes: Any) -> Path:
    """An untrained teacher for a game, in a file. ``changes`` are to its metadata."""
    task = get_task(game)
    is_vector = task.kind == "vector"
    metadata = TeacherMetadata(
        name=f"untrained-{game}",
        game=game,
        env_id=task.env_id,
        network="mlp" if is_vector else "net3",
        layer_norm=False,
        hidden_sizes=(8,) if is_vector else (),
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype},
        output="q",
        algorithm="none",
        env_steps=0,
        seed=0,
        training_config={},
        evaluation={},
        learning_curve=[],
        how_made="by a test",
        licence="Apache-2.0",
        created="2024-01-01",
        pd_jax_version="0",
    )
    metadata = dataclasses.replace(metadata, **changes)
    network = make_network(
        metadata.network,
        metadata.num_actions,
        layer_norm=metadata.layer_norm,
        hidden_sizes=metadata.hidden_sizes or (8,),
    )
    example = np.zeros((1, *task.observation_shape), task.observation_dtype)
    save_teacher(path, jax.jit(network.init)(jax.random.key(0), example)["params"], metadata)
    return path


@contextlib.contextmanager
def no_compilation() -> Iterator[None]:
    """Fails if anything is compiled meanwhile."""
    with compilations() as compiled:
        yield
    assert compiled == []


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Names of what is compiled meanwhile, as ``jit(function)``."""
    compiled: list[str] = []

    def note(event: str, duration: float, fun_name: str = "something", **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read and write anywhere; an ordinary user may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """A temporary directory that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
