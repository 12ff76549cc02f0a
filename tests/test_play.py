"""The two sources of lessons look alike from outside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pd_jax.config import EnvConfig
from pd_jax.dataset import Dataset
from pd_jax.play import LivePlay, RecordedPlay, action_gap, fresh_seed
from pd_jax.teachers import load
from pd_jax.types import Trajectory


def test_a_recording_is_read_in_order_and_then_there_is_no_more(recording: Path) -> None:
    dataset = Dataset.open(recording)
    play = RecordedPlay(dataset, rollout_length=48, num_steps=128)
    parts = [*play.rollouts(1), *play.rollouts(5)]
    assert list(play.rollouts(1)) == []
    # 128 steps are two rollouts of 48; what is left is too short for a third.
    assert [part.rewards.shape for part in parts] == [(48, 8)] * 2
    expected = dataset.read(0, 96)
    np.testing.assert_array_equal(np.concatenate([part.observations for part in parts]), expected.observations)
    play.close()


def test_live_play_goes_on_from_rollout_to_rollout_and_notes_the_games_that_end() -> None:
    teacher = load("cartpole")
    env = EnvConfig(num_lanes=3, max_episode_steps=10)
    play = LivePlay(teacher, teacher.task, env, rollout_length=16, epsilon=0.0, seed=1)
    first, second = play.rollouts(2)
    play.close()
    is_first = np.concatenate([first.is_first, second.is_first])
    # Ten steps, then the terminal observation, then the next game: every eleventh step begins one.
    assert np.flatnonzero(is_first[:, 0]).tolist() == [0, 11, 22]
    # In the 32 steps of each lane, the last of which ends the third game.
    assert play.finished_returns == [10.0] * 9


@pytest.mark.parametrize("seed", [0, 1, 2 * 10**9])
def test_fresh_seeds_fit_envpool_and_begin_with_the_runs_own(seed: int) -> None:
    assert fresh_seed(seed, 0) == seed
    later = [fresh_seed(seed, steps) for steps in (64, 54_000, 2**31 - 1)]
    assert len({seed, *later}) == 4
    assert all(0 <= number < 2**31 - 2**16 for number in later)


def test_the_action_gap_is_the_median_over_decisions_of_the_best_two_outputs():
    outputs = np.array([[[1.0, 4.0, 2.5], [9.0, 9.0, 0.0]], [[5.0, -1.0, -2.0], [0.0, 100.0, 0.0]]], np.float32)
    decisions = np.array([[True, True], [True, False]])
    zeros = np.zeros((2, 2), np.float32)
    trajectory = Trajectory(
        observations=zeros, is_first=decisions, is_decision=decisions, actions=zeros, rewards=zeros, teacher_q=outputs
    )
    # The gaps are 1.5, 0 and 6; that of 100 was no decision.
    assert action_gap(trajectory) == 1.5
    assert action_gap(dataclasses.replace(trajectory, is_decision=np.zeros((2, 2), bool))) is None
