"""Trainings compared at equal time: curves read between their points, and minutes from measured rates."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.studies import teacher_settings
from benchmarks.studies.teacher_settings import Curve
from pd_jax.environments.tasks import get_task
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.files import read_teacher


def test_a_curve_is_read_between_its_points():
    curve = Curve((0.0, 100.0, 200.0, 300.0), (2.0, 10.0, 8.0, 20.0))
    assert curve.steps_to(6.0) == pytest.approx(50.0)
    # Where it is reached first, though it is lost again.
    assert curve.steps_to(9.0) == pytest.approx(87.5)
    assert curve.steps_to(14.0) == pytest.approx(250.0)
    assert curve.steps_to(21.0) is None
    assert (curve.at(150.0), curve.at(50.0), curve.at(1000.0)) == pytest.approx((9.0, 6.0, 20.0))


def test_trainings_are_compared_after_as_many_minutes_as_the_shortest_took():
    metadata = read_teacher(bundled_files()["breakout"])[1]
    points = [{"env_steps": 60_000 * i, "mean": 10.0 * i, "standard_error": 1.0, "episodes": 10} for i in (1, 2, 3)]
    slow = dataclasses.replace(metadata, learning_curve=points)
    fast = dataclasses.replace(metadata, learning_curve=[{**point, "mean": point["mean"] * 2} for point in points])
    rates = [{"steps_per_second": 500.0, "over_first": 1.0}, {"steps_per_second": 1_000.0, "over_first": 2.0}]
    first, second = teacher_settings.compare([slow, fast], rates, {"breakout": 15.0})
    assert (first["minutes"], second["minutes"]) == pytest.approx((6.0, 3.0))
    assert first["equal_minutes"] == second["equal_minutes"] == pytest.approx(3.0)
    assert (first["score_at_equal_time"], second["score_at_equal_time"]) == pytest.approx((15.0, 60.0))
    assert first["minutes_to_score"] == pytest.approx(3.0)
    random_score = get_task("breakout").random_score or 0.0
    expected = 60_000 * (15.0 - random_score) / (20.0 - random_score) / 1_000.0 / 60.0
    assert second["minutes_to_score"] == pytest.approx(expected)


def test_settings_of_a_file_from_before_there_was_an_optimizer_are_those_of_the_time():
    settings = teacher_settings.settings_of(read_teacher(bundled_files()["breakout"])[1])
    assert settings["network"] == "dqn" and settings["minibatches"] == 32 and "optimizer" not in settings
