"""A run's directory: refusals, locks and atomic files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.yaml import read_yaml
from pd_jax.errors import UserError
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.system.files import to_json, write_atomically
from support.commands import ordinary_user, public_directory

CONFIG: dict[str, Any] = {
    "seed": 0,
    "out": "runs/pong",
    "resume": False,
    "student": {"network": "net1", "mlp_hidden": (128, 128)},
    "learner": {"learning_rate": 1e-4, "max_grad_norm": None},
    "schedule": {"rounds": 10},
    "checkpoint": {"keep": 3},
}


def changed(**sections: Any) -> dict[str, Any]:
    return {key: {**value, **sections[key]} if key in sections else value for key, value in CONFIG.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_new_run_has_its_resolved_configuration_and_fixed_names(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "runs" / "pong", "distill", CONFIG) as run:
        names = {run.config_path, run.metrics_path, run.summary_path, run.report_path, run.checkpoints, run.tensorboard}
        assert {path.relative_to(run.path).as_posix() for path in names} == {
            "config.yaml",
            "metrics.jsonl",
            "summary.json",
            "report.html",
            "checkpoints",
            "tb",
        }
        assert not run.is_complete
    assert read_yaml(run.config_path) == {
        **{key: value for key, value in CONFIG.items() if key != "resume"},
        "student": {"network": "net1", "mlp_hidden": [128, 128]},
    }
    assert read_run(run.path).command == "distill"


def test_the_same_run_needs_resume(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "distill", CONFIG).close()
    before = contents(tmp_path)
    with pytest.raises(UserError, match="run: holds a run; add --resume to continue it, or choose another --out"):
        RunDirectory.create(tmp_path / "run", "distill", CONFIG)
    assert contents(tmp_path) == before
    RunDirectory.create(tmp_path / "run", "distill", {**CONFIG, "out": "elsewhere"}, resume=True).close()
    with RunDirectory.create(tmp_path / "run", "distill", changed(checkpoint={"keep": 9}), resume=True) as run:
        run.write_summary({})
    with pytest.raises(UserError, match="holds a finished run; add --resume"):
        RunDirectory.create(tmp_path / "run", "distill", CONFIG)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(student={"network": "net2"}), "student.network is 'net1' there and 'net2' here"),
        (changed(learner={"learning_rate": 2.5e-4}), "learner.learning_rate is 0.0001 there and 0.00025 here"),
        (changed(learner={"max_grad_norm": 10.0}), "learner.max_grad_norm is None there and 10.0 here"),
        (changed(schedule={"rounds": 20}), "schedule.rounds is 10 there and 20 here"),
        ({**CONFIG, "seed": False}, "seed is 0 there and False here"),
        ({**CONFIG, "data": "play"}, "data is absent there and 'play' here"),
        ({key: value for key, value in CONFIG.items() if key != "seed"}, "seed is 0 there and absent here"),
        ({**CONFIG, "seed": 1, "game": ["pong"]}, "game is absent there and ['pong'] here"),
        (
            changed(student={"normalisation": {"mean": [1.0]}, "observation": {"window": 2}}),
            "student.observation is absent there and {'window': 2} here",
        ),
    ],
)
def test_a_different_run_is_refused_by_its_games_or_first_difference_and_left_alone(
    tmp_path: Path, config: dict[str, Any], message: str, resume: bool
) -> None:
    RunDirectory.create(tmp_path / "run", "distill", CONFIG).close()
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        RunDirectory.create(tmp_path / "run", "distill", config, resume=resume)
    assert str(caught.value) == f"{tmp_path}/run: holds a different run: {message}; choose another --out"
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("loss", "grid", "is_another"),
    [
        ({"kind": "kl", "temperature": 0.01}, None, False),
        ({"kind": "kl", "temperature": None}, None, False),
        ({"kind": "nll"}, {"losses": ["nll", "mse"], "temperatures": None}, False),
        ({"kind": "advantage_mse", "temperature": 0.1}, None, False),
        ({"kind": "kl", "temperature": "auto"}, None, True),
        ({"kind": "kl", "temperature": [0.01, "auto"]}, None, True),
        ({"kind": "advantage_huber", "temperature": None}, None, True),
        ({"kind": "kl"}, {"losses": ["kl", "advantage_mse"], "temperatures": None}, True),
        ({"kind": "kl"}, {"losses": None, "temperatures": [0.01, "auto"]}, True),
    ],
)
def test_a_target_of_entropy_makes_another_run_where_a_temperature_is_found_by_it(
    tmp_path: Path, loss: dict[str, Any], grid: Any, is_another: bool
) -> None:
    def create(target: float | None, resume: bool) -> None:
        own = {"loss": loss if target is None else {**loss, "target_entropy": target}, "grid": grid}
        RunDirectory.create(tmp_path / "run", "distill", CONFIG | own, resume=resume).close()

    create(0.1, False)
    refused = pytest.raises(UserError, match=r"loss\.target_entropy is 0\.1 there and 0\.75 here")
    with refused if is_another else contextlib.nullcontext():
        create(0.75, True)
    if not is_another:
        create(None, True)


def test_another_commands_run_is_a_different_run(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "distill", CONFIG).close()
    with pytest.raises(UserError, match="holds a run of pd-jax distill, not collect"):
        RunDirectory.create(tmp_path / "run", "collect", CONFIG, resume=True)


def test_what_may_change_replaces_the_old_value(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "distill", CONFIG).close()
    longer = changed(schedule={"rounds": 20})
    RunDirectory.create(tmp_path / "run", "distill", longer, resume=True, may_change={"schedule.rounds"}).close()
    assert read_run(tmp_path / "run").config["schedule"] == {"rounds": 20}


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"is not empty and holds no run \(thesis.tex\)"):
        RunDirectory.create(tmp_path, "distill", CONFIG, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_config_of_another_program_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match="is not a run directory"):
        RunDirectory.create(tmp_path, "distill", CONFIG, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_an_empty_directory_and_one_left_by_a_kill_are_vacant(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on nowhere\n")
    (tmp_path / "config.yaml.1.unfinished").write_text("a")
    RunDirectory.create(tmp_path, "distill", CONFIG).close()
    RunDirectory.create(tmp_path / "new", "distill", CONFIG, resume=True).close()


@pytest.mark.parametrize("path", ["/proc/pd-jax-run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_is_the_users_error(path: str) -> None:
    with pytest.raises(UserError, match=f"^{path}: "):
        RunDirectory.create(path, "distill", CONFIG)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: is a file; --out takes a directory"):
        RunDirectory.create(tmp_path / "file", "distill", CONFIG)


def test_a_read_only_directory_is_the_users_error() -> None:
    with public_directory() as directory:
        directory.chmod(0o555)
        with ordinary_user():
            with pytest.raises(UserError, match="cannot be made: Permission denied"):
                RunDirectory.create(directory / "run", "distill", CONFIG)
            with pytest.raises(UserError, match="cannot be written: Permission denied"):
                RunDirectory.create(directory, "distill", CONFIG)
        assert not list(directory.iterdir())


HOLD = """
import sys, time
from pd_jax.runs.directory import RunDirectory
run = RunDirectory.create(sys.argv[1], "distill", {"seed": 0})
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for resume in (False, True):
            with pytest.raises(UserError, match=f"is in use by process {process.pid} on "):
                RunDirectory.create(path, "distill", {"seed": 0}, resume=resume)
        assert read_run(path).config == {"seed": 0}
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = RunDirectory.create(path, "distill", {"seed": 0}, resume=True)
    with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
        RunDirectory.create(path, "distill", {"seed": 0}, resume=True)
    run.close()
    RunDirectory.create(path, "distill", {"seed": 0}, resume=True).close()


def test_processes_that_are_not_the_primary_touch_nothing(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "distill", CONFIG, is_primary=False)
    assert run.checkpoints == tmp_path / "run" / "checkpoints"
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such directory"),
        (lambda path: path.mkdir(), "it has no config.yaml"),
        (lambda path: path.write_text("x"), "there is no such directory"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("a: 1")), "does not begin with # pd-jax"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("# pd-jax distill\na: [")), "config.yaml: line"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_bytes(b"\xff\xfe\xff")), "is not UTF-8"),
    ],
)
def test_reading_what_is_no_run_is_the_users_error(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "run")


def test_the_summary_is_json_and_marks_the_run_complete(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "distill", CONFIG) as run:
        assert run.read_summary() is None
        run.write_summary({"games": {"pong": {"student_score": np.float32(1.5), "ci95": (math.nan, math.inf)}}})
        assert run.is_complete
        assert run.read_summary_json() == {"games": {"pong": {"student_score": 1.5, "ci95": [None, None]}}}
        run.summary_path.write_text("{")
        with pytest.raises(UserError, match=r"summary\.json: is not a summary"):
            run.read_summary()


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text("a\u2028\0", max_size=3)


@settings(max_examples=50)
@given(
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
        max_leaves=10,
    )
)
def test_to_json_gives_what_strict_json_can_say(value: Any) -> None:
    json.dumps(to_json(value), allow_nan=False)
