"""Frozen statistics against what Stable-Baselines3 computes in float64."""

from __future__ import annotations

import gymnasium
import jax
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pd_jax.networks.normalisation import Normalisation
from pd_jax.networks.torsos import MLPTorso


def theirs(mean: np.ndarray, variance: np.ndarray, clip: float, observations: np.ndarray) -> np.ndarray:
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), clip_obs=clip)
    env.obs_rms.mean, env.obs_rms.var = mean, variance
    return np.asarray(env.normalize_obs(observations))


# The means of the last two fit into no float32 at the precision that their deviations ask for; XLA folds equal ones.
@pytest.mark.parametrize(
    ("mean", "deviation"), [([0.1, -3.0, 0, 2], 1.5), ([1000.1, -7777.7, 1e4 + 1 / 3, 0.3], 0.01), ([1000.1] * 4, 0.01)]
)
@pytest.mark.parametrize("clip", [10.0, 1.5])
def test_observations_are_normalised_as_by_vec_normalize(mean, deviation, clip):
    means, rng = np.array(mean), np.random.default_rng(0)
    variance = np.square(deviation * np.array([1.0, 2.0, 0.5, 3.0]))
    observations = (means + 3 * deviation * rng.standard_normal((500, 4))).astype(np.float32)
    normalisation = Normalisation(tuple(means), tuple(variance), 1e-8, clip)
    wanted = theirs(means, variance, clip, observations)
    assert np.abs(wanted).max() == pytest.approx(clip, rel=0.5)
    for normalise in (jax.jit(normalisation), jax.jit(jax.vmap(normalisation))):
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            np.testing.assert_allclose(normalise(observations), wanted, rtol=2e-6, atol=1e-6)


def test_one_number_stands_for_all_entries_and_an_observation_that_never_varied_stays_finite():
    normalisation = Normalisation.of({"mean": 2.0, "variance": 0.0, "count": 3, "epsilon": 1e-8})
    assert normalisation == Normalisation((2.0,), (0.0,), 1e-8, None)
    np.testing.assert_allclose(normalisation(np.float32([[2.0, 2.5]])), [[0.0, 5000.0]], rtol=1e-6)


def test_a_torso_normalises_before_its_first_layer_and_has_the_same_parameters():
    normalisation = Normalisation((1.0, 2.0), (4.0, 9.0), 0.0)
    plain, torso = MLPTorso((3,)), MLPTorso((3,), normalisation=normalisation)
    variables = plain.init(jax.random.key(0), np.zeros((1, 2), np.float32))
    x = np.float32([[3.0, -4.0], [0.5, 11.0]])
    np.testing.assert_allclose(torso.apply(variables, x), plain.apply(variables, (x - [1, 2]) / [2, 3]), atol=1e-6)
