"""Cells trained by several processes: side by side, and as parts of one sweep."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import pd_jax.resources.jobs
from pd_jax.cli import main
from pd_jax.config.loading import load_config
from pd_jax.config.sweep import SweepConfig
from pd_jax.errors import UserError
from pd_jax.resources import memory
from pd_jax.runs.directory import RunDirectory
from pd_jax.sweep.setup import make_plan
from pd_jax.system.cores import usable_cores
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers import load
from support import commands
from support.commands import (
    contents,
    finish,
    options,
    read_lines,
    refusal,
    start,
    state_digests,
    stop_when,
    succeed,
    wait_until,
)

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "sweep_cartpole.yaml"
# Two cells of the file's grid, in seconds.
QUICK = {
    "config": CONFIG,
    "record": 2048,
    "grid.losses": "kl",
    "grid.seeds": 1,
    "replay.capacity": 2048,
    "schedule.steps-per-round": 1024,
    "schedule.updates-per-round": 150,
    "checkpoint.every-updates": 50,
    **commands.QUICK_EVALUATION,
}
CELLS = [f"cartpole-mlp-kl-t{temperature}-lr0.001-seed1" for temperature in ("0.1", "1")]
# So many updates that a signal meets them.
LONG = {"schedule.updates-per-round": 5_000, "checkpoint.every-updates": 100}
two_cores = pytest.mark.skipif(len(usable_cores()) < 2, reason="one core is one job's")


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two cells, one after another. Not to be written to."""
    path = tmp_path_factory.mktemp("sweeps") / "finished"
    succeed("sweep", QUICK | {"out": path})
    return path


def read_table(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((path / "table.json").read_text())
    return table


def plan_of(tmp_path: Path, **changes: Any) -> Any:
    config = load_config(SweepConfig, options(QUICK | {"out": tmp_path / "sweep"} | changes), "sweep")
    return make_plan(config)


def assert_same_sweeps(one: Path, other: Path) -> None:
    assert (one / "table.json").read_bytes() == (other / "table.json").read_bytes()
    for name in CELLS:
        assert state_digests(one / "cells" / name) == state_digests(other / "cells" / name)


def process_of(cell: Path) -> int:
    """Who trains a cell, as its lock says."""
    return int((cell / ".lock").read_text().split()[1])


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@two_cores
def test_two_jobs_leave_what_one_does_and_a_worker_that_is_killed_fails_its_cell_alone(
    finished_sweep: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    cells = [out / "cells" / name for name in CELLS]
    # Its recording is there: the cells begin at once.
    shutil.copytree(finished_sweep, out)
    shutil.rmtree(out / "cells")
    argv = ["sweep", *options(QUICK | {"out": out, "resume": True, "jobs": 2})]
    process = start(*argv)
    wait_until(lambda: (cells[0] / ".lock").exists() and (cells[0] / ".lock").read_text(), process)
    killed = process_of(cells[0])
    os.kill(killed, signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 2
    assert ended.stderr.endswith(f"pd-jax sweep: 1 of 2 cells failed: {CELLS[0]}; table.md has the reasons\n")
    assert "cell 1 of 2 on core" in ended.stderr
    first, second = read_table(out)["cells"]
    assert first["failure"] == "its process was killed by SIGKILL, as where memory runs out"
    assert second == read_table(finished_sweep)["cells"][1]
    # Left in this process, as there is one cell to go.
    assert main(argv) == 0
    assert_same_sweeps(out, finished_sweep)
    own = {"out": str(out)}
    assert contents(out)["config.yaml"] == contents(finished_sweep)["config.yaml"].replace(
        str(finished_sweep).encode(), own["out"].encode()
    )


@two_cores
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_jobs_end_with_the_sweep_and_it_goes_on_to_the_same_table(number: int, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    succeed("sweep", QUICK | LONG | {"out": one})
    argv = ["sweep", *options(QUICK | LONG | {"out": two, "resume": True, "jobs": 2})]
    cells = [two / "cells" / name for name in CELLS]
    ended = stop_when(lambda: all(map(read_lines, cells)), number, *argv)
    processes = [process_of(cell) for cell in cells]
    if number == signal.SIGKILL:
        assert ended.code == -signal.SIGKILL
        deadline = threading.Event()
        while any(map(is_there, processes)):
            assert not deadline.wait(0.05)
    else:
        assert ended.code == 128 + number
        assert ended.stderr.endswith(f"pd-jax sweep: stopped by {signal.Signals(number).name}; add --resume to go on\n")
        assert not any(map(is_there, processes))
        assert "Traceback" not in ended.stderr
    assert not any((cell / "summary.json").exists() for cell in cells)
    assert finish(start(*argv)).code == 0
    assert_same_sweeps(one, two)


@two_cores
@pytest.mark.slow
def test_a_cell_that_diverges_in_a_worker_stops_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.read_text().replace("  temperatures: [0.1, 1.0]\n", ""))
    grid = {"grid.losses": "mse", "grid.learning-rates": ["1e6", "1e-3"], "learner.optimizer": "rmsprop", "jobs": 2}
    assert main(["sweep", *options(QUICK | grid | {"config": config, "out": out})]) == 2
    bad, good = read_table(out)["cells"]
    assert bad["failure"].startswith("the loss became ")
    assert "student_score" in good
    assert "Traceback" not in capfd.readouterr().err


def test_parts_of_a_sweep_add_up_to_it(finished_sweep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    succeed("sweep", QUICK | {"out": out, "cells": "1/2"})
    printed, errors = capfd.readouterr()
    assert "this process trains 1 of them: 1" in errors
    assert CELLS[1] in printed and CELLS[0] not in printed
    assert printed.endswith(f"{out}: cells/; once all are trained, --resume without --cells makes the table of all\n")
    recorded = contents(out / "data")
    assert not (out / "table.json").exists()
    # Without --resume: an array's tasks begin in any order.
    succeed("sweep", QUICK | {"out": out, "cells": "0"})
    assert contents(out / "data") == recorded
    trained = {name: contents(out / "cells" / name) for name in CELLS}
    succeed("sweep", QUICK | {"out": out, "resume": True})
    assert {name: contents(out / "cells" / name) for name in CELLS} == trained
    assert_same_sweeps(out, finished_sweep)
    # A part that has no cells has nothing to do.
    succeed("sweep", QUICK | {"out": out, "cells": "5/9"})
    other = QUICK | {"out": out, "cells": "0", "learner.batch-size": 32}
    assert refusal(capfd, "sweep", *options(other)).endswith(
        "holds a different run: learner.batch_size is 64 there and 32 here; choose another --out"
    )


@pytest.mark.slow
def test_parts_that_begin_at_once_record_once(finished_sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    tasks = [start("sweep", *options(QUICK | {"out": out, "cells": f"{index}/2"})) for index in range(2)]
    ended = [finish(task) for task in tasks]
    assert [task.code for task in ended] == [0, 0], [task.stderr for task in ended]
    assert sum("collect cartpole" in task.stderr for task in ended) == 1
    succeed("sweep", QUICK | {"out": out, "resume": True})
    assert_same_sweeps(out, finished_sweep)


def test_a_sweep_in_parts_is_nobody_elses(
    finished_sweep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(finished_sweep, out)
    config = load_config(SweepConfig, options(QUICK | {"out": out, "resume": True}), "sweep")
    settings = pd_jax.config.loading.to_mapping(dataclasses.replace(make_plan(config).config))
    in_use = f"pd-jax sweep: {out}: is in use by process {os.getpid()} on "
    with RunDirectory.create(out, "sweep", settings, resume=True, shared=True):
        succeed("sweep", QUICK | {"out": out, "cells": "0"})
        assert refusal(capfd, "sweep", *options(QUICK | {"out": out, "resume": True})).startswith(in_use)
    with RunDirectory.create(out, "sweep", settings, resume=True):
        assert refusal(capfd, "sweep", *options(QUICK | {"out": out, "cells": "0"})).startswith(in_use)


def test_what_is_no_part_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(**changes: Any) -> str:
        message = refusal(capfd, "sweep", *options(QUICK | {"out": tmp_path / "sweep"} | changes))
        assert not (tmp_path / "sweep").exists()
        return message.removeprefix("pd-jax sweep: ")

    for text in ("x", "-1", "1/", "0/2/3", "1.0", "¹"):
        assert refused(cells=text) == (
            f"--cells: {text!r} is neither the index of a cell, such as 3, nor a part, such as 0/4"
        )
    assert refused(cells="4/4") == "--cells: '4/4': the 4 parts are 0/4 to 3/4"
    assert refused(cells="0/0") == "--cells: '0/0': there is no part of nothing"
    assert refused(cells="2") == "cells: there is no cell 2; the 2 are 0 to 1"
    assert refused(jobs="many") == "--jobs: 'many' is not a whole number or auto"
    assert refused(jobs=0) == "--jobs: 0 is out of range (at least 1)"
    assert refused(jobs=1000) == (
        f"jobs: 1000, and this process may use {len(usable_cores())} cores; each job takes one"
    )
    assert refused(jobs=2, together=True) == ("--jobs: cells that train together are in one process; say --no-together")


def test_every_cell_is_in_one_part() -> None:
    config = SweepConfig(teacher="cartpole", out="x")
    for cells in range(6):
        for parts in range(1, 8):
            found = [dataclasses.replace(config, cells=f"{index}/{parts}").part(cells) for index in range(parts)]
            assert sorted(index for part in found for index in part) == list(range(cells))
            assert max(map(len, found)) - min(map(len, found)) <= 1


def test_jobs_are_as_many_as_cores_cells_and_memory_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = 8
    monkeypatch.setattr(pd_jax.resources.jobs, "count_cores", lambda: cores)
    monkeypatch.setattr(pd_jax.resources.jobs, "usable_cores", lambda: tuple(range(cores)))
    grid = {"grid.seeds": [1, 2, 3]}
    plan = plan_of(tmp_path, jobs="auto", **grid)
    assert (plan.jobs, plan.describe()[-1]) == (6, "jobs: 6 (8 cores, 6 cells)")
    one, three = plan_of(tmp_path, **grid).memory.total, plan_of(tmp_path, jobs=3, **grid).memory.total
    assert three > 3 * one
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: three)
    plan = plan_of(tmp_path, jobs="auto", **grid)
    assert (plan.jobs, plan.describe()[-1]) == (3, "jobs: 3 (8 cores, 6 cells, and memory for 3 at once)")
    assert plan_of(tmp_path, jobs=3, **grid).jobs == 3
    with pytest.raises(
        UserError, match=r"^jobs: 4 cells at once take more than there is \(memory: .*\); at most 3 fit"
    ):
        plan_of(tmp_path, jobs=4, **grid)
    # A part of the cells is all that counts.
    assert plan_of(tmp_path, jobs=4, cells="0/3", **grid).jobs == 2
    cores = 1
    assert plan_of(tmp_path, jobs="auto", **grid).jobs == 1


def test_who_has_to_be_alone_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(SweepConfig, options(QUICK | {"out": tmp_path / "sweep", "jobs": "auto"}), "sweep")
    teachers = [load("cartpole")]
    plan = make_plan(config, teachers)
    assert (plan.jobs, plan.why_jobs) == (1, "the teachers are objects of this process, which no other has")
    with pytest.raises(UserError, match=r"^jobs: 2, and the teachers are objects of this process"):
        make_plan(dataclasses.replace(config, jobs=2), teachers)
    monkeypatch.setattr(DeviceGroup, "platform", "gpu")
    plan = make_plan(config)
    assert (plan.jobs, plan.why_jobs) == (1, "students train on gpu, which is one process's at a time")
    with pytest.raises(UserError, match=r"^jobs: 2, and students train on gpu"):
        make_plan(dataclasses.replace(config, jobs=2))
