"""The bundled teachers: what their files say is complete, and true when it is measured again."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.studies import learning_curves
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.teachers import bundled_names, load
from pd_jax.teachers.catalogue import bundled

ROOT = Path(__file__).parents[2]
NAMES = [entry.name for entry in bundled()]
VECTOR_NAMES = [entry.name for entry in bundled() if entry.metadata.observation["kind"] == "vector"]


def test_the_bundle_has_the_vector_games_and_pong_and_stays_small() -> None:
    assert set(NAMES) >= {"cartpole", "acrobot", "lunarlander", "pong"}
    assert tuple(NAMES) == bundled_names()
    assert sum(entry.size_bytes for entry in bundled()) < 60e6


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_teacher_loads_and_its_metadata_are_complete(name: str) -> None:
    teacher = load(name)
    metadata, task = teacher.metadata, get_task(name)
    assert (metadata.game, metadata.env_id) == (name, task.env_id)
    outputs = teacher(np.zeros((2, *task.observation_shape), task.observation_dtype))
    assert outputs.shape == (2, metadata.num_outputs) and bool(np.isfinite(outputs).all())

    evaluation = metadata.evaluation
    assert evaluation["episodes"] >= 30
    low, high = evaluation["ci95"]
    assert low <= evaluation["mean"] <= high
    assert task.random_score is not None
    assert low > task.random_score, "above chance, beyond doubt"
    assert len(metadata.learning_curve) >= 3
    steps = [point["env_steps"] for point in metadata.learning_curve]
    assert steps == sorted(set(steps)) and metadata.env_steps in steps
    assert metadata.licence == "Apache-2.0" and metadata.training_config and metadata.how_made
    # The last score owes nothing to the starts that chose the weights.
    assert evaluation["seed"] >= metadata.training_config["seed"] + 1_500_000


SOLVED = [
    ("cartpole", 475),
    ("acrobot", -100),
    ("lunarlander", 200),
    ("half_cheetah_v5", 5000),
    ("cartpole_swingup_v1", 800),
]


@pytest.mark.parametrize(("name", "solved"), SOLVED)
def test_vector_teachers_solve_their_games(name: str, solved: float) -> None:
    assert load(name).metadata.evaluation["ci95"][0] >= solved


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "cartpole_swingup_v1")) for name in VECTOR_NAMES],
)
def test_vector_teachers_score_what_their_files_say(name: str) -> None:
    teacher = load(name)
    said = teacher.metadata.evaluation
    returns = evaluate(
        teacher.network.apply,
        teacher.variables,
        teacher.task,
        episodes=40,
        num_lanes=40,
        epsilon=said["epsilon"],
        seed=2_000_000,
    ).returns
    error = math.hypot(returns.std(ddof=1) / math.sqrt(len(returns)), said["standard_error"])
    assert abs(returns.mean() - said["mean"]) <= 4 * error


@pytest.mark.parametrize("name", ["acrobot", "lunarlander", "half_cheetah_v5", "cartpole_swingup_v1"])
def test_a_teacher_was_trained_with_the_configuration_of_its_game(name: str) -> None:
    settings = yaml.safe_load((ROOT / "configs" / "train" / f"{re.sub('_v[0-9]$', '', name)}.yaml").read_text())
    trained_with = load(name).metadata.training_config
    del settings["out"]
    settings["game"] = name

    def flat(mapping: dict, prefix: str = "") -> dict:
        items: dict = {}
        for key, value in mapping.items():
            items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return items

    differences = {key: value for key, value in flat(settings).items() if flat(trained_with)[key] != value}
    assert differences == {}


def test_the_document_and_the_figure_show_the_teachers_that_are_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (ROOT / "docs" / "teachers.md").read_text()
    before, table, after = learning_curves.split(document)
    for entry in bundled():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {entry.name} ")]
        score = entry.metadata.evaluation
        digits = 1 if abs(score["mean"]) < 1000 else 0
        assert f" {score['mean']:,.{digits}f} ± {score['standard_error']:,.{digits}f} " in row
        assert f" {entry.metadata.env_id} " in row and f" {entry.parameters:,} " in row

    # Neither is out of date: made again, they are the same.
    (tmp_path / "teachers.md").write_text(learning_curves.join(before, "| out of date |", after))
    monkeypatch.setattr(learning_curves, "DOCUMENT", tmp_path / "teachers.md")
    monkeypatch.setattr(learning_curves, "RESULTS", tmp_path)
    learning_curves.draw_bundled()
    assert (tmp_path / "teachers.md").read_text() == document
    drawn, here = (
        Image.open(folder / "teachers.png").text["Description"].splitlines()
        for folder in (tmp_path, ROOT / "benchmarks" / "results")
    )
    assert drawn == here == [f"{entry.name} {entry.sha256}" for entry in bundled()]
