"""Trackers hold what metrics.jsonl holds, after resumes and kills; one that fails does not end the run.

What trackio and Weights & Biases wrote is read back where they are installed, which `pip install -e '.[trackio,wandb]'`
does; the rest is by trackers made here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.base import TrackedConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.errors import UserError
from pd_jax.runs import trackers as module
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.lineage import product_files
from pd_jax.runs.metrics import MetricsWriter
from pd_jax.runs.tools import open_metrics
from pd_jax.runs.trackers import TRACKING_NAME, Line, Tracked, Tracker, WeightsAndBiases, check_trackers
from support.commands import QUICK_EVALUATION, contents, options, read_lines, refusal, succeed
from support.wandb_files import read_offline

CONFIG = {"game": "cartpole", "student": {"network": "mlp"}}
needs_trackio = pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="trackio is not installed: pip install -e '.[trackio]'"
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed: pip install -e '.[wandb]'"
)
both = pytest.mark.parametrize("name", [pytest.param("trackio", marks=needs_trackio),
                                        pytest.param("wandb", marks=needs_wandb)])  # fmt: skip


class Record(Tracker):
    """A tracker that remembers; ``faults`` are the methods that fail."""

    name = "record"

    def __init__(self, faults: Sequence[str] = (), error: Exception | None = None) -> None:
        self.faults, self.error = faults, error or OSError(28, "No space left on device")
        self.lines: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.summary: Mapping[str, Any] | None = None

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method in self.faults:
            raise self.error

    def describe(self) -> str:
        return "record: in memory"

    def replace(self, lines: Sequence[Line]) -> None:
        self._called("replace")
        self.lines = [dict(line) for line in lines]

    def write(self, line: Line) -> None:
        self._called("write")
        self.lines.append(dict(line))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._called("close")
        self.summary = summary


def fill(writer: MetricsWriter, *steps: int, loss: float = 1.0) -> None:
    for step in steps:
        writer.write(step, {"loss": loss / (step + 1), "pong/kl": None if step % 20 else loss})


def test_a_tracker_holds_the_lines_of_a_new_run_and_its_summary(tmp_path):
    record = Record()
    writer = MetricsWriter(tmp_path, trackers=[record])
    fill(writer, 10, 20, 30)
    writer.close({"updates": 30})
    assert record.lines == read_lines(tmp_path) and len(record.lines) == 3
    assert record.summary == {"updates": 30}


@pytest.mark.parametrize("step", [-1, 20, 30, 50])
def test_what_a_resumed_run_drops_its_trackers_drop(tmp_path, step):
    first = MetricsWriter(tmp_path)
    fill(first, 10, 20, 30, 40)
    # A kill: nothing is closed. The tracker is new: it was not asked for before.
    record = Record()
    with MetricsWriter(tmp_path, trackers=[record]) as writer:
        writer.truncate_after(step)
        fill(writer, 60, 70, loss=2.0)
        writer.truncate_after(60)
        fill(writer, 80)
    steps = [line["step"] for line in record.lines]
    assert record.lines == read_lines(tmp_path)
    assert steps == [there for there in (10, 20, 30, 40) if there <= step] + [60, 80]


@pytest.mark.parametrize("fault", ["replace", "write", "close"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ImportError("no such\nmodule"), KeyError("server")]
)
def test_a_tracker_that_fails_is_one_warning_and_the_others_go_on(tmp_path, fault, error):
    warnings: list[str] = []
    bad, good = Record([fault], error), Record()
    with MetricsWriter(tmp_path, trackers=[bad, good], warn=warnings.append) as writer:
        fill(writer, 10, 20, 30, 40)
    (warning,) = warnings
    assert warning.startswith("record: ") and warning.endswith("; the run goes on without it")
    assert "\n" not in warning and str(error.args[-1]).split()[0] in warning
    assert good.lines == read_lines(tmp_path) and len(good.lines) == 4
    assert bad.calls.count(fault) == 1 and bad.calls[-1] == fault


def test_a_disk_that_takes_no_metrics_does_not_keep_them_from_trackers(tmp_path, monkeypatch):
    record = Record()
    with MetricsWriter(tmp_path, trackers=[record], warn=lambda _: None) as writer:
        fill(writer, 10)

        def full(_: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer, "_append", full)
        fill(writer, 20, 30)
    assert [line["step"] for line in record.lines] == [10, 20, 30]


def test_a_tracker_that_cannot_be_opened_is_a_warning(tmp_path, monkeypatch, capfd):
    def broken(run: Tracked) -> Tracker:
        raise ImportError("libfoo.so: cannot open shared object file")

    monkeypatch.setattr(module, "_TRACKERS", {"trackio": broken, "wandb": lambda run: Record()})
    said: list[str] = []
    with (
        RunDirectory.create(tmp_path / "run", "distill", CONFIG) as run,
        open_metrics(run, TrackedConfig(track=("trackio", "wandb")), said.append) as metrics,
    ):
        fill(metrics, 10)
    assert said == ["record: in memory"]
    assert capfd.readouterr().err == (
        "warning: trackio: cannot be opened: libfoo.so: cannot open shared object file; the run goes on without it\n"
    )


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_missing_package_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capfd, name):
    monkeypatch.setitem(sys.modules, name, None)
    for command, given in {
        "distill": {"teacher": "cartpole", "student.network": "mlp"},
        "online": {"game": "cartpole", "student.network": "mlp"},
        "train-teacher": {"game": "cartpole", "network": "mlp"},
        "sweep": {"teacher": "cartpole", "student.network": "mlp"},
    }.items():
        message = refusal(capfd, command, *options(given | {"out": str(tmp_path / "run"), "track": [name]}))
        assert message == f"pd-jax {command}: track: {name} is not installed: pip install 'pd-jax[{name}]'"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match="wandb is not installed"):
        check_trackers(("wandb",))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"track": ["mlflow"]}, "--track[0]: 'mlflow' is not a tracker (trackio, wandb)"),
        (
            {"track": ["tensorboard"]},
            "--track[0]: 'tensorboard' is always written, into the run's tb/ (trackio, wandb)",
        ),
        ({"track": ["wandb"], "track-project": "a/b"}, "--track-project: 'a/b' is no name of a project: "),
        ({"track": ["wandb"], "track-project": "../up"}, "--track-project: '../up' is no name of a project: "),
        ({"track-project": "mine"}, "--track-project: is for trackers; add --track trackio or --track wandb"),
    ],
)
def test_settings_that_are_wrong_are_one_line(tmp_path, capfd, given, complaint):
    for command in ("distill", "train-teacher", "sweep"):
        who = {"game": "pong"} if command == "train-teacher" else {"teacher": "pong"}
        message = refusal(capfd, command, *options(who | {"out": str(tmp_path / "run")} | given))
        assert message.startswith(f"pd-jax {command}: {complaint}"), message


def test_trackers_are_not_imported_unasked():
    code = "import sys, pd_jax.runs.metrics, pd_jax.runs.trackers; print({'trackio', 'wandb'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_run_is_the_same_to_trackers_wherever_it_is(tmp_path):
    def identity(path: Path) -> Tracked:
        with RunDirectory.create(path, "distill", CONFIG, resume=True) as run:
            return module._tracked("mine", run)

    first = identity(tmp_path / "a")
    assert (first.name, first.group, first.project, first.config) == ("a", None, "mine", CONFIG)
    (tmp_path / "a").rename(tmp_path / "b")
    assert identity(tmp_path / "b").run_id == first.run_id != identity(tmp_path / "c").run_id
    (tmp_path / "b" / TRACKING_NAME).write_text('{"run_id": "../../etc"}')
    assert len(identity(tmp_path / "b").run_id) == 16
    # Of a cell, the sweep is the group. No result of a run: its lineage does not have it.
    (tmp_path / "c" / "cells").mkdir()
    assert identity(tmp_path / "c" / "cells" / "d").group == "c"
    assert TRACKING_NAME not in [Path(name).name for name in product_files(tmp_path / "c" / "cells" / "d")]


class _FakeRun:
    """As much of a run of Weights & Biases as is used of it."""

    def __init__(self, step: int) -> None:
        self.step, self.url = step, "https://example.org/run"
        self.settings = types.SimpleNamespace(sync_dir="/nowhere/run-1")
        self.summary: dict[str, Any] = {}
        self.logged: list[int] = []
        self.exit_code: int | None = None

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.logged.append(step)

    def finish(self, *, exit_code: int) -> None:
        self.exit_code = exit_code


def test_online_a_resumed_run_does_not_send_steps_again(tmp_path, monkeypatch):
    run, begun = _FakeRun(step=21), []
    fake: Any = types.SimpleNamespace(Settings=lambda **_: None, init=lambda **given: begun.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "online")
    tracker = WeightsAndBiases(Tracked("id", "p", "n", None, tmp_path, CONFIG))
    with MetricsWriter(tmp_path, trackers=[tracker]) as writer:
        fill(writer, 10, 20, 30)
    tracker.replace([{"step": step, "time": 1.0, "loss": 1.0} for step in (10, 20, 30, 40)])
    assert (begun[0]["mode"], begun[0]["resume"], begun[0]["id"]) == ("online", "allow", "id")
    assert run.logged == [30, 30, 40] and run.exit_code == 1
    assert "https://example.org/run" in tracker.describe()


# What the packages themselves wrote.


@pytest.fixture
def trackio_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where trackio's databases are, which it asks for as it is imported."""
    from trackio import sqlite_storage, utils

    path = tmp_path / "trackio"
    for place in (utils, sqlite_storage):
        monkeypatch.setattr(place, "TRACKIO_DIR", path)
    return path


def read_trackio(run_id: str, project: str = "pd-jax") -> dict[str, Any]:
    """By trackio's own interface."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = [run for run in trackio.Api().runs(project) if run.id == run_id]
    rows = [
        {name: value for name, value in row.items() if name != "timestamp"}
        for row in SQLiteStorage.get_logs(project, run.name, run_id=run_id)
    ]
    config = dict(run.config or {})
    return {"name": run.name, "history": rows, "summary": config.pop("summary", None), "config": config}


def read_wandb(run: Path) -> dict[str, Any]:
    """The one offline file of a run."""
    (path,) = (run / "wandb").glob("offline-run-*/*.wandb")
    # Its service writes on for a moment after it has said that it is done.
    deadline = time.monotonic() + 20
    while (found := read_offline(path))["exit_code"] is None and time.monotonic() < deadline:
        time.sleep(0.05)
    found["history"] = [
        {name: value for name, value in row.items() if name not in ("_step", "_runtime", "_timestamp")}
        for row in found["history"]
    ]
    return found


def by_step(lines: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """All numbers of each step: what is written twice at one is one row to some."""
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        numbers = {name: value for name, value in line.items() if name not in ("step", "time") and value is not None}
        assert not numbers.keys() & found.setdefault(line["step"], {}).keys(), "a step is there twice"
        found[line["step"]] |= numbers
    return found


def history_of(name: str, run: Path) -> Callable[[], dict[str, Any]]:
    run_id = json.loads((run / TRACKING_NAME).read_text())["run_id"]
    return (lambda: read_trackio(run_id)) if name == "trackio" else (lambda: read_wandb(run))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import MetricsWriter
from pd_jax.runs.trackers import open_trackers
path, name = sys.argv[1:]
run = RunDirectory.create(path, "distill", {"game": "cartpole", "student": {"network": "mlp"}})
writer = MetricsWriter(run.path, trackers=open_trackers((name,), "pd-jax", run, warn=print))
for step in (10, 20, 30, 40):
    writer.write(step, {"loss": 1 / (step + 1), "pong/kl": 1.0 if step % 20 == 0 else None})
os.kill(os.getpid(), signal.SIGKILL)
"""


@both
def test_what_a_tracker_wrote_is_metrics_jsonl_after_a_kill_and_a_roll_back(name, tmp_path, request):
    if name == "trackio":
        request.getfixturevalue("trackio_directory")
    path, config = tmp_path / "run", TrackedConfig(track=(name,))
    killed = [sys.executable, "-c", KILLED, str(path), name]
    # Python's own settings are this process's, with what shows it the packages.
    places = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(killed, env=os.environ | places).returncode == -9
    with (
        RunDirectory.create(path, "distill", CONFIG, resume=True) as run,
        open_metrics(run, config, lambda _: None) as metrics,
    ):
        metrics.truncate_after(30)
        fill(metrics, 40, 50, loss=3.0)
        metrics.truncate_after(40)
        fill(metrics, 60, 70, loss=5.0)
        metrics.write(70, {"score/pong": 20.5})
        run.write_summary({"updates": 70, "games": {"pong": {"student_score": 20.5}}})
    found = history_of(name, path)()
    lines = read_lines(path)
    assert by_step(found["history"]) == by_step(lines)
    assert list(by_step(lines)) == [10, 20, 30, 40, 60, 70]
    assert found["config"].items() >= CONFIG.items()
    # Of Weights & Biases a nested summary is one value or several, by the depth that it chooses.
    told = json.dumps(found["summary"])
    assert "70" in told and "20.5" in told and "student_score" in told
    if name == "wandb":
        assert found["exit_code"] == 0


@both
def test_a_tracker_whose_disk_is_full_in_the_middle_is_a_warning(name, tmp_path, request, monkeypatch):
    if name == "trackio":
        request.getfixturevalue("trackio_directory")
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.0)
    warnings: list[str] = []
    with RunDirectory.create(tmp_path / "run", "distill", CONFIG) as run:
        (tracker,) = module.open_trackers((name,), "pd-jax", run, warn=pytest.fail)
        with MetricsWriter(run.path, trackers=[tracker], warn=warnings.append) as metrics:
            fill(metrics, 10)

            def full(*_: Any, **__: Any) -> None:
                raise OSError(28, "No space left on device")

            if name == "trackio":
                monkeypatch.setattr(tracker._storage, "bulk_log", full)  # type: ignore[attr-defined]
            else:
                monkeypatch.setattr(tracker._run, "log", full)  # type: ignore[attr-defined]
            fill(metrics, 20, 30)
        assert [line["step"] for line in read_lines(run.path)] == [10, 20, 30]
    assert warnings == [f"{name}: [Errno 28] No space left on device; the run goes on without it"]


@needs_trackio
@needs_wandb
def test_a_run_that_is_resumed_is_tracked_as_one(tmp_path, trackio_directory, recorded_run_options):
    out = tmp_path / "run"
    given = recorded_run_options | QUICK_EVALUATION | {"out": str(out), "track": ["trackio", "wandb"]}
    succeed("distill", given)
    before = contents(out / "tb")
    succeed("distill", given | {"resume": True, "schedule.rounds": int(given["schedule.rounds"]) + 1})
    assert contents(out / "tb") != before
    config = DistillConfig(teacher="cartpole", out="x")
    assert config.track is None and "track" not in (out / "config.yaml").read_text()
    lines, summary = by_step(read_lines(out)), json.loads((out / "summary.json").read_text())
    for name in ("trackio", "wandb"):
        found = history_of(name, out)()
        assert by_step(found["history"]) == lines
        assert found["config"]["student"]["network"] == "mlp"
        assert f"{summary['updates']}" in json.dumps(found["summary"])
