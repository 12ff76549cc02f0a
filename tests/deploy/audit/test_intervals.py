"""Shares, means and tails, against SciPy and against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pd_jax.deploy.audit.intervals import Games, bootstrap, conditional_tail, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 20), (499, 1000)])
def test_wilsons_interval_is_scipys(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson(successes, trials), expected, atol=1e-12)


def test_the_interval_of_a_share_widens_where_the_states_of_a_game_are_alike() -> None:
    games = np.repeat(np.arange(20), 100)
    generator = np.random.default_rng(0)
    independent = generator.random(2000) < 0.5
    alike = np.repeat(generator.random(20) < 0.5, 100)
    everywhere = np.ones(2000, bool)
    widths = [np.ptp(Games(games).share(values, everywhere)["ci95"]) for values in (independent, alike)]
    # Twenty coins against two thousand: ten times as wide.
    assert widths[0] < 0.06 and 0.3 < widths[1] < 0.5
    assert Games(games).share(independent, everywhere)["value"] == independent.mean()


def test_a_share_of_all_has_a_width_and_one_of_nothing_has_no_value() -> None:
    games, values = Games(np.repeat(np.arange(6), 10)), np.ones(60, bool)
    told = games.share(values, np.ones(60, bool))
    assert told["value"] == 1.0 and told["ci95"][0] == pytest.approx(wilson(60, 60)[0]) and told["ci95"][1] == 1.0
    assert games.share(values, np.zeros(60, bool)) == {"value": None, "ci95": [None, None]}
    assert games.mean(values, np.zeros(60, bool))["value"] is None


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        games = np.repeat(np.arange(30), 20)
        values = np.repeat(generator.normal(size=30), 20) + generator.normal(size=600)
        mask = generator.random(600) < 0.3
        values[mask] += 0.5
        low, high = Games(games, seed).difference(values, mask, ~mask)["ci95"]
        covered += low <= 0.5 <= high
    assert 85 <= covered <= 100


def test_too_few_games_leave_no_interval_of_a_mean() -> None:
    games, values = Games(np.repeat(np.arange(4), 10)), np.arange(40.0)
    mask = values < 20
    assert games.mean(values, mask) == {"value": 9.5, "ci95": [None, None]}
    assert games.difference(values, mask, ~mask) == {"value": -20.0, "ci95": [None, None]}


@pytest.mark.parametrize(("count", "worst"), [(1, 1), (10, 1), (11, 2), (20, 2), (30, 3)])
def test_the_tail_is_the_mean_of_the_worst_tenth(count: int, worst: int) -> None:
    returns = np.random.default_rng(count).permutation(count).astype(float)
    assert conditional_tail(returns) == np.mean(range(worst))


def test_a_bootstrapped_mean_has_the_normal_interval() -> None:
    sample = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(np.mean, sample)
    assert low is not None and high is not None
    assert high - low == pytest.approx(2 * 1.96 * sample.std() / 20, rel=0.1)
    assert bootstrap(np.mean, sample[:1]) == [None, None]
