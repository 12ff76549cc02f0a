"""The catalogue: what files say, found by name or path and read without JAX."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import bundled_names, catalogue, load
from pd_jax.teachers.catalogue import bundled, find, read_entry
from support.commands import run, write_teacher

SCORE = {"mean": 12.5, "standard_error": 0.5, "episodes": 40}
EVALUATION = SCORE | {"ci95": [11.5, 13.5], "epsilon": 0.05, "max_noops": 30, "max_episode_steps": 500, "seed": 3}


def refusal(action: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as refused:
        action(*arguments)
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_every_bundled_teacher_is_in_the_catalogue_with_its_own_numbers() -> None:
    entries = bundled()
    assert tuple(entry.name for entry in entries) == bundled_names()
    for entry in entries:
        teacher = load(entry.name)
        data = entry.path.read_bytes()
        # The tensors' shapes, read from the header alone.
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        scalars = sum(math.prod(item["shape"]) for key, item in header.items() if key != "__metadata__")
        assert entry.parameters == teacher.num_params == scalars
        assert (entry.size_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert entry.metadata == teacher.metadata
        task = get_task(entry.name)
        assert (entry.random_score, entry.human_score) == (task.random_score, task.human_score)


def test_a_row_of_json_has_what_the_file_says(tmp_path: Path) -> None:
    path = write_teacher(tmp_path / "mine.safetensors", "pong", evaluation=EVALUATION, env_steps=7, licence="MIT")
    row = find(str(path)).as_json()
    assert row["name"] == str(path)
    assert (row["game"], row["env_id"], row["network"], row["algorithm"]) == ("pong", "Pong-v5", "net3", "none")
    assert (row["score"], row["standard_error"], row["ci95"], row["episodes"]) == (12.5, 0.5, [11.5, 13.5], 40)
    assert (row["epsilon"], row["env_steps"], row["licence"]) == (0.05, 7, "MIT")
    assert (row["random_score"], row["human_score"]) == (-20.7, 14.6)
    assert row["size_bytes"] == path.stat().st_size
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    entry = find(str(write_teacher(tmp_path / "mine.safetensors", "cartpole", env_steps=None)))
    row = entry.as_json()
    for name in ("score", "standard_error", "ci95", "episodes", "epsilon", "human_score", "env_steps"):
        assert row[name] is None
    assert (entry.curve, entry.references) == ([], {"random": 22.2})


def test_a_file_may_name_a_game_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_teacher(tmp_path / "mine.safetensors", "cartpole")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(rb"\"game\": \"cartpole\"", rb"\"game\": \"nowhere!\""))
    assert path.read_bytes() != whole
    assert find(str(path)).references == {}


def test_the_curve_has_the_ends_of_the_95_percent_interval(tmp_path: Path) -> None:
    points = [{"env_steps": 10} | SCORE, {"env_steps": 20} | SCORE | {"mean": 20.0, "standard_error": 0.0}]
    entry = find(str(write_teacher(tmp_path / "mine.safetensors", "pong", learning_curve=points)))
    assert entry.curve == [(10, 12.5, pytest.approx(11.52), pytest.approx(13.48)), (20, 20.0, 20.0, 20.0)]
    assert entry.references == {"random": -20.7, "human": 14.6}


def test_names_count_in_any_case_and_what_is_unknown_is_refused_as_load_refuses_it(tmp_path: Path) -> None:
    assert find("Pong").name == "pong"
    for name in ("pongg", "Zzz", "pong.safetensor", str(tmp_path / "none.safetensors"), str(tmp_path)):
        assert refusal(find, name) == refusal(load, name)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(3, np.float32)}))
    assert refusal(find, str(path)) == f"{path}: not a pd_jax teacher (a safetensors file without pd_jax metadata)"


NESTED: Any = []
for _ in range(60):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"evaluation": EVALUATION | {"mean": 10**400}}, "has scores beyond 1e+100"),
        ({"evaluation": EVALUATION | {"ci95": [-1e200, 0]}}, "has scores beyond 1e+100"),
        ({"learning_curve": [{"env_steps": 1} | SCORE | {"standard_error": 1e101}]}, "has scores beyond 1e+100"),
        ({"training_config": {"a": NESTED}}, "is nested more than 50 deep"),
    ],
)
def test_what_no_table_or_plot_could_hold_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = write_teacher(tmp_path / "mine.safetensors", "cartpole", **changes)
    assert refusal(read_entry, "mine", path) == f"{path}: metadata: {problem}"


def test_listing_teachers_needs_no_jax() -> None:
    code = (
        "import sys; from pd_jax.cli import main; code = main(['teachers']); "
        "print([name for name in ('jax', 'envpool', 'matplotlib') if name in sys.modules]); raise SystemExit(code)"
    )
    ended = run([sys.executable, "-c", code])
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.endswith("\n[]\n")


def test_the_package_still_gives_what_is_imported_late() -> None:
    from pd_jax import teachers
    from pd_jax.teachers.teacher import Teacher

    assert teachers.Teacher is Teacher
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = teachers.laod  # type: ignore[attr-defined]


def test_an_empty_bundle_is_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_ZOO", tmp_path)
    assert bundled() == []
