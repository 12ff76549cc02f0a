"""Scores of the same policy in two simulators: what is counted in Gymnasium's, and how far two means are apart."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from benchmarks.studies.simulators import SEED, difference, play_in_gymnasium

GAME = "MountainCarContinuous-v0"
LANES, EPISODES = 2, 3


def push(observations: np.ndarray) -> np.ndarray:
    """Pushes the way that the car moves, and less where it is high: every episode has a return of its own."""
    return (np.sign(observations[:, 1:]) * (0.8 - 0.2 * observations[:, :1])).astype(np.float32)


def one_after_another(lane: int) -> list[float]:
    """Returns of the first two episodes of a lane, whose environment is alone and is reset as it should be."""
    environment, found = gymnasium.make(GAME), []
    observation, _ = environment.reset(seed=SEED + lane)
    for _ in range(2):
        total, is_over = 0.0, False
        while not is_over:
            observation, reward, terminated, truncated, _ = environment.step(push(observation[None])[0])
            total, is_over = total + float(reward), terminated or truncated
        found.append(total)
        observation, _ = environment.reset()
    return found


def test_returns_are_those_of_environments_that_are_stepped_alone() -> None:
    returns = play_in_gymnasium(push, GAME, EPISODES, LANES)
    # Three episodes are four in two lanes.
    wanted = [one_after_another(lane) for lane in range(LANES)]
    assert len({round(each, 6) for lane in wanted for each in lane}) == 4
    np.testing.assert_allclose(returns.reshape(LANES, 2), wanted, rtol=1e-6)


def test_a_difference_is_told_in_standard_errors() -> None:
    one, other = {"mean": 10.0, "standard_error": 3.0}, {"mean": 20.0, "standard_error": 4.0}
    assert difference(one, other) == {"mean": -10.0, "standard_error": 5.0, "in_standard_errors": -2.0}
    exact = {"mean": 10.0, "standard_error": 0.0}
    assert difference(exact, exact)["in_standard_errors"] is None
    assert difference(other, one)["in_standard_errors"] == pytest.approx(2.0)
