"""The figure of an online run, from metrics as they are written."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from pd_jax.evaluation.scores import Score
from pd_jax.report.figures import BLUE, ORANGE, VERMILION
from pd_jax.report.online_figure import WHO, online_score_values, plot_online, score_rows
from pd_jax.runs.metrics import MetricsWriter, read_metrics
from pd_jax.runs.summary import GameSummary, Summary

COLOURS = {"teacher": VERMILION, "target": ORANGE, "student": BLUE}


def score(mean: float, margin: float = 1.0) -> Score:
    return Score(mean, margin / 2, mean - margin, mean + margin, 9)


def write_metrics(path: Path) -> Path:
    """A teacher that climbs and falls, its best snapshot, and the student of that."""
    with MetricsWriter(path, tensorboard=False) as metrics:
        for steps, teacher, target, student in ((0, 0, 0, None), (1000, 20, 20, 8), (2000, -15, 20, 18)):
            scores = {"teacher": score(teacher), "target": score(target, 2.0)}
            if student is not None:
                scores["student"] = score(student)
            updates = steps // 10
            metrics.write(steps + updates, {"loss": 1.0, "agreement": 0.5, "updates": updates})
            metrics.write(steps + updates, {"teacher/td_loss": 99.0, "updates": updates})
            values = online_score_values("pong", scores) | {"teacher_env_steps": steps, "updates": updates}
            metrics.write(steps + updates, values)
    return path / "metrics.jsonl"


def test_rows_are_over_the_teachers_steps_with_the_ends_of_the_intervals(tmp_path: Path) -> None:
    lines = read_metrics(write_metrics(tmp_path))
    rows = {who: score_rows(lines, "pong", who).tolist() for who in WHO}
    assert rows["teacher"] == [[0, 0, -1, 1], [1000, 20, 19, 21], [2000, -15, -16, -14]]
    assert rows["target"] == [[0, 0, -2, 2], [1000, 20, 18, 22], [2000, 20, 18, 22]]
    assert rows["student"] == [[1000, 8, 7, 9], [2000, 18, 17, 19]]
    assert score_rows(lines, "breakout", "teacher").shape == (0, 4)


def pixels_of(path: Path, colour: str) -> int:
    image = matplotlib.image.imread(path)[..., :3]
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    # The right half, where the scores are.
    half = image[:, image.shape[1] // 2 :]
    return int((np.abs(half - wanted).max(axis=-1) < 0.02).sum())


@pytest.mark.parametrize("is_over", [False, True])
def test_all_three_are_drawn(tmp_path: Path, is_over: bool) -> None:
    final = GameSummary(score(19.0), score(17.0), -20.7, {"latest_teacher_score": -14.0})
    out = tmp_path / "progress.png"
    plot_online(write_metrics(tmp_path), "pong", Summary({"pong": final}) if is_over else None, out)
    for who, colour in COLOURS.items():
        assert pixels_of(out, colour) > 300, who


def test_a_run_that_has_not_scored_anyone_yet_is_drawn_too(tmp_path: Path) -> None:
    out = tmp_path / "progress.png"
    plot_online(tmp_path / "metrics.jsonl", "pong", None, out)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert all(pixels_of(out, colour) == 0 for colour in COLOURS.values())
