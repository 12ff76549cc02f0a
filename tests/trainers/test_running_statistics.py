"""Running statistics: equal to those of everything at once, and to VecNormalize's."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

from pd_jax.networks.normalisation import Normalisation
from pd_jax.trainers.running_statistics import RunningStatistics, normalise

RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(loc=[5.0, -300.0, 0.01], scale=[2.0, 10.0, 0.001], size=(size, 3)) for size in (64, 1, 500, 3)]


def of_all() -> RunningStatistics:
    statistics = RunningStatistics.fresh((3,))
    for batch in BATCHES:
        statistics = statistics.update(jnp.asarray(batch, jnp.float32), jnp.ones(len(batch)))
    return statistics


def test_batches_one_after_another_give_what_all_at_once_give():
    statistics, everything = of_all(), np.concatenate(BATCHES)
    np.testing.assert_allclose(statistics.mean, everything.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(statistics.variance, everything.var(axis=0), rtol=1e-3, atol=1e-6)
    theirs = RunningMeanStd(shape=(3,))
    for batch in BATCHES:
        theirs.update(batch)
    np.testing.assert_allclose(statistics.mean, theirs.mean, rtol=1e-4)
    # That of a first count of 1e-4, of mean 0, is in both.
    np.testing.assert_allclose(statistics.variance, theirs.var, rtol=1e-3)
    np.testing.assert_allclose(float(statistics.count), theirs.count, rtol=1e-6)


def test_what_weighs_nothing_does_not_count():
    batch = jnp.asarray(BATCHES[0], jnp.float32)
    spoilt = batch.at[::2].set(1e6)
    weight = jnp.ones(len(batch)).at[::2].set(0.0)
    start = RunningStatistics.fresh((3,))
    found, expected = start.update(spoilt, weight), start.update(batch[1::2], jnp.ones(len(batch) // 2))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-4)
    nothing = start.update(spoilt, jnp.zeros(len(batch)))
    np.testing.assert_array_equal(nothing.mean, start.mean)


def test_frozen_statistics_normalise_as_the_running_ones_did():
    statistics = of_all()
    frozen = Normalisation.of(statistics.to_metadata(clip=1.5))
    seen = jnp.asarray(np.concatenate(BATCHES), jnp.float32)
    running = normalise(seen, statistics, 1.5)
    assert (np.abs(running) == 1.5).any()
    np.testing.assert_allclose(frozen(seen), running, atol=2e-3)
