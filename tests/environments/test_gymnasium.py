"""EnvPool's MuJoCo beside Gymnasium's own, from the same state with the same actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pd_jax.environments.envpool import Environment
from pd_jax.environments.spaces import simulator_of
from pd_jax.environments.tasks import get_task
from support.gymnasium_mujoco import HIDDEN, SEED, STEPS, actions_of

FIXTURE = np.load(Path(__file__).parent.parent / "fixtures" / "gymnasium_mujoco.npz")


@pytest.mark.parametrize("env_id", HIDDEN)
def test_observations_and_rewards_are_gymnasiums_over_ten_steps(env_id: str) -> None:
    environment = Environment(get_task(env_id), 1, SEED, stepping="host")
    first = environment.reset()[1].observations
    assert np.array_equal(first[0], FIXTURE[f"{env_id} first"].astype(np.float32))
    # An EnvPool with another MuJoCo in it is as near as that MuJoCo is, which after ten steps is not very.
    same = simulator_of(env_id) == "mujoco 3.6.0"
    steps, tolerance = (STEPS, 1e-6) if same else (1, 1e-2)
    compared = 0
    for step, action in enumerate(actions_of(env_id)[:steps]):
        shown = environment.step_host(action[None], np.zeros(1, bool))
        wanted = FIXTURE[f"{env_id} observations"][step]
        # Ours are float32: relative to 1 or to the number itself.
        np.testing.assert_allclose(shown.observations[0], wanted, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(shown.rewards[0], FIXTURE[f"{env_id} rewards"][step], rtol=tolerance, atol=tolerance)
        compared += 1
        if shown.is_last[0]:
            break
    assert compared >= min(steps, 5)
