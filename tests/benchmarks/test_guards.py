"""The guards: counts are what is accepted, and a copy, a dispatch or a compilation too many makes them fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.guards import __main__ as command
from benchmarks.guards import accepted, counting
from pd_jax.errors import UserError
from pd_jax.learner.learner import Learner
from pd_jax.resources.plan.hlo import RingShape
from pd_jax.system import devices

ROOT = Path(__file__).parents[2]
INSERTION = ["--programs", "insertion"]
UPDATES = ["--programs", "updates of mlp"]


def test_no_count_has_grown() -> None:
    """In a process of its own, which compiles as ``--write`` does."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.guards"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    # With other versions the rest holds all the same, and what was not checked is said.
    unknown = accepted.stack() not in accepted.read_accepted()
    assert ("only what holds with all versions is checked" in ended.stdout) == unknown
    programs = set(next(iter(accepted.read_accepted().values())))
    assert programs == {line.split(":")[0] for line in ended.stdout.splitlines()} & programs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "guards.json"


def test_a_planted_copy_of_the_replay_is_found(file: Path, monkeypatch: Any, capsys: Any) -> None:
    assert command.main([*INSERTION, "--file", str(file), "--write"]) == 0
    assert command.main([*INSERTION, "--file", str(file)]) == 0
    # Without it XLA copies the ring before it writes into it.
    monkeypatch.setattr(devices, "_barrier", lambda tree: tree)
    monkeypatch.setattr(devices, "_kept_mapped", devices._mapped)
    capsys.readouterr()
    assert command.main([*INSERTION, "--file", str(file)]) == 1
    error = capsys.readouterr().err
    assert "GROWN: insertion: ring copies: " in error and "GROWN: insertion: temporary bytes: " in error


def test_a_planted_dispatch_is_found(file: Path, monkeypatch: Any, capsys: Any) -> None:
    assert command.main([*UPDATES, "--file", str(file), "--write"]) == 0
    assert command.main([*UPDATES, "--file", str(file)]) == 0
    whole = Learner.update_from_replay

    def split(self: Learner, state: Any, stored: Any, num_updates: int) -> Any:
        for _ in range(num_updates):
            state, metrics = whole(self, state, stored, 1)
        return state, metrics

    monkeypatch.setattr(Learner, "update_from_replay", split)
    capsys.readouterr()
    assert command.main([*UPDATES, "--file", str(file)]) == 1
    error = capsys.readouterr().err
    assert "GROWN: updates of mlp: dispatches: 2, accepted 1" in error
    assert "GROWN: updates of mlp: launches: 2, accepted 1" in error
    # What may never be is not accepted either.
    before = file.read_bytes()
    assert command.main([*UPDATES, "--file", str(file), "--write"]) == 1
    assert file.read_bytes() == before


def test_versions_without_counts_are_held_against_what_holds_with_all(
    file: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(accepted, "stack", lambda: "abacus 1")
    accepted.write_accepted({"insertion": {"operations": 1}}, file)
    monkeypatch.setattr(accepted, "stack", lambda: "abacus 2")
    assert command.main([*INSERTION, "--file", str(file)]) == 0
    assert "has no counts of abacus 2: only what holds with all versions is checked" in capsys.readouterr().out
    monkeypatch.setattr(devices, "_barrier", lambda tree: tree)
    monkeypatch.setattr(devices, "_kept_mapped", devices._mapped)
    assert command.main([*INSERTION, "--file", str(file)]) == 1
    assert "ring copies" in capsys.readouterr().err
    assert accepted.read_accepted(file) == {"abacus 1": {"insertion": {"operations": 1}}}


def test_calls_are_counted_with_their_launches_and_uploads() -> None:
    double, add = jax.jit(lambda x: 2 * x), jax.jit(jnp.add)
    here, there = jnp.ones(3), np.ones(3, np.float32)

    def none() -> object:
        return None

    def two() -> object:
        return add(double(here), here)

    def two_of_the_host() -> object:
        return add(double(there), there)

    assert counting.count_call(none) == {"dispatches": 0, "launches": 0, "uploads": 0}
    assert counting.count_call(two) == {"dispatches": 2, "launches": 2, "uploads": 0}
    assert counting.count_call(two_of_the_host) == {"dispatches": 2, "launches": 2, "uploads": 2}


def test_compilations_are_counted() -> None:
    triple = jax.jit(lambda x: 3 * x + 0.125)
    arrays = [jnp.zeros(shape) for shape in (3, 5, 3, 5)]
    assert counting.count_compilations(lambda: [triple(array) for array in arrays])["compilations"] == 2
    assert counting.count_compilations(lambda: [triple(array) for array in arrays])["compilations"] == 0


def test_copies_of_large_arrays_are_counted_with_their_bytes() -> None:
    def turned(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x.T, x + 1

    rows, columns = 64, 512
    counts = counting.count_program(jax.jit(turned).lower(jnp.zeros((rows, columns))).compile())
    assert (counts["large copies"], counts["bytes copied"]) == (1, 4 * rows * columns)
    assert counts["new output bytes"] >= 2 * 4 * rows * columns
    small = counting.count_program(jax.jit(turned).lower(jnp.zeros((8, 8))).compile())
    assert small["large copies"] == 0 and small["operations"] == counts["operations"]
    kept = jax.jit(lambda ring, row: ring.at[3].set(row))
    written = jax.jit(lambda ring, row: ring.at[3].set(row), donate_argnums=0)
    ring, row = jnp.zeros((rows, columns)), jnp.ones(columns)
    shapes = {RingShape.of("f32", ring.shape)}
    assert counting.count_program(kept.lower(ring, row).compile(), shapes)["ring copies"] == 1
    in_place = counting.count_program(written.lower(ring, row).compile(), shapes)
    assert in_place["ring copies"] == 0 and in_place["new output bytes"] < ring.nbytes


def test_counts_are_compared_one_by_one() -> None:
    before = {"a": {"operations": 5, "dot operations": 1, "bytes copied": 7}, "b": {"launches": 1}}
    now = {"a": {"operations": 4, "dot operations": 2, "sort operations": 1, "uploads": 9}, "c": {"launches": 3}}
    assert accepted.exceeded(now, before) == [
        "a: dot operations: 2, accepted 1",
        "a: sort operations: 1, accepted 0",
    ]
    assert accepted.fewer(now, before) == ["a: operations: 4, accepted 5", "a: bytes copied: 0, accepted 7"]
    part = {"a": {"decision: operations": 1, "uploads": 2}}
    assert accepted.exceeded({"a": {"decision: operations": 1, "decision: dot operations": 1}}, part) == [
        "a: decision: dot operations: 1, accepted 0"
    ]
    assert accepted.exceeded({"a": {"operations": 3, "dot operations": 1}}, {"a": {"uploads": 2}}) == []
    assert accepted.exceeded(before, before) == accepted.fewer(before, before) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"stacks": {}}', '{"format_version": 1, "stacks": {"x": {"a": 1}}}'])
def test_a_file_of_something_else_is_refused_in_a_line(content: str, file: Path, capsys: Any) -> None:
    file.write_text(content)
    with pytest.raises(UserError, match=r"guards.json is not a file of python -m benchmarks.guards --write"):
        accepted.read_accepted(file)
    assert command.main([*INSERTION, "--file", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert file.read_text() == content


def test_a_program_that_is_not_guarded_is_refused_in_a_line(capsys: Any) -> None:
    assert command.main(["--programs", "insertoin"]) == 2
    assert "'insertoin' is not guarded; did you mean 'insertion'?" in capsys.readouterr().err


def test_the_file_has_counts_of_the_versions_that_are_pinned() -> None:
    pinned = {line.split(" ;")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    stacks = json.loads(accepted.FILE.read_text())["stacks"]
    of_jax = {f"jax=={part.split()[1]}" for stack in stacks for part in stack.split(", ") if part.startswith("jax ")}
    assert of_jax and of_jax == {line for line in pinned if line.startswith("jax==")}
    for programs in stacks.values():
        assert accepted.exceeded(programs, accepted.BOUNDS) == []
