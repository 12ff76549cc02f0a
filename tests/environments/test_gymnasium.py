"""EnvPool's MuJoCo beside Gymnasium's own, from the same state with the same actions."""

from __future__ import annotations

from pathlib import Path

import envpool
import numpy as np
import pytest

from pd_jax.environments.envpool import Environment
from pd_jax.environments.spaces import simulator_of
from pd_jax.environments.tasks import get_task
from support.gymnasium_mujoco import HIDDEN, SEED, STEPS, actions_of

FIXTURE = np.load(Path(__file__).parent.parent / "fixtures" / "gymnasium_mujoco.npz")
RECORDED = ("mujoco 3.6.0", "mujoco 3.11.0")
"""Those that Gymnasium was recorded with."""


@pytest.mark.parametrize("env_id", HIDDEN)
def test_observations_and_rewards_are_gymnasiums_over_ten_steps(env_id: str) -> None:
    simulator = simulator_of(env_id)
    is_recorded = simulator in RECORDED
    wanted = f"{simulator if is_recorded else RECORDED[-1]} {env_id}"
    # Another MuJoCo than EnvPool's may give other numbers: 3.6.0 beside 4.0.0 differs in Ant by 5e-7 after one step and
    # 3e-3 after ten. So what is built with one that was not recorded is compared over one step, and roughly.
    steps, tolerance = (STEPS, 1e-10) if is_recorded else (1, 1e-2)
    environment = Environment(get_task(env_id), 1, SEED, stepping="host")
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=1, seed=SEED)
    assert np.array_equal(pool.reset()[0][0], FIXTURE[f"{wanted} first"])
    assert np.array_equal(environment.reset()[1].observations[0], FIXTURE[f"{wanted} first"].astype(np.float32))
    compared = 0
    for step, action in enumerate(actions_of(env_id)[:steps]):
        seen, rewards, *_ = pool.step(action[None].astype(np.float64))
        observation, reward = FIXTURE[f"{wanted} observations"][step], FIXTURE[f"{wanted} rewards"][step]
        # EnvPool's observations are float64, its rewards float32. Relative to 1 or to the number itself.
        np.testing.assert_allclose(seen[0], observation, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(rewards[0], reward, rtol=max(tolerance, 1e-6), atol=max(tolerance, 1e-6))
        # Ours are EnvPool's, as float32.
        shown = environment.step_host(action[None], np.zeros(1, bool))
        assert np.array_equal(shown.observations[0], seen[0].astype(np.float32))
        assert np.array_equal(shown.rewards, rewards.astype(np.float32))
        compared += 1
        if shown.is_last[0]:
            break
    assert compared >= min(steps, 5)
