"""Launchers: who is alone, who is told what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config
from pd_jax.config.sections import HostsConfig
from pd_jax.errors import UserError
from pd_jax.system import hosts
from support.commands import options

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
}
TPUS = {"TPU_WORKER_HOSTNAMES": "a,b"}
LAUNCHED = [SLURM, OPEN_MPI, TPUS, {"SLURM_STEP_NUM_TASKS": "2"}]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs the tests is none of the launchers."""
    known = ("SLURM_", "OMPI_", "TPU_", "PMI", "MV2_", "FLUX_", "JSM_")
    for name in list(os.environ):
        if name.startswith(known) or name in ("WORLD_SIZE", "RANK", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name)


def launched(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def hosts_of(*argv: str, command: str = "distill") -> HostsConfig:
    config: Any = load_config(COMMANDS[command], ["--teacher", "cartpole", "--out", "x", *argv], command)
    found: HostsConfig = config.hosts
    return found


def distill_in(environment: dict[str, str], values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A distillation that ends at the name of its teacher, once it knows with whom it runs."""
    command = [sys.executable, "-m", "pd_jax", "distill", *options({"teacher": "nobody", "out": "x"} | values)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("environment", LAUNCHED)
@pytest.mark.parametrize(
    "argv",
    [
        ["--hosts.no-detect"],
        ["--hosts.detect=false"],
        ["--hosts.num-processes", "1"],
        ["--hosts.num-processes", "1", "--hosts.process-id", "0"],
        ["--hosts.num-processes", "1", "--hosts.coordinator", "localhost:1"],
        ["--hosts.num-processes", "1", "--hosts.no-detect"],
    ],
)
def test_a_process_that_is_told_to_be_alone_is_so_whatever_launched_it(
    environment: dict[str, str], argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, environment)
    assert hosts.is_launched_with_others(os.environ)
    settings = hosts_of(*argv)
    hosts.join(settings)
    assert settings.alone and hosts.current() is None and hosts.is_primary()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", [{"hosts.no-detect": True}, {"hosts.num-processes": 1}])
def test_a_task_of_srun_that_is_alone_gets_on_with_its_work(option: dict[str, Any], tmp_path: Path) -> None:
    ended = distill_in(SLURM, option | {"out": tmp_path / "x"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("pd-jax distill: 'nobody' is neither a bundled teacher nor a file")


def test_one_process_is_number_zero() -> None:
    with pytest.raises(UserError, match=r"^hosts.process_id: 1 is not below hosts.num_processes$"):
        hosts.join(hosts_of("--hosts.num-processes", "1", "--hosts.process-id", "1"))
    with pytest.raises(UserError, match=r"^hosts.coordinator: 'nowhere' is not HOST:PORT$"):
        hosts.join(hosts_of("--hosts.num-processes", "1", "--hosts.coordinator", "nowhere"))
    # More than one still need all three.
    for argv in (
        ["--hosts.num-processes", "2"],
        ["--hosts.process-id", "0"],
        ["--hosts.num-processes=2", "--hosts.no-detect"],
    ):
        with pytest.raises(
            UserError, match=r"^hosts.coordinator: missing; coordinator, num_processes and process_id go"
        ):
            hosts.join(hosts_of(*argv))


@pytest.mark.parametrize("environment", [SLURM, OPEN_MPI])
def test_a_variable_that_is_missing_is_named_with_what_made_the_process_join(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = "SLURM_STEP_NUM_TASKS" if environment is SLURM else "OMPI_COMM_WORLD_SIZE"
    for missing in environment.keys() - {size}:
        with monkeypatch.context() as patch:
            launched(patch, {name: value for name, value in environment.items() if name != missing})
            with pytest.raises(UserError) as error:
                hosts.join(HostsConfig())
        message = str(error.value)
        problem = f"several processes were started together, and {missing} is not set; "
        assert message.startswith(f"hosts.detect: {size}=2: {problem}")
        assert "--hosts.no-detect has each process run alone" in message
        assert "--hosts.coordinator HOST:PORT, --hosts.num-processes N and --hosts.process-id" in message


@pytest.mark.parametrize("value", ["", "one", "-1", "1.0", "²", "9" * 5000])
def test_a_variable_that_is_no_number_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, SLURM | {"SLURM_PROCID": value})
    with pytest.raises(UserError, match=r"^hosts.detect: SLURM_STEP_NUM_TASKS=2: .*SLURM_PROCID is .*, not a number"):
        hosts.join(HostsConfig())
    # A size that is none says nothing of others.
    launched(monkeypatch, SLURM | {"SLURM_STEP_NUM_TASKS": value})
    hosts.join(HostsConfig())
    assert hosts.current() is None


def test_half_of_a_launcher_is_one_line_at_the_terminal(tmp_path: Path) -> None:
    half = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    ended = distill_in(half, {"out": tmp_path / "x"})
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(
        "pd-jax distill: hosts.detect: SLURM_STEP_NUM_TASKS=2: several processes were started"
    )


@pytest.mark.parametrize(
    ("environment", "values", "words"),
    [
        (TPUS, {}, ["hosts.detect: TPU_WORKER_HOSTNAMES=a,b: several processes", "--hosts.no-detect"]),
        ({}, {"hosts.detect": True}, ["hosts.detect: true, and JAX does not find out who takes part"]),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            {"hosts.detect": True},
            ["hosts.detect: true, and JAX does not find out", "pip install 'jax[k8s]'"],
        ),
    ],
)
def test_what_jax_cannot_find_out_is_said_with_the_option(
    environment: dict[str, str], values: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    ended = distill_in(environment, {"out": tmp_path / "x"} | values)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert all(word in ended.stderr.splitlines()[-1] for word in words), ended.stderr


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"PMI_SIZE": "4", "PMI_RANK": "1"}, "MPICH or Intel MPI"),
        ({"MV2_COMM_WORLD_SIZE": "4"}, "MVAPICH"),
        ({"FLUX_JOB_SIZE": "4"}, "Flux"),
        ({"JSM_NAMESPACE_SIZE": "4"}, "jsrun"),
        ({"WORLD_SIZE": "4", "RANK": "0"}, "torchrun"),
    ],
)
def test_processes_of_other_launchers_run_alone_and_say_so(
    environment: dict[str, str],
    launcher: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launched(monkeypatch, environment)
    hosts.join(HostsConfig())
    assert hosts.current() is None
    (line,) = capsys.readouterr().err.splitlines()
    size = next(iter(environment))
    assert line.startswith(f"warning: {size}=4: {launcher} started 4 processes, and each runs alone")
    assert "--hosts.num-processes 4" in line
    # One that was told so, and the only process of a launcher, have nothing to say.
    hosts.join(HostsConfig(detect=False))
    launched(monkeypatch, {size: "1"})
    hosts.join(HostsConfig())
    assert capsys.readouterr().err == ""


def test_an_indexed_job_of_kubernetes_runs_a_seed_in_each_pod(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"})
    hosts.join(HostsConfig())
    assert hosts.current() is None and capsys.readouterr().err == ""


def test_a_sweep_may_be_told_that_it_is_alone() -> None:
    assert hosts_of("--hosts.no-detect", command="sweep").alone
    assert hosts_of("--hosts.num-processes=1", command="sweep").alone
    with pytest.raises(UserError, match=r"hosts: a sweep runs in one process"):
        hosts_of("--hosts.num-processes=2", command="sweep")
