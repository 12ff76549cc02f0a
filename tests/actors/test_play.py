"""Live play and recordings look alike from outside, and those of several games do not get into each other's way."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pytest

from pd_jax.actors.live import LivePlay
from pd_jax.actors.play import action_gap, first_unsound_step
from pd_jax.actors.recorded import RecordedPlay
from pd_jax.actors.rollout import ActingStudent
from pd_jax.actors.side_by_side import SideBySide
from pd_jax.config.sections import OneGameEnvConfig, StudentConfig
from pd_jax.environments.seeds import fresh_seed
from pd_jax.networks.student import make_student
from pd_jax.replay.recordings import Dataset
from pd_jax.teachers import load
from pd_jax.types import Trajectory
from support.commands import no_compilation


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
    env = OneGameEnvConfig(num_lanes=3, max_episode_steps=10)
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
    later += [fresh_seed(seed, steps, game) for steps in (0, 64) for game in (1, 9)]
    assert len({seed, *later}) == 8
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


def a_trajectory(label: float = 0.0) -> Trajectory:
    """Three steps of two lanes; ``label`` is in every output of the teacher."""
    zeros = np.zeros((3, 2), np.float32)
    return Trajectory(
        observations=zeros,
        is_first=zeros > 0,
        is_decision=zeros == 0,
        actions=zeros,
        rewards=zeros,
        teacher_q=np.full((3, 2, 4), label, np.float32),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_unsound_step_is_that_of_any_lane_and_action(value: float) -> None:
    trajectory = a_trajectory(1e38)
    assert first_unsound_step(trajectory) is None
    trajectory.teacher_q[2, 0, 0] = trajectory.teacher_q[1, 1, 3] = value
    assert first_unsound_step(trajectory) == 1


class ScriptedPlay:
    """Rollouts numbered from 0 on; before each of them ``wait`` is called with its number."""

    num_lanes = 2

    def __init__(self, wait: Callable[[int], object] = lambda number: None) -> None:
        self.wait = wait
        self.played = 0
        self.is_closed = False

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        for _ in range(count):
            self.wait(self.played)
            self.played += 1
            yield a_trajectory(self.played - 1)

    def close(self) -> None:
        self.is_closed = True


def numbers(play: SideBySide, counts: list[int]) -> list[tuple[int, float]]:
    with contextlib.closing(play.rollouts(counts)) as rollouts:
        return [(game, float(trajectory.teacher_q[0, 0, 0])) for game, trajectory in rollouts]


def threads_of_play() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("play-")]


def test_every_game_plays_its_own_number_of_rollouts_in_order_round_after_round() -> None:
    play = SideBySide([ScriptedPlay(), ScriptedPlay(), ScriptedPlay()])
    first, second = numbers(play, [3, 1, 0]), numbers(play, [1, 2, 1])
    assert [number for game, number in first if game == 0] == [0, 1, 2]
    assert [number for game, number in first if game != 0] == [0]
    assert sorted(second) == [(0, 3), (1, 1), (1, 2), (2, 0)]
    assert threads_of_play() == []
    play.close()
    assert all(source.is_closed for source in play.plays)


def test_a_slow_game_holds_nobody_up() -> None:
    others_are_done, seen = threading.Event(), []
    # The first game begins only once the second has handed over all of its rollouts.
    slow = ScriptedPlay(lambda number: others_are_done.wait(60))
    play = SideBySide([slow, ScriptedPlay()])
    for game, _ in play.rollouts([2, 40]):
        seen.append(game)
        if seen.count(1) == 40:
            others_are_done.set()
    assert others_are_done.is_set()
    assert seen == [1] * 40 + [0] * 2


def test_a_game_is_not_far_ahead_of_whoever_takes_its_rollouts() -> None:
    fast = ScriptedPlay()
    play = SideBySide([fast, ScriptedPlay()])
    for taken, _ in enumerate(play.rollouts([100, 0]), start=1):
        # One is taken, one waits, and one may be in hand.
        assert fast.played <= taken + 2


def test_what_a_game_raises_is_raised_once_and_ends_the_others() -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise OSError("the emulator has gone")

    other = ScriptedPlay()
    play = SideBySide([ScriptedPlay(fail), other])
    with pytest.raises(OSError, match=r"^the emulator has gone$"):
        numbers(play, [5, 1_000_000])
    assert threads_of_play() == []
    assert other.played < 1_000_000


def test_whoever_stops_listening_ends_the_threads() -> None:
    play = SideBySide([ScriptedPlay(), ScriptedPlay()])
    with pytest.raises(KeyboardInterrupt), contextlib.closing(play.rollouts([10**9, 10**9])) as rollouts:
        for _ in rollouts:
            raise KeyboardInterrupt
    assert threads_of_play() == []


@pytest.mark.parametrize("games", [1, 2])
def test_a_game_that_is_stopped_plays_no_more_and_the_others_go_on(games: int) -> None:
    sources = [ScriptedPlay() for _ in range(games)]
    play = SideBySide(sources)
    counts = [50] * games
    with contextlib.closing(play.rollouts(counts)) as rollouts:
        seen = []
        for game, _ in rollouts:
            seen.append(game)
            play.stop(0)
    assert play.stopped == {0}
    assert seen.count(0) <= 2
    assert seen.count(1) == 50 * (games - 1)
    assert {game for game, _ in numbers(play, counts)} == set(range(1, games))


def test_games_side_by_side_play_what_each_plays_alone() -> None:
    teachers = [load("cartpole"), load("acrobot")]

    def sources() -> list[LivePlay]:
        return [
            LivePlay(teacher, teacher.task, OneGameEnvConfig(num_lanes=2), rollout_length=16, epsilon=0.3, seed=seed)
            for seed, teacher in enumerate(teachers)
        ]

    play = SideBySide(sources())
    together: dict[int, list[Trajectory]] = {0: [], 1: []}
    for game, trajectory in play.rollouts([4, 3]):
        together[game].append(jax.tree.map(np.asarray, trajectory))
    play.close()
    for game, source in enumerate(sources()):
        alone = [jax.tree.map(np.asarray, trajectory) for trajectory in source.rollouts([4, 3][game])]
        source.close()
        jax.tree.map(np.testing.assert_array_equal, together[game], alone)


@pytest.mark.parametrize("stepping", ["jit", "host"])
def test_the_student_of_several_games_acts_from_when_it_is_let_and_its_successors_compile_nothing(
    stepping: Literal["jit", "host"],
) -> None:
    teacher = load("acrobot")
    student = make_student(StudentConfig(network="mlp", mlp_hidden=(8,)), [load("cartpole").task, teacher.task])
    init = jax.jit(student.init)
    # On the device, as the learner has them.
    first, second = (jax.device_put(init(jax.random.key(seed)), jax.devices()[0]) for seed in (0, 1))
    env = OneGameEnvConfig(num_lanes=2, stepping=stepping)
    play = LivePlay(teacher, teacher.task, env, rollout_length=24, epsilon=0.0, seed=1, student=student.policy(1))

    def observed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations of six numbers, actions and labels of a rollout, as lists of decisions."""
        (trajectory,) = (jax.tree.map(np.asarray, rollout) for rollout in play.rollouts(1))
        flat = (trajectory.observations.reshape(-1, 6), trajectory.actions.ravel(), trajectory.teacher_q.reshape(-1, 3))
        np.testing.assert_allclose(flat[2], teacher(flat[0]), rtol=1e-4, atol=1e-3)
        return flat

    _, actions, labels = observed()
    np.testing.assert_array_equal(actions, labels.argmax(-1))
    for acting in (first, second):
        play.let_act(ActingStudent(acting, 1.0))
        with no_compilation() if acting is second else contextlib.nullcontext():
            observations, actions, labels = observed()
        both_games = student.apply(acting, np.stack([np.zeros_like(observations), observations]))
        np.testing.assert_array_equal(actions, np.asarray(both_games)[1].argmax(-1))
        assert (actions != labels.argmax(-1)).any()
    play.close()
