"""Which teachers take a place in the bundle, and what their files then say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.studies import bundle
from benchmarks.studies.bundle import Comparison
from pd_jax.evaluation.scores import Score
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.files import read_teacher, save_teacher


def score(mean: float, error: float = 3.0) -> Score:
    return Score(mean, error, mean - 2 * error, mean + 2 * error, 100)


@pytest.mark.parametrize(
    ("old", "is_better"),
    [(None, True), (score(44.9, 4.0), True), (score(45.1, 4.0), False), (score(60.0), False)],
)
def test_a_teacher_takes_a_place_by_more_than_the_error_of_the_difference(old: Score | None, is_better: bool) -> None:
    assert Comparison(score(50.0), old).is_better == is_better


def test_a_training_that_went_on_from_the_bundle_counts_from_there() -> None:
    before = read_teacher(bundled_files()["breakout"])[1]
    point = {"env_steps": 1_000, "mean": 50.0, "standard_error": 1.0, "episodes": 10}
    after = dataclasses.replace(
        before,
        env_steps=2_000,
        learning_curve=[point],
        training_config=before.training_config | {"init_from": "breakout"},
        how_made="pd-jax train-teacher on cpu",
    )
    found = bundle.continued(after, before)
    assert before.env_steps is not None and found.env_steps == before.env_steps + 2_000
    assert found.learning_curve == [*before.learning_curve, point | {"env_steps": before.env_steps + 1_000}]
    assert "over 2,000 steps more" in found.how_made
    alone = dataclasses.replace(after, training_config=before.training_config | {"init_from": None})
    assert bundle.continued(alone, before) == alone


def test_a_bundle_over_its_size_is_refused_in_one_line_and_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    with open(zoo / "others.safetensors", "wb") as file:
        file.truncate(bundle.LIMIT_BYTES - 1_000_000)
    code = bundle.main([str(bundled_files()["breakout"]), "--zoo", str(zoo)])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("bundle: breakout.safetensors: the bundle would have 62,")
    assert error.count("\n") == 1 and [path.name for path in zoo.iterdir()] == ["others.safetensors"]


def test_what_was_not_trained_here_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params, metadata = read_teacher(bundled_files()["breakout"])
    path = tmp_path / "other.safetensors"
    save_teacher(path, params, dataclasses.replace(metadata, source_format="sb3"))
    for file in (path, bundled_files()["cartpole"]):
        assert bundle.main([str(file), "--zoo", str(tmp_path)]) == 2
        assert "is not a teacher of one Atari game that was trained here" in capsys.readouterr().err


def test_what_cannot_be_is_refused_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(bundled_files()["freeway"])
    for option in ("--episodes", "--lanes"):
        with pytest.raises(SystemExit) as ended:
            bundle.main([file, "--zoo", str(tmp_path), option, "1"])
        assert ended.value.code == 2
        assert "1 say nothing of a standard error; at least 2" in capsys.readouterr().err
    assert bundle.main([file, "--zoo", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"bundle: {tmp_path / 'none'}: no such directory\n"


@pytest.mark.slow
def test_a_teacher_is_no_better_than_itself_and_fills_an_empty_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(bundled_files()["freeway"])
    few = ["--episodes", "4", "--lanes", "4"]
    assert bundle.main([file, "--zoo", str(tmp_path), *few]) == 0
    stored = read_teacher(tmp_path / "freeway.safetensors")[1]
    assert stored.evaluation["episodes"] == 4 and stored.evaluation["seed"] == 7_000_000
    assert bundle.main([file, "--zoo", str(tmp_path), *few]) == 1
    assert "no better, +0.00" in capsys.readouterr().out
