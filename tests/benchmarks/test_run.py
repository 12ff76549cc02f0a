"""``python -m benchmarks --size toy`` to its end, by the real command: two stages, and all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.rows import Row
from benchmarks.stages import STAGES

ROOT = Path(__file__).parents[2]
FEW = (("update", "latency"),)
# What runs processes of its own, or a whole run, beside what does not: together they take half of the time.
ALL = (
    ("devices", "live", "evaluation", "startup"),
    ("envpool", "teacher", "rollout", "replay", "update", "games", "students", "inference", "latency"),
)


@dataclasses.dataclass(frozen=True)
class Ended:
    stages: tuple[str, ...]
    code: int
    output: str
    results: dict[str, Any]
    figure: bytes


@pytest.fixture(scope="module", params=[FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["few", "all"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    """One process, or two side by side."""
    started = []
    for stages in request.param:
        out = tmp_path_factory.mktemp("results")
        options = ["--size", "toy", "--out", str(out), "--stages", *stages]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append((out, stages, process))
    ended = []
    for out, stages, process in started:
        output, _ = process.communicate(timeout=300)
        assert (out / "benchmarks_toy.json").exists(), output
        results = json.loads((out / "benchmarks_toy.json").read_text())
        figure = out / "benchmarks_toy.png"
        ended.append(
            Ended(stages, process.returncode, output, results, figure.read_bytes() if figure.exists() else b"")
        )
    return ended


def test_every_stage_runs_to_its_end(parts: list[Ended]):
    assert {name for part in ALL for name in part} == set(STAGES)
    for ended in parts:
        assert ended.code == 0, ended.output
        assert set(ended.results["stages"]) == set(ended.stages), ended.output
        assert all(stage["rows"] for stage in ended.results["stages"].values())
        assert all(name in ended.output for name in ended.stages)
        assert ended.figure.startswith(b"\x89PNG")


def test_results_say_where_and_what_they_were_measured_on(parts: list[Ended]):
    for ended in parts:
        machine = ended.results["machine"]
        assert machine["cores"] == os.cpu_count() and machine["devices"] and machine["processor"]
        assert {"jax", "envpool", "torch"} <= set(machine["versions"])
        for stage in ended.results["stages"].values():
            assert stage["measured_at"] and stage["seconds"] > 0 and stage["ceilings"]["flops"]["float32"] > 1e8


def test_all_figures_are_sound_and_ratios_fit_what_they_compare(parts: list[Ended]):
    rows = [
        Row.from_json(row) for ended in parts for stage in ended.results["stages"].values() for row in stage["rows"]
    ]
    for row in rows:
        assert 0 < row.ours.lowest <= row.ours.median <= row.ours.highest, row
        if row.floor is not None:
            assert max(row.floor.flops_share, row.floor.bytes_share) > 0, row
            assert row.floor.seconds > 0, row
        for against in filter(None, (row.limit, row.rival)):
            assert against.value is not None and against.ratio is not None, row
            ours, other = (row.ours, against.value) if row.unit.endswith("/s") else (against.value, row.ours)
            assert ours.lowest / other.highest <= against.ratio.lowest * 1.0001, row
            assert against.ratio.highest <= ours.highest / other.lowest * 1.0001, row


def test_stages_have_the_limits_and_rivals_that_they_are_to_be_held_against(parts: list[Ended]):
    by_stage = {name: stage["rows"] for ended in parts for name, stage in ended.results["stages"].items()}
    for name in {"rollout", "live", "evaluation"} & set(by_stage):
        assert all(row["limit"] is not None for row in by_stage[name])
    # Of a game, and of a task of continuous actions.
    assert {row["setting"].get("task") for row in by_stage.get("rollout", [])} in (set(), {None, "half_cheetah_v5"})
    for name in {"teacher", "update", "inference", "latency"} & set(by_stage):
        assert any(row["rival"] is not None and row["rival"]["name"].startswith("PyTorch") for row in by_stage[name])
    settings = {
        "replay": ("work", {"insert", "sample", "update"}),
        "update": ("dtype", {"float32", "bfloat16"}),
        "envpool": ("stepping", {"sync", "async", "jit"}),
        "latency": ("percentile", {"p50", "p99"}),
        "games": ("network", {"net3", "multi3"}),
    }
    for name in set(settings) & set(by_stage):
        setting, expected = settings[name]
        assert {row["setting"][setting] for row in by_stage[name]} == expected
    axes = {series["axis"] for ended in parts for series in ended.results["growth"]}
    every_axis = {"batch", "lanes", "games", "students", "devices"}
    assert axes == (every_axis if len(by_stage) == len(STAGES) else {"batch"})
