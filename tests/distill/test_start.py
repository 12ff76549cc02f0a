"""``--init-from``: a student starts from another one's parameters, bit for bit, and from none but such a one."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import load_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.distill.session import distill
from pd_jax.environments.tasks import get_task
from pd_jax.networks.student import make_student
from pd_jax.online.session import online
from pd_jax.runs.start import load_start
from pd_jax.runs.students import read_distilled
from pd_jax.system.interrupts import Interrupted
from pd_jax.teachers.files import params_fingerprint
from support.commands import (
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    refusal,
    run,
    state_digests,
    succeed,
    virtual_devices,
    write_teacher,
)
from support.made_runs import write_student_run
from support.policies import random_observations

OF_EIGHT = """
import sys, threading
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import load_config
from pd_jax.distill.session import distill
stop = threading.Event()
stop.set()
distill(load_config(DistillConfig, sys.argv[1:], "distill"), stop=stop)
"""


@pytest.fixture(scope="module")
def student_file(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "student.safetensors"
    assert main(["teachers", "import", str(finished_run), "--game", "cartpole", "--out", str(path)]) == 0
    return path


def at_update_0(values: dict[str, Any]) -> dict[str, str]:
    """Digests of the state before the first update: a run that is stopped at once saves that."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        distill(load_config(DistillConfig, options(values), "distill"), stop=stop)
    return state_digests(Path(values["out"]), 0)


def parameters(digests: dict[str, str], prefix: str = "variables") -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if name.startswith(prefix)}


def test_the_first_parameters_are_those_of_the_other_student_bit_for_bit(
    finished_run: Path, student_file: Path, recorded_run_options: dict[str, Any], tmp_path: Path
) -> None:
    wanted = parameters(state_digests(finished_run))
    assert len(wanted) == 4, "two layers"
    scratch = at_update_0(recorded_run_options | {"seed": 7, "out": tmp_path / "scratch"})
    for source in (finished_run, student_file):
        out = tmp_path / source.name
        found = at_update_0(recorded_run_options | {"seed": 7, "out": out, "init-from": source})
        assert parameters(found) == wanted
        # The optimizer, the counter and the key are those of a student from scratch.
        rest = scratch.keys() - wanted.keys()
        assert {name: found[name] for name in rest} == {name: scratch[name] for name in rest}
    kernels = {name for name in wanted if name.endswith("kernel")}
    assert len(kernels) == 2 and all(scratch[name] != wanted[name] for name in kernels)


@pytest.mark.slow
def test_so_they_are_on_eight_devices(finished_run: Path, recorded_run_options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "eight"
    values = recorded_run_options | {"out": out, "init-from": finished_run, "learner.num-devices": 8}
    ended = run([sys.executable, "-c", OF_EIGHT, *options(values)], **virtual_devices(8))
    assert "Interrupted" in ended.stderr, ended.stderr
    assert parameters(state_digests(out, 0)) == parameters(state_digests(finished_run))


def test_a_run_says_what_it_started_from_and_keeps_it(
    finished_run: Path, recorded_run_options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(finished_run, source)
    values = recorded_run_options | QUICK_EVALUATION | {"out": out, "init-from": source, "resume": True}
    values |= {"schedule.rounds": 1}
    sha256 = params_fingerprint(pd_jax.load_student(source).variables["params"])
    succeed("distill", values)
    line = f"starts from {source}: mlp of cartpole after 1,000 updates (parameters {sha256[:12]})"
    assert capfd.readouterr().err.count(line) == 1
    told = {"source": "source", "network": "mlp", "games": ["cartpole"], "updates": 1000, "parameters_sha256": sha256}
    told["file_sha256"] = None
    assert json.loads((out / "summary.json").read_text())["init_from"] == told
    # What it started from need not be there any more, and is not looked at.
    shutil.rmtree(source)
    succeed("distill", values | {"schedule.rounds": 2})
    assert "starts from" not in capfd.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["init_from"], summary["updates"]) == (told, 400)
    # A run from before there was such a setting goes on.
    shutil.copytree(finished_run, source)
    config = source / "config.yaml"
    config.write_text("".join(line for line in config.open() if not line.startswith("init_from")))
    resumed = recorded_run_options | QUICK_EVALUATION | {"out": source, "resume": True}
    succeed("distill", resumed)
    assert "init_from" not in json.loads((source / "summary.json").read_text())


def test_a_run_without_a_checkpoint_of_its_own_starts_anew_when_it_is_resumed(
    finished_run: Path, recorded_run_options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    values = recorded_run_options | {"out": out, "resume": True}
    at_update_0(values)
    shutil.rmtree(out / "checkpoints")
    found = at_update_0(values | {"init-from": finished_run})
    assert parameters(found) == parameters(state_digests(finished_run))
    shutil.rmtree(out / "checkpoints")
    message = refusal(capfd, "distill", *options(values | {"init-from": tmp_path / "gone"}))
    assert message == f"pd-jax distill: {tmp_path / 'gone'}: no such file"


def test_a_run_from_scratch_that_goes_on_is_given_no_start(
    finished_run: Path, recorded_run_options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    before = contents(out)
    values = recorded_run_options | QUICK_EVALUATION | {"out": out, "init-from": finished_run, "resume": True}
    message = refusal(capfd, "distill", *options(values))
    assert f"init_from: {finished_run}: the run in {out} began from scratch" in message
    assert contents(out) == before


def test_games_may_be_fewer_and_in_another_order(tmp_path: Path) -> None:
    games, mlp = ("cartpole", "acrobot", "lunarlander"), StudentConfig(network="mlp", mlp_hidden=(8,), head_hidden=4)
    source = write_student_run(tmp_path / "three", games, mlp)
    before = pd_jax.load_student(source)
    for some in (("lunarlander", "cartpole", "acrobot"), ("lunarlander", "acrobot")):
        student = make_student(mlp, [get_task(game) for game in some])
        start = load_start(str(source), "mlp", student)
        assert start.games == games
        for place, game in enumerate(some):
            observations = random_observations(get_task(game), 5)
            wanted = before.for_game(game).outputs(observations)
            found = student.policy(place)(jax.tree.map(jax.numpy.asarray, start.variables), observations)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_online_student_starts_so_too(finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stop, out = threading.Event(), tmp_path / "run"
    stop.set()
    values = {
        "game": "cartpole", "mlp-hidden": 8, "student.network": "mlp", "student.mlp-hidden": 16,
        "pqn.total-steps": 2048, "pqn.num-lanes": 4, "pqn.rollout-length": 16, "env.num-lanes": 4,
        "schedule.rounds": 2, "replay.capacity": 512, "out": out, "init-from": finished_run,
    }  # fmt: skip
    with pytest.raises(Interrupted):
        online(load_config(OnlineConfig, options(values), "online"), stop=stop)
    found = parameters(state_digests(out), "student.variables")
    assert sorted(found.values()) == sorted(parameters(state_digests(finished_run)).values())
    values = {"teacher": "cartpole", "student.network": "mlp", "init-from": out, "out": tmp_path / "other"}
    message = refusal(capfd, "distill", *options(values))
    assert "is a run of pd-jax online; give a run of pd-jax distill, or a file" in message


def test_every_cell_of_a_sweep_starts_so(finished_run: Path, tmp_path: Path) -> None:
    values = {
        "teacher": "cartpole", "student.network": "mlp", "record": 512, "grid.seeds": [1, 2], "env.num-lanes": 8,
        "loss.kind": "nll", "student.mlp-hidden": 16, "replay.capacity": 512,
        "schedule.rounds": 1, "schedule.steps-per-round": 256, "schedule.updates-per-round": 20,
        "learner.learning-rate": 1e-12, "init-from": finished_run, "together": True, "out": tmp_path / "sweep",
        **QUICK_EVALUATION,
    }  # fmt: skip
    succeed("sweep", values)
    wanted = pd_jax.load_student(finished_run).variables["params"]
    cells = sorted((tmp_path / "sweep" / "cells").iterdir())
    assert len(cells) == 2
    for cell in cells:
        # The rate is too small for anything to show.
        found = pd_jax.load_student(cell).variables["params"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), found, wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.mlp-hidden": 8}, "tensor 'head/output/kernel' has shape (16, 2), the network needs (8, 2)"),
        ({"teacher": "acrobot"}, "is a mlp for cartpole, and the run wants a mlp for acrobot"),
        (
            {"teacher": ["cartpole", "acrobot"]},
            "is a mlp for cartpole, and the run wants a mlp for cartpole, acrobot; --add-teacher adds acrobot",
        ),
    ],
)
def test_another_student_is_refused(
    changes: dict[str, Any], message: str, finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {"teacher": "cartpole", "student.network": "mlp", "student.mlp-hidden": 16} | changes
    told = refusal(capfd, "distill", *options(values | {"init-from": finished_run, "out": tmp_path / "run"}))
    assert told.startswith(f"pd-jax distill: init_from: {finished_run}") and told.endswith(message)
    assert list(tmp_path.iterdir()) == []


def test_what_no_student_can_start_from_is_refused(
    finished_run: Path, student_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {"teacher": "cartpole", "student.network": "mlp", "student.mlp-hidden": 16, "out": tmp_path / "run"}

    def told(source: Path | str) -> str:
        return refusal(capfd, "distill", *options(values | {"init-from": source})).removeprefix("pd-jax distill: ")

    normed = write_teacher(tmp_path / "normed.safetensors", "cartpole", hidden_sizes=(16,), layer_norm=True)
    assert told(normed) == f"init_from: {normed} has layer_norm, and student.layer_norm is False"
    values["student.layer-norm"] = True
    assert told(finished_run) == f"init_from: {finished_run} has no layer_norm, and student.layer_norm is True"
    del values["student.layer-norm"]
    tanh = write_teacher(tmp_path / "tanh.safetensors", "cartpole", hidden_sizes=(16,), activation="tanh")
    assert told(tanh) == f"init_from: {tanh} has tanh units; students are plain networks with relu"
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished_run, unfinished)
    shutil.rmtree(unfinished / "checkpoints")
    before = contents(unfinished)
    assert told(unfinished) == f"{unfinished}: has no checkpoint yet"
    assert contents(unfinished) == before
    shutil.copytree(finished_run / "checkpoints", unfinished / "checkpoints")
    for step in checkpoint_steps(unfinished):
        for path in (unfinished / "checkpoints" / str(step)).rglob("d/*"):
            path.write_bytes(bytes(len(path.read_bytes())))
    assert "no intact checkpoint" in told(unfinished)
    # A teacher file has no NaN, which the reader sees to; a flipped bit is found as well.
    data = bytearray(student_file.read_bytes())
    data[-1] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(data)
    assert "damaged" in told(tmp_path / "flipped.safetensors")
    assert told(tmp_path) == f"init_from: {tmp_path}: holds no run of pd-jax distill"
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = StudentConfig(network="mlp", mlp_hidden=(8,))
    source = write_student_run(tmp_path / "run", ("cartpole",), mlp)
    student = make_student(mlp, [get_task("cartpole")])

    def spoilt(run: Any) -> Any:
        found = read_distilled(run)
        found.variables["params"]["head"]["output"]["bias"] = np.array([np.nan, 0], np.float32)
        return found

    monkeypatch.setattr("pd_jax.runs.start.read_distilled", spoilt)
    with pytest.raises(pd_jax.UserError, match=r"init_from: .*: a weight is NaN or infinite"):
        load_start(str(source), "mlp", student)
