"""Pooling, percentages and geometric means, against values worked out by hand, with NumPy and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import FLOOR_PERCENT
from pd_jax.report.statistics import Percent, geometric, percent_with_interval, pool_games, pool_seeds


def score(mean: float, half: float | None = 1.0, error: float | None = 0.5, episodes: int = 30) -> Score:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Score(mean, error, low, high, episodes)


def test_three_seeds_have_students_t_interval() -> None:
    pooled = pool_seeds([score(10.0), score(12.0), score(17.0)])
    # Mean 13, squared deviations 9 + 1 + 16 = 26, so s^2 = 13; t(2 degrees, 97.5 %) = 4.302653 in any printed table.
    assert pooled.mean == 13.0
    assert pooled.standard_error == pytest.approx(math.sqrt(13 / 3))
    assert pooled.high == pytest.approx(13 + 4.302653 * math.sqrt(13 / 3), rel=1e-6)
    assert pooled.low == pytest.approx(13 - 4.302653 * math.sqrt(13 / 3), rel=1e-6)
    assert pooled.episodes == 90


def test_two_seeds_have_their_range_for_t_would_say_nothing() -> None:
    pooled = pool_seeds([score(18.0), score(12.0)])
    # t of one degree of freedom is 12.706: it would reach from -23 to 53.
    assert (pooled.mean, pooled.low, pooled.high, pooled.episodes) == (15.0, 12.0, 18.0, 60)
    assert pooled.standard_error == pytest.approx(3.0)


def test_one_seed_keeps_the_interval_of_its_games() -> None:
    only = Score(10.0, 0.4, 9.1, 10.6, 30)
    assert pool_seeds([only]) == only
    assert pool_games([only]) == only


def test_students_t_covers_the_mean_of_few_seeds() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(5.0, 2.0, size=(2000, 3))
    pooled = [pool_seeds([score(mean) for mean in row]) for row in seeds]
    covered = np.mean([p.low < 5.0 < p.high for p in pooled])  # type: ignore[operator]
    # Two standard deviations of a share of 2000.
    assert abs(covered - 0.95) < 2 * math.sqrt(0.95 * 0.05 / 2000)


def test_evaluations_of_one_policy_differ_by_chance_alone() -> None:
    pooled = pool_games([score(10.0, half=3.0, error=1.5), score(14.0, half=4.0, error=2.0)])
    # Variances of a mean of two: (1.5^2 + 2^2) / 4, and of the half widths (9 + 16) / 4.
    assert (pooled.mean, pooled.standard_error) == (12.0, 1.25)
    assert (pooled.low, pooled.high, pooled.episodes) == (9.5, 14.5, 60)
    alone = pool_games([score(10.0), score(14.0, half=None, error=None, episodes=1)])
    assert (alone.mean, alone.standard_error, alone.low) == (12.0, None, None)


def test_a_percentage_bears_both_scores_uncertainty() -> None:
    percent = percent_with_interval(score(15.0, half=3.0), score(20.0, half=2.0))
    # d(100 s/t) = 100/t ds and -100 s/t^2 dt: 15 and 7.5 points.
    assert percent.value == 75.0
    assert percent.high == pytest.approx(75 + math.hypot(15, 7.5))
    assert percent.low == pytest.approx(75 - math.hypot(15, 7.5))
    above = percent_with_interval(score(15.0, half=3.0), score(20.0, half=2.0), random=-20.0)
    assert above.value == 87.5
    assert above.high == pytest.approx(87.5 + math.hypot(7.5, 0.875 * 5))


def test_the_percentages_interval_is_that_of_simulated_scores() -> None:
    rng = np.random.default_rng(1)
    errors = 1.2, 0.8
    student, teacher = (rng.normal(mean, error, 200_000) for mean, error in zip((-5.0, 16.0), errors, strict=True))
    low, high = np.quantile(100 * (student + 20.7) / (teacher + 20.7), [0.025, 0.975])
    z = scipy.stats.norm.ppf(0.975)
    percent = percent_with_interval(score(-5.0, half=z * errors[0]), score(16.0, half=z * errors[1]), random=-20.7)
    assert percent.low == pytest.approx(low, abs=0.2)
    assert percent.high == pytest.approx(high, abs=0.2)


@pytest.mark.parametrize("teacher", [None, score(0.0), score(-3.0)])
def test_there_is_no_share_of_nothing(teacher: Score | None) -> None:
    assert percent_with_interval(score(5.0), teacher) == Percent(None)


def test_a_percentage_without_intervals_has_none() -> None:
    assert percent_with_interval(score(5.0, half=None), score(10.0)) == Percent(50.0)


def test_geometric_mean_and_its_interval_in_logarithms() -> None:
    mean = geometric([Percent(50.0, 45.0, 55.0), Percent(200.0, 160.0, 240.0)])
    assert mean.value == pytest.approx(100.0)
    # Relative half widths 0.1 and 0.2; the mean of two logarithms.
    factor = math.exp(math.sqrt(0.1**2 + 0.2**2) / 2)
    assert mean.high == pytest.approx(100 * factor)
    assert mean.low == pytest.approx(100 / factor)


def test_of_one_game_the_geometric_mean_is_its_percentage() -> None:
    assert geometric([Percent(97.0, 90.0, 104.0)]) == Percent(97.0, 90.0, 104.0)


@pytest.mark.parametrize("value", [0.0, -30.0, None])
def test_what_is_not_positive_has_no_geometric_mean(value: float | None) -> None:
    assert geometric([Percent(50.0, 45.0, 55.0), Percent(value)]) == Percent(None)


def test_the_floor_stands_for_what_is_not_positive_and_takes_the_interval_away() -> None:
    for low in (0.0, -30.0, 0.5 * FLOOR_PERCENT):
        mean = geometric([Percent(100.0, 90.0, 110.0), Percent(low, low - 0.1, low + 0.1)], FLOOR_PERCENT)
        assert mean.value == pytest.approx(math.sqrt(100.0 * 1.0))
        assert (mean.low, mean.high) == (None, None)
    assert geometric([Percent(100.0), Percent(None)], FLOOR_PERCENT) == Percent(None), "unknown is not bad"
    assert geometric([Percent(-5.0, -6.0, -4.0)], FLOOR_PERCENT) == Percent(FLOOR_PERCENT)


def test_an_interval_that_reaches_zero_gives_the_mean_none() -> None:
    assert geometric([Percent(50.0, -1.0, 101.0), Percent(50.0, 49.0, 51.0)]) == Percent(pytest.approx(50.0))


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20))
def test_geometric_mean_is_that_of_scipy(values: list[float]) -> None:
    expected = scipy.stats.gmean(values)
    assert geometric([Percent(value) for value in values]).value == pytest.approx(expected, rel=1e-9)
