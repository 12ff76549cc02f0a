"""Several processes on this machine, through the real command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import QUICK_EVALUATION, Ended, finish, options, read_lines

from pd_jax import hosts
from pd_jax.config import COMMANDS
from pd_jax.config_loading import load_config


def start_with_devices(num_devices: int, values: dict[str, Any]) -> subprocess.Popen[str]:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pd_jax", "distill", *options(values)]
    return subprocess.Popen(command, env=os.environ | flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def run_two(values: dict[str, Any]) -> list[Ended]:
    meet = {"hosts.coordinator": f"localhost:{free_port()}", "hosts.num-processes": 2}
    processes = [start_with_devices(2, values | meet | {"hosts.process-id": process}) for process in range(2)]
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_of_two_devices_learn_what_one_of_four_learns(
    tmp_path: Path, recorded_run_options: dict[str, Any]
) -> None:
    short = {"schedule.rounds": 2, "schedule.updates-per-round": 25, "learner.updates-per-call": 1}
    values = recorded_run_options | QUICK_EVALUATION | short
    two = run_two(values | {"out": tmp_path / "two"})
    one = finish(start_with_devices(4, values | {"out": tmp_path / "one"}))
    assert [ended.code for ended in (*two, one)] == [0, 0, 0], [ended.stderr[-1000:] for ended in (*two, one)]
    losses = [[line["loss"] for line in read_lines(tmp_path / name)] for name in ("one", "two")]
    assert len(losses[0]) == 50
    np.testing.assert_allclose(*losses, atol=1e-5)


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
