"""Play that is ahead is the play that there would have been, no further ahead than it may be, and it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from pd_jax.actors.live import LivePlay
from pd_jax.actors.prefetch import PrefetchedPlay
from pd_jax.actors.recorded import RecordedPlay
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.replay.recordings import Dataset
from pd_jax.teachers import load
from pd_jax.types import Trajectory


class ScriptedPlay:
    """Rollouts numbered from 0 on; before each of them ``wait`` is called with its number."""

    num_lanes = 2

    def __init__(self, wait: Callable[[int], object] = lambda number: None) -> None:
        self.finished_returns: list[float] = []
        self.wait = wait
        self.played = 0
        self.events: list[str] = []

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        for _ in range(count):
            self.wait(self.played)
            self.played += 1
            self.finished_returns.append(float(self.played - 1))
            self.events.append("played")
            numbers = np.full((3, 2), self.played - 1, np.float32)
            yield Trajectory(numbers, numbers > 0, numbers > 0, numbers, numbers, numbers[..., None])

    def close(self) -> None:
        self.events.append("closed")


def number(trajectory: Trajectory) -> int:
    return int(trajectory.rewards[0, 0])


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_is_expected_is_played_before_it_is_asked_for_and_nothing_more() -> None:
    source = ScriptedPlay()
    play = PrefetchedPlay(source, max_ahead=10)
    assert play.num_lanes == 2
    play.expect(4)
    until(lambda: source.played == 4)
    assert [number(trajectory) for trajectory in play.rollouts(3)] == [0, 1, 2]
    # One waits already.
    play.expect(2)
    until(lambda: source.played == 5)
    assert [number(trajectory) for trajectory in play.rollouts(4)] == [3, 4, 5, 6]
    play.close()
    assert source.played == 7


def test_the_play_waits_for_whoever_takes_it() -> None:
    source = ScriptedPlay()
    play = PrefetchedPlay(source, max_ahead=3)
    play.expect(50)
    until(lambda: source.played == 3)
    for taken, trajectory in enumerate(play.rollouts(50)):
        assert number(trajectory) == taken
        assert source.played <= taken + 1 + 3
    play.close()
    with pytest.raises(ValueError, match="max_ahead must be at least 1, got 0"):
        PrefetchedPlay(source, max_ahead=0)


def test_returns_come_with_the_rollouts_in_which_games_ended() -> None:
    source = ScriptedPlay()
    play = PrefetchedPlay(source, max_ahead=10)
    play.expect(5)
    until(lambda: source.played == 5)
    assert play.finished_returns == []
    assert len(list(play.rollouts(2))) == 2
    assert play.finished_returns == [0.0, 1.0]
    play.close()


def test_what_the_play_raises_comes_out_in_its_place() -> None:
    def fail(index: int) -> None:
        if index == 2:
            raise OSError("the emulator has gone")

    source = ScriptedPlay(fail)
    play = PrefetchedPlay(source, max_ahead=10)
    play.expect(5)
    seen = []
    with pytest.raises(OSError, match=r"^the emulator has gone$"):
        seen.extend(number(trajectory) for trajectory in play.rollouts(2))
        next(iter(play.rollouts(1)))
    assert seen == [0, 1]
    play.close()
    assert source.events == ["played", "played", "closed"]


@pytest.mark.parametrize("is_full", [True, False])
def test_the_source_is_closed_once_the_rollout_in_hand_is_over(is_full: bool) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def wait(index: int) -> None:
        if not is_full:
            has_begun.set()
            assert may_end.wait(60)

    source = ScriptedPlay(wait)
    play = PrefetchedPlay(source, max_ahead=1)
    play.expect(5)
    if is_full:
        until(lambda: source.played == 1)
    else:
        assert has_begun.wait(60)
        threading.Timer(0.05, may_end.set).start()
    play.close()
    assert source.events == ["played", "closed"]
    assert not [thread for thread in threading.enumerate() if thread.name == "play-ahead"]


def test_play_that_never_began_leaves_no_thread() -> None:
    source = ScriptedPlay()
    play = PrefetchedPlay(source, max_ahead=1)
    assert not [thread for thread in threading.enumerate() if thread.name == "play-ahead"]
    play.close()
    play.expect(1)
    assert source.events == ["closed"]


def test_a_recording_ends_where_it_ends(recording: Path) -> None:
    play = PrefetchedPlay(RecordedPlay(Dataset.open(recording), rollout_length=48, num_steps=128), max_ahead=4)
    play.expect(5)
    parts = [*play.rollouts(1), *play.rollouts(5)]
    assert list(play.rollouts(1)) == []
    play.close()
    expected = Dataset.open(recording).read(0, 96)
    np.testing.assert_array_equal(np.concatenate([part.observations for part in parts]), expected.observations)


def test_a_teacher_plays_ahead_what_it_would_have_played() -> None:
    teacher = load("cartpole")

    def source() -> LivePlay:
        env = OneGameEnvConfig(num_lanes=3, max_episode_steps=10)
        return LivePlay(teacher, teacher.task, env, rollout_length=16, epsilon=0.3, seed=1)

    alone, ahead = source(), PrefetchedPlay(source(), max_ahead=2)
    ahead.expect(3)
    for count in (1, 3):
        expected = [jax.tree.map(np.asarray, trajectory) for trajectory in alone.rollouts(count)]
        jax.tree.map(np.testing.assert_array_equal, list(ahead.rollouts(count)), expected)
        assert ahead.finished_returns == alone.finished_returns
    alone.close()
    ahead.close()
