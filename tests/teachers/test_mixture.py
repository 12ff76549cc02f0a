"""The mixture of several policies, against plain NumPy; and what a damaged member counts in it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pd_jax.teachers import mixture

BY = ("none", "score", "state", "both")


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def median_overlap(policies: np.ndarray, votes: np.ndarray, member: int) -> float:
    """One state; of an even number of others, the larger one of the two in the middle."""
    others = [place for place in range(len(policies)) if place != member and votes[place] > 0]
    if not others:
        return 1.0
    return sorted(float(np.minimum(policies[member], policies[other]).sum()) for other in others)[len(others) // 2]


def weights_of(policies: np.ndarray, votes: np.ndarray, by: str) -> np.ndarray:
    """One state, ``[M]``, worked out member by member in float64."""
    own = votes if by in ("score", "both") else np.ones(len(policies))
    if by in ("none", "score"):
        return own / own.sum()
    found = []
    for member, policy in enumerate(policies):
        positive = policy[policy > 0]
        sure = 1.0 if len(policy) == 1 else 1 + (positive * np.log(positive)).sum() / np.log(len(policy))
        found.append(own[member] * (sure + 0.01) * (median_overlap(policies, own, member) + 1e-3) ** 2)
    return np.array(found) / sum(found)


def mixed(outputs: Any, temperatures: Any, votes: Any = None, by: str = "state", alive: Any = None) -> tuple[Any, Any]:
    """Weights ``[M, N]`` and the mixture's probabilities ``[N, A]``."""
    outputs = jnp.asarray(outputs, jnp.float32)
    alive = jnp.ones(len(outputs), bool) if alive is None else jnp.asarray(alive)
    log_policies, has = mixture.policies(outputs, jnp.asarray(temperatures, jnp.float32), alive)
    votes = jnp.ones(len(outputs)) if votes is None else jnp.asarray(votes, jnp.float32)
    weights = mixture.weights(log_policies, has, votes, by=by)
    return np.asarray(weights), np.exp(np.asarray(mixture.mix(log_policies, weights)))


@settings(max_examples=60, deadline=None)
@given(
    outputs=hnp.arrays(np.float64, (3, 4, 3), elements=st.integers(-40, 40).map(lambda value: value / 8)),
    votes=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=3, max_size=3).filter(any),
    by=st.sampled_from(BY),
)
def test_weights_and_mixture_are_those_of_float64(outputs: np.ndarray, votes: list[float], by: str) -> None:
    temperatures = np.array([0.5, 1.0, 2.0])
    weights, together = mixed(outputs, temperatures, votes, by)
    policies = softmax(outputs / temperatures[:, None, None])
    for state in range(outputs.shape[1]):
        wanted = weights_of(policies[:, state], np.array(votes), by)
        np.testing.assert_allclose(weights[:, state], wanted, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(together[state], wanted @ policies[:, state], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("good", "bad"), [(2, 1), (3, 2), (4, 3)])
def test_a_minority_counts_almost_nothing_where_it_contradicts_and_its_share_where_it_agrees(
    good: int, bad: int
) -> None:
    rows = [[0.0, 1.0, 0.2]] * good
    # Each damaged in its own way, and sure of it; in the second state they are sound.
    wrong = [np.roll([9.0, -9.0, -9.0], 2 * place % 3 if bad == 1 else place % 2 * 2) for place in range(bad)]
    outputs = [[row, row] for row in rows] + [[row, [0.0, 1.0, 0.2]] for row in wrong]
    weights, together = mixed(outputs, np.full(good + bad, 0.1), by="state")
    assert weights[good:, 0].sum() < 1e-3
    np.testing.assert_allclose(weights[:, 1], 1 / (good + bad), rtol=1e-5)
    assert together[0].argmax() == 1 and together[0, 1] > 0.99
    _, plain = mixed(outputs, np.full(good + bad, 0.1), by="none")
    assert plain[0, 1] < good / (good + bad) + 1e-3


@pytest.mark.parametrize("votes", [[0.8, 0.9, 1.0], [0.1, 1.0, 1.0]])
def test_one_that_was_damaged_after_it_was_scored_outvotes_nobody(votes: list[float]) -> None:
    outputs = [[[0.0, 1.0, 0.2]], [[0.0, 1.0, 0.2]], [[9.0, -9.0, -9.0]]]
    weights, together = mixed(outputs, np.full(3, 0.1), votes, by="both")
    assert weights[2, 0] < 1e-4 and together[0, 1] > 0.99
    # Of two that are of one mind, each counts by its score.
    assert weights[0, 0] / weights[1, 0] == pytest.approx(votes[0] / votes[1], rel=1e-5)


def test_two_that_contradict_count_alike_until_scores_decide() -> None:
    outputs = [[[5.0, 0.0]], [[0.0, 5.0]]]
    np.testing.assert_allclose(mixed(outputs, [1.0, 1.0])[0][:, 0], [0.5, 0.5])
    np.testing.assert_allclose(mixed(outputs, [1.0, 1.0], [1.0, 0.25], "both")[0][:, 0], [0.8, 0.2], rtol=1e-6)


def test_one_that_is_undecided_counts_less_than_one_that_is_sure() -> None:
    weights, _ = mixed([[[3.0, 0.0]], [[0.1, 0.0]]], [1.0, 1.0])
    assert weights[0, 0] > 10 * weights[1, 0]


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("nonsense", [np.nan, np.inf, -np.inf])
def test_nonsense_counts_nothing_and_has_no_vote(nonsense: float, by: str) -> None:
    outputs = np.array([[[2.0, 0.0, 1.0]], [[nonsense, 0.0, 1.0]], [[2.5, 0.0, 0.5]]])
    weights, together = mixed(outputs, np.ones(3), by=by)
    without, alone = mixed(outputs[[0, 2]], np.ones(2), by=by)
    np.testing.assert_allclose(weights[:, 0], [without[0, 0], 0.0, without[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    left_out, also = mixed(np.nan_to_num(outputs), np.ones(3), by=by, alive=[True, False, True])
    np.testing.assert_allclose(left_out, weights, rtol=1e-6)
    np.testing.assert_allclose(also, alone, rtol=1e-6)


@pytest.mark.parametrize("by", BY)
def test_where_nobody_has_a_policy_the_mixture_is_nan(by: str) -> None:
    weights, together = mixed(np.full((2, 1, 3), np.nan), np.ones(2), by=by)
    assert not weights.any() and np.isnan(together).all()


@pytest.mark.parametrize("by", BY)
def test_huge_and_equal_outputs_and_a_single_action_leave_finite_labels(by: str) -> None:
    outputs = np.array([[[3e38, -3e38], [0.0, 0.0]], [[0.0, 1e6], [1.0, 1.0]]])
    weights, together = mixed(outputs, [0.01, 0.01], by=by)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-6)
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(mixed(np.zeros((2, 3, 1)), [1.0, 1.0], by=by)[1], 1.0)


def test_labels_of_scores_alone_are_those_of_the_best_where_only_it_counts() -> None:
    outputs = np.array([[[1.0, 0.0]], [[0.0, 4.0]]])
    np.testing.assert_allclose(mixed(outputs, [1.0, 1.0], [1.0, 0.0], "score")[1], softmax(outputs[0]), rtol=1e-6)
    # If that one fails, the others are all there is.
    outputs[0] = np.nan
    np.testing.assert_allclose(mixed(outputs, [1.0, 1.0], [1.0, 0.0], "both")[1], softmax(outputs[1]), rtol=1e-6)
