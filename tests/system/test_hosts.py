"""Several processes on this machine, through the real command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config
from pd_jax.errors import UserError
from pd_jax.system import hosts
from support.commands import (
    QUICK_EVALUATION,
    Ended,
    checkpoint_steps,
    finish,
    options,
    read_lines,
    virtual_devices,
    wait_until,
    write_teacher,
)


def start_with_devices(num_devices: int, values: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pd_jax", "distill", *options(values)]
    environment = os.environ | virtual_devices(num_devices)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def start_two(values: dict[str, Any], seconds_between: float = 0.0) -> list[subprocess.Popen[str]]:
    meet = {"hosts.coordinator": f"localhost:{free_port()}", "hosts.num-processes": 2}
    first = start_with_devices(2, values | meet | {"hosts.process-id": 0})
    time.sleep(seconds_between)
    return [first, start_with_devices(2, values | meet | {"hosts.process-id": 1})]


def run_two(
    values: dict[str, Any],
    do: Callable[[list[subprocess.Popen[str]]], None] = lambda processes: None,
    seconds_between: float = 0.0,
) -> list[Ended]:
    """Two processes of two devices to their end, after something was done to them."""
    processes = start_two(values, seconds_between)
    try:
        do(processes)
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def told(run: Path, ended: list[Ended]) -> list[str]:
    """What each process has said; all but the first say it to a file of their own."""
    log = run / "logs" / "process-1.log"
    return [ended[0].stderr, ended[1].stderr + (log.read_text() if log.exists() else "")]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run) if "loss" in line]


def test_two_processes_of_two_devices_learn_what_one_of_four_learns(
    tmp_path: Path, recorded_run_options: dict[str, Any]
) -> None:
    short = {"schedule.rounds": 2, "schedule.updates-per-round": 25, "learner.updates-per-call": 1}
    values = recorded_run_options | QUICK_EVALUATION | short
    # A host that is late is waited for.
    two = run_two(values | {"out": tmp_path / "two"}, seconds_between=3)
    one = finish(start_with_devices(4, values | {"out": tmp_path / "one"}))
    assert [ended.code for ended in (*two, one)] == [0, 0, 0], [ended.stderr[-1000:] for ended in (*two, one)]
    assert len(losses(tmp_path / "one")) == 50
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)
    assert two[1].stdout == "", "process 0 tells the result"


@pytest.mark.slow
def test_two_processes_play_two_games_live_and_are_scored_on_the_way(tmp_path: Path) -> None:
    values = QUICK_EVALUATION | {
        "teacher": ["cartpole", "acrobot"],
        "student.network": "mlp",
        "student.mlp-hidden": 16,
        "env.num-lanes": 8,
        "learner.batch-size": 8,
        "learner.updates-per-call": 10,
        "replay.capacity": 512,
        "schedule.rounds": 3,
        "schedule.steps-per-round": 256,
        "schedule.updates-per-round": 40,
        "evaluation.every-rounds": 1,
        "evaluation.progress-episodes": 2,
        "checkpoint.every-seconds": 0.01,
        "out": tmp_path / "run",
    }
    ended = run_two(values)
    assert [process.code for process in ended] == [0, 0], told(tmp_path / "run", ended)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["updates"], summary["env_steps"], summary["devices"]) == (120, 2 * 3 * 256, 4)
    assert [line["step"] for line in read_lines(tmp_path / "run") if "mean_percent" in line] == [40, 80]
    assert checkpoint_steps(tmp_path / "run")[-1] == 120


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_process_is_lost_the_other_names_it_and_a_rerun_goes_on(
    tmp_path: Path, recorded_run_options: dict[str, Any], lost: int
) -> None:
    out = tmp_path / "run"
    many = {
        "schedule.rounds": 2,
        "schedule.updates-per-round": 240,
        "checkpoint.every-updates": 40,
        "out": out,
        "resume": "auto",
    }
    killed_at = []

    def kill(processes: list[subprocess.Popen[str]]) -> None:
        wait_until(lambda: len(checkpoint_steps(out)) > 1, processes[0])
        processes[lost].kill()
        killed_at.append(time.monotonic())

    ended = run_two(recorded_run_options | QUICK_EVALUATION | many, kill)
    seconds = time.monotonic() - killed_at[0]
    left = 1 - lost
    assert ended[lost].code == -signal.SIGKILL and ended[left].code == hosts.LOST, told(out, ended)
    assert f"pd-jax: process {lost} " in told(out, ended)[left]
    assert "has been lost" in told(out, ended)[left] and "--resume" in told(out, ended)[left]
    assert seconds < 60
    saved = checkpoint_steps(out)[-1]
    again = run_two(recorded_run_options | QUICK_EVALUATION | many)
    assert [process.code for process in again] == [0, 0], told(out, again)
    assert f"resumed at update {saved:,}" in again[0].stderr
    assert [line["step"] for line in read_lines(out)] == list(range(20, 481, 20))


def test_a_signal_to_one_process_saves_the_run_of_both(tmp_path: Path, recorded_run_options: dict[str, Any]) -> None:
    out = tmp_path / "run"

    def stop(processes: list[subprocess.Popen[str]]) -> None:
        wait_until(lambda: len(read_lines(out)) > 3, processes[0])
        processes[1].send_signal(signal.SIGTERM)

    rare = {"schedule.updates-per-round": 20_000, "checkpoint.every-updates": 100_000, "out": out}
    ended = run_two(recorded_run_options | rare, stop)
    assert [process.code for process in ended] == [143, 143], told(out, ended)
    assert checkpoint_steps(out)[-1] == read_lines(out)[-1]["step"] > 0


def test_a_signal_during_start_up_is_not_lost(tmp_path: Path, recorded_run_options: dict[str, Any]) -> None:
    out = tmp_path / "run"

    def stop(processes: list[subprocess.Popen[str]]) -> None:
        wait_until(out.exists, processes[0])
        processes[1].send_signal(signal.SIGTERM)

    ended = run_two(recorded_run_options | {"schedule.updates-per-round": 20_000, "out": out}, stop)
    assert [process.code for process in ended] == [143, 143], told(out, ended)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_process_that_waits_for_others_to_start_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    meet = {"hosts.coordinator": f"localhost:{port}", "hosts.num-processes": 2, "hosts.process-id": 0}
    values = {"teacher": "cartpole", "student.network": "mlp", "out": tmp_path / "run"}
    process = start_with_devices(1, values | meet)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", port)) == 0

    wait_until(listens, process)
    process.send_signal(number)
    ended = finish(process)
    assert (
        ended.code == 128 + number and f"stopped by {number.name}" in ended.stderr and not (tmp_path / "run").exists()
    )


def test_what_one_process_finds_wrong_is_said_by_all(tmp_path: Path) -> None:
    """A teacher that is not the same file everywhere: only one process sees that it is broken."""
    values = {"teacher": "cartpole", "student.network": "mlp", "env.num-lanes": 8, "out": tmp_path / "run"}
    meet = {"hosts.coordinator": f"localhost:{free_port()}", "hosts.num-processes": 2}
    broken = write_teacher(tmp_path / "broken.safetensors", "cartpole")
    broken.write_bytes(broken.read_bytes()[:100])
    processes = [
        start_with_devices(1, values | meet | {"hosts.process-id": 0}),
        start_with_devices(1, values | meet | {"hosts.process-id": 1, "teacher": broken}),
    ]
    ended = [finish(process) for process in processes]
    assert [process.code for process in ended] == [2, 2], [process.stderr for process in ended]
    assert "process 1 has ended" in ended[0].stderr and "broken.safetensors" in ended[0].stderr
    assert "Traceback" not in ended[0].stderr + ended[1].stderr


def test_processes_that_were_given_different_runs_say_so_and_write_nothing(tmp_path: Path) -> None:
    values = {"teacher": "cartpole", "student.network": "mlp", "env.num-lanes": 8, "out": tmp_path / "run"}
    meet = {"hosts.coordinator": f"localhost:{free_port()}", "hosts.num-processes": 2}
    processes = [
        start_with_devices(1, values | meet | {"hosts.process-id": process, "learner.batch-size": batch})
        for process, batch in enumerate((32, 64))
    ]
    ended = [finish(process) for process in processes]
    message = "learner.batch_size: is 32 in process 0 and 64 in process 1; all processes of a run need the same"
    assert [process.code for process in ended] == [2, 2], [process.stderr for process in ended]
    assert ended[1].stderr.splitlines()[-1] == f"pd-jax distill: {message}"
    assert ended[0].stderr.splitlines()[-1] == f"pd-jax: process 1 has ended: {message}"
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_not_shared_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "SHARED_WITHIN_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"config\.yaml: process 0 has written it, .* file system that all hosts share"):
        hosts.wait_for_shared(tmp_path / "run" / "config.yaml")
    (tmp_path / "config.yaml").touch()
    hosts.wait_for_shared(tmp_path / "config.yaml")


def test_a_port_that_another_program_listens_at_is_the_users_error(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"
        meet = {"hosts.coordinator": address, "hosts.num-processes": 2, "hosts.process-id": 0}
        values = {"teacher": "cartpole", "student.network": "mlp", "out": tmp_path / "run"}
        ended = finish(start_with_devices(1, values | meet))
    assert ended.code == 2 and "hosts.coordinator: cannot listen at port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_host_that_never_starts_is_a_message_after_the_timeout(tmp_path: Path) -> None:
    meet = {"hosts.coordinator": f"localhost:{free_port()}", "hosts.num-processes": 2, "hosts.process-id": 1}
    values = {"teacher": "cartpole", "student.network": "mlp", "out": tmp_path / "run", "hosts.start-timeout": 1}
    ended = finish(start_with_devices(1, values | meet))
    assert ended.code == 2 and "not all 2 processes met" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_only_a_launcher_of_several_processes_makes_one_wait_for_others(
    environment: dict[str, str], expected: bool
) -> None:
    assert hosts.is_launched_with_others(environment) is expected


def test_a_process_of_its_own_joins_nobody(tmp_path: Path) -> None:
    config = load_config(COMMANDS["distill"], ["--teacher", "cartpole", "--out", str(tmp_path)], "distill")
    hosts.join(config.hosts)
    assert hosts.current() is None and hosts.is_primary()
