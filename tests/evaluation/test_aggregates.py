"""Aggregates over seeds and games, against rliable's numbers, SciPy and brute force."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pd_jax.evaluation import aggregates

RLIABLE: Any = json.loads((Path(__file__).parents[1] / "fixtures" / "rliable.json").read_text())
NAMES = {
    "iqm": aggregates.interquartile_mean,
    "optimality_gap": aggregates.optimality_gap,
    "median": aggregates.median_of_games,
    "mean": aggregates.mean_of_runs,
}


def fixture(name: str) -> np.ndarray:
    return np.array(RLIABLE["scores"][name])


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("aggregate", NAMES)
def test_aggregates_are_rliables(name: str, aggregate: str) -> None:
    assert NAMES[aggregate](fixture(name)) == pytest.approx(RLIABLE[name][aggregate], abs=1e-9)


@pytest.mark.parametrize("name", ["a", "b"])
def test_profiles_are_rliables(name: str) -> None:
    profile = aggregates.performance_profile(fixture(name), np.array(RLIABLE["thresholds"]))
    np.testing.assert_allclose(profile, RLIABLE[name]["profile"], atol=1e-9)


def test_the_probability_of_improvement_is_rliables_with_other_numbers_of_seeds_and_equal_scores() -> None:
    ours, theirs = fixture("a"), fixture("b")
    found = aggregates.probability_of_improvement(ours, theirs)
    assert found == pytest.approx(RLIABLE["probability_of_improvement"], abs=1e-9)
    assert found + aggregates.probability_of_improvement(theirs, ours) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("aggregate", ["iqm", "optimality_gap"])
def test_intervals_are_rliables_but_for_the_chance_of_resampling(name: str, aggregate: str) -> None:
    ends = aggregates.stratified_bootstrap(NAMES[aggregate], fixture(name), resamples=20_000)
    wanted = RLIABLE[name][f"{aggregate}_interval"]
    np.testing.assert_allclose(ends, wanted, atol=0.03 * (wanted[1] - wanted[0]))


def test_the_interval_of_a_probability_is_rliables() -> None:
    ends = aggregates.stratified_bootstrap(aggregates.probability_of_improvement, fixture("a"), fixture("b"))
    np.testing.assert_allclose(ends, RLIABLE["probability_interval"], atol=0.04)


def test_the_bootstrap_draws_the_seeds_of_each_game_apart() -> None:
    """With two seeds and two games there are 16 samples, all as likely: their means by hand."""
    scores = np.array([[0.0, 10.0], [1.0, 14.0]])
    means = [
        np.mean([*first, *second])
        for first in itertools.product(scores[:, 0], repeat=2)
        for second in itertools.product(scores[:, 1], repeat=2)
    ]
    drawn: list[float] = []

    def spy(samples: np.ndarray) -> np.ndarray:
        drawn.extend(aggregates.mean_of_runs(samples))
        return aggregates.mean_of_runs(samples)

    aggregates.stratified_bootstrap(spy, scores, resamples=8_000)
    values, counts = np.unique(np.round(drawn, 9), return_counts=True)
    wanted, often = np.unique(np.round(means, 9), return_counts=True)
    np.testing.assert_array_equal(values, wanted)
    assert scipy.stats.chisquare(counts, often / often.sum() * len(drawn)).pvalue > 1e-4


_MATRICES = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-3, 3))


@given(_MATRICES)
def test_the_interquartile_mean_is_scipys_trimmed_one(scores: np.ndarray) -> None:
    assert aggregates.interquartile_mean(scores) == pytest.approx(
        scipy.stats.trim_mean(scores.ravel(), 0.25), abs=1e-12
    )


@given(_MATRICES, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_probabilities_are_mann_and_whitneys(scores: np.ndarray, seeds: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Scores that are there twice are the hard case.
    theirs = generator.choice(np.append(scores.ravel(), 0.5), (seeds, scores.shape[1]))
    u = [scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(scores.T, theirs.T, strict=True)]
    assert aggregates.probability_of_improvement(scores, theirs) == pytest.approx(np.mean(u), abs=1e-12)


@given(_MATRICES)
def test_what_is_above_the_reference_makes_up_for_nothing(scores: np.ndarray) -> None:
    gap = aggregates.optimality_gap(scores)
    assert gap >= max(0, 1 - scores.mean()) - 1e-12
    assert gap == pytest.approx(np.mean([max(0, 1 - score) for score in scores.ravel()]), abs=1e-12)
