"""What a student cannot learn, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from pd_jax.evaluation.irreducible import Unseen, estimate_unseen, policies

LANES, STEPS, ACTIONS, PLACES = 16, 200, 3, 8


def states(seed: int) -> tuple[np.ndarray, ...]:
    """Places that are seen and sides that are not, which stay for a while within a lane; and policies of both."""
    generator = np.random.default_rng(seed)
    table = generator.dirichlet(np.full(ACTIONS, 0.5), size=(PLACES, 2))
    lanes = np.repeat(np.arange(LANES), STEPS)
    place = generator.integers(PLACES, size=LANES * STEPS)
    # As of a ball that keeps its direction: in one lane a step tells about the next.
    side = (generator.random(LANES * STEPS // 10) < 0.3).astype(int).repeat(10)
    return lanes, place, side, table


def truth(table: np.ndarray, share: float = 0.3) -> float:
    """I(action; side | place) in nats, by its definition."""
    sides = np.array([1 - share, share])
    mean = (table * sides[:, None]).sum(axis=1)
    divergence = (table * np.log(table / mean[:, None])).sum(axis=-1)
    return float((divergence * sides).sum(axis=1).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_information_that_is_not_seen_is_found(seed: int) -> None:
    lanes, place, side, table = states(seed)
    targets = table[place, side]
    known = truth(table)
    found = estimate_unseen(
        np.eye(PLACES, dtype=np.float32)[place],
        np.concatenate([np.eye(PLACES)[place], 3 * side[:, None]], axis=1).astype(np.float32),
        targets,
        lanes,
        is_policy=True,
    )
    assert found.estimate == pytest.approx(known, rel=0.12)
    assert found.teacher < 0.02 * known
    assert found.student > known - 3 * found.standard_error
    assert known < found.total


def test_the_variance_that_is_not_seen_is_found() -> None:
    lanes, place, side, _ = states(3)
    values = np.random.default_rng(0).normal(size=(PLACES, 2, ACTIONS))
    targets = values[place, side]
    difference = values[:, 1] - values[:, 0]
    # A two-point variance is s (1 - s) d^2; the sum over actions, the mean over places.
    known = 0.3 * 0.7 * (difference**2).sum(axis=-1).mean()
    seen = np.eye(PLACES, dtype=np.float32)[place]
    shown = np.concatenate([seen, 3 * side[:, None]], axis=1)
    found = estimate_unseen(seen, shown, targets, lanes, is_policy=False)
    assert found.estimate == pytest.approx(known, rel=0.12)


def test_nothing_is_left_where_everything_is_seen() -> None:
    lanes, place, side, table = states(5)
    shown = np.concatenate([np.eye(PLACES)[place], 3 * side[:, None]], axis=1).astype(np.float32)
    found = estimate_unseen(shown * 2, shown, table[place, side], lanes, is_policy=True)
    assert found.estimate == 0
    assert "0 %" in found.describe("nats")


def test_smooth_observations_give_it_too() -> None:
    """One of two numbers is seen; the other's sign decides a logit of 2, whose information is known in closed form."""
    generator = np.random.default_rng(1)
    seen, hidden = generator.uniform(-1, 1, size=(2, LANES * STEPS)).astype(np.float32)
    lanes = np.arange(LANES * STEPS) % LANES
    first = 1 / (1 + np.exp(-2 * np.sign(hidden)))
    targets = np.stack([first, 1 - first], axis=1)
    p = 1 / (1 + np.exp(-2))
    # The mean of p and 1 - p is 1/2.
    known = np.log(2) + p * np.log(p) + (1 - p) * np.log(1 - p)
    found = estimate_unseen(seen[:, None], np.stack([seen, hidden], axis=1), targets, lanes, is_policy=True)
    assert found.estimate == pytest.approx(known, rel=0.12)


def test_policies_are_softmaxes_of_outputs_over_the_temperature() -> None:
    outputs = np.array([[1.0, 1.01], [0.0, 1000.0]], np.float32)
    np.testing.assert_allclose(policies(outputs, 0.01)[0], [1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-4)
    np.testing.assert_allclose(policies(outputs, 1.0)[1], [0, 1])


@pytest.mark.parametrize(
    ("unit", "told"), [("nats", "nats of the loss cannot be"), ("squared units of actions", "of actions cannot be")]
)
def test_a_loss_of_another_unit_is_not_named(unit: str, told: str) -> None:
    found = Unseen(student=0.5, teacher=0.1, total=1.0, states=4096, standard_error=0.01)
    assert f"about 0.4 ± 0.01 {unit}" in found.describe(unit) and told in found.describe(unit)
