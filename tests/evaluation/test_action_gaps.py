"""Action gaps and entropies against SciPy and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pd_jax.evaluation.action_gaps import describe_outputs, played_outputs
from pd_jax.teachers import load
from support.commands import write_teacher


def test_numbers_worked_out_by_hand() -> None:
    # Gaps 1 and 3; softmax of (ln 3, 0) is (3/4, 1/4).
    statistics = describe_outputs(np.array([[1.0, 2.0, -1.0], [4.0, 1.0, -5.0]]), [1.0])
    assert statistics["states"] == 2
    assert statistics["mean_absolute"] == pytest.approx((1 + 2 + 1 + 4 + 1 + 5) / 6)
    assert statistics["standard_deviation"] == pytest.approx(math.sqrt(48 / 6 - (2 / 6) ** 2))
    assert (statistics["mean_action_gap"], statistics["median_action_gap"]) == (2, 2)

    (row,) = describe_outputs(np.array([[0.0, math.log(3) / 100]]), [0.01])["temperatures"]
    assert row["temperature"] == 0.01
    assert row["mean_gap"] == row["median_gap"] == pytest.approx(math.log(3))
    assert row["best_probability"] == pytest.approx(0.75)
    assert row["entropy"] == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=2)


@given(
    outputs=arrays(np.float32, SHAPES, elements=st.floats(-1e6, 1e6, width=32)),
    temperature=st.sampled_from([1e-3, 0.01, 1.0, 50.0]),
)
def test_entropy_gap_and_best_probability_agree_with_scipy(outputs: np.ndarray, temperature: float) -> None:
    statistics = describe_outputs(outputs, [temperature])
    (row,) = statistics["temperatures"]
    policy = scipy.special.softmax(outputs.astype(np.float64) / temperature, axis=-1)
    assert row["entropy"] == pytest.approx(scipy.stats.entropy(policy, axis=-1).mean(), abs=1e-9)
    assert row["best_probability"] == pytest.approx(policy.max(axis=-1).mean())
    ordered = np.sort(outputs.astype(np.float64), axis=-1)
    gaps = ordered[:, -1] - ordered[:, -2]
    assert statistics["mean_action_gap"] == pytest.approx(gaps.mean())
    assert row["median_gap"] == pytest.approx(np.median(gaps) / temperature)


def test_the_outputs_are_those_of_the_teachers_own_play(tmp_path) -> None:
    teacher = load(str(write_teacher(tmp_path / "teacher.safetensors", "cartpole")))
    outputs = played_outputs(teacher, 1_000, epsilon=0.0, seed=3)
    assert outputs.shape == (1_000, 2) and outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, played_outputs(teacher, 1_000, epsilon=0.0, seed=3))
    np.testing.assert_array_equal(outputs[:100], played_outputs(teacher, 100, epsilon=0.0, seed=3))
    assert (outputs[:8] != played_outputs(teacher, 8, epsilon=0.0, seed=30)).any(), "another seed, other games"


def test_terminal_observations_are_left_out(tmp_path) -> None:
    import envpool

    teacher = load(str(write_teacher(tmp_path / "teacher.safetensors", "cartpole")))
    outputs = played_outputs(teacher, 400, epsilon=0.0, seed=3)
    # The same play, by hand: greedy steps of the lanes, in which the step after an end decides nothing.
    pool = envpool.make_gymnasium("CartPole-v1", num_envs=8, seed=3, max_episode_steps=500)
    observations, _ = pool.reset()
    decided: list[np.ndarray] = []
    is_last = np.zeros(8, bool)
    ends = 0
    while len(decided) < 400:
        q_values = np.asarray(teacher(observations.astype(np.float32)))
        decided += list(q_values[~is_last])
        observations, _, terminated, truncated, _ = pool.step(q_values.argmax(axis=-1).astype(np.int32))
        is_last = terminated | truncated
        ends += is_last.sum()
    assert ends > 8
    np.testing.assert_allclose(outputs, np.array(decided)[:400], rtol=1e-3, atol=1e-3)
