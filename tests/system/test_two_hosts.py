"""Two hosts with a cable between them, as network namespaces: where the machine can make none, these are skipped."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

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
)
from support.two_hosts import TwoHosts, two_hosts

LIVE = QUICK_EVALUATION | {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 8,
    "learner.batch-size": 32,
    "learner.updates-per-call": 10,
    "replay.capacity": 1024,
    "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 40,
    "resume": "auto",
}


def start(two: TwoHosts, values: dict[str, Any]) -> list[subprocess.Popen[str]]:
    meet = {"hosts.coordinator": f"{two.address}:45700", "hosts.num-processes": 2}
    environment = os.environ | virtual_devices(1)
    return [
        two.start(host, "distill", *options(values | meet | {"hosts.process-id": host}), environment=environment)
        for host in (0, 1)
    ]


def end(processes: list[subprocess.Popen[str]]) -> list[Ended]:
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    ("resolves_to", "told"),
    [
        (
            "127.0.1.1",
            "hosts: on pd-host-0 its own name resolves to 127.0.1.1, where no other host can reach it: in /etc/hosts "
            "there, give the name pd-host-0 the address 10.213.57.1",
        ),
        # The line of /etc/hosts is a comment.
        (
            "#",
            "hosts: the own name of this host, pd-host-0, resolves to nothing: in /etc/hosts there, give the name "
            "pd-host-0 the address by which other hosts reach it",
        ),
    ],
    ids=["loopback", "nothing"],
)
@pytest.mark.slow
def test_a_host_whose_own_name_leads_nobody_to_it_is_told_before_anything_is_written(
    tmp_path: Path, resolves_to: str, told: str
) -> None:
    with two_hosts(tmp_path, own_address=(resolves_to, "127.0.1.1")) as two:
        ended = end(start(two, LIVE | {"schedule.rounds": 2, "out": tmp_path / "run"}))
    assert [process.code for process in ended] == [2, 2], [process.stderr for process in ended]
    assert [process.stderr.splitlines()[-1] for process in ended] == [
        f"pd-jax distill: {told}",
        f"pd-jax: process 0 has ended: {told}",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_a_cable_that_is_pulled_ends_both_sides_and_a_rerun_goes_on(tmp_path: Path, host: int) -> None:
    out = tmp_path / "run"
    values = LIVE | {"schedule.rounds": 60, "out": out}
    with two_hosts(tmp_path) as two:
        processes = start(two, values)
        try:
            wait_until(lambda: len(checkpoint_steps(out)) > 1, processes[0])
            two.set_cable(host, "down")
            began = time.monotonic()
            ended = end(processes)
            seconds = time.monotonic() - began
        finally:
            for process in processes:
                process.kill()
        log = out / "logs" / "process-1.log"
        assert [process.code for process in ended] == [hosts.LOST] * 2, (ended, log.read_text())
        assert seconds < 60
        assert "pd-jax: process 1 (pd-host-1) has been lost" in ended[0].stderr and "--resume" in ended[0].stderr
        assert "pd-jax: process 0 (pd-host-0) has been lost" in log.read_text() and "--resume" in log.read_text()
        two.set_cable(host, "up")
        saved = checkpoint_steps(out)[-1]
        again = end(start(two, values))
    assert [process.code for process in again] == [0, 0], (again, log.read_text())
    assert f"resumed at update {saved:,}" in again[0].stderr
    steps = [line["step"] for line in read_lines(out) if "loss" in line]
    assert steps == list(range(10, 2401, 10)), "no gap and no repeat"
