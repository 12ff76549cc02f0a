"""Live play beside a learner on other devices. What it plays is in ``test_play.py``."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pd_jax.actors import live
from pd_jax.actors.live import LivePlay
from pd_jax.actors.rollout import ActingStudent
from pd_jax.actors.stepping import Stepping
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.teachers import load
from support.platforms import TracedPolicy, make_tpu_the_default


@pytest.mark.parametrize(("on_cpu", "on_tpu"), [("jit", "auto"), ("host", "host")])
def test_play_is_traced_for_the_device_that_plays(
    on_cpu: Stepping, on_tpu: Stepping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU beside a TPU, which is the default; and on that."""
    make_tpu_the_default(monkeypatch)
    for device, platform, stepping in ((jax.devices("cpu")[0], "cpu", on_cpu), (None, "tpu", on_tpu)):
        told, student = TracedPolicy(), TracedPolicy()
        teacher = told.teacher()
        told.platforms.clear()
        env = OneGameEnvConfig(num_lanes=2, stepping=stepping)
        play = LivePlay(
            teacher, teacher.task, env, rollout_length=4, epsilon=0.0, seed=0, student=student, device=device
        )
        if device is not None:
            play.let_act(ActingStudent(student.variables(), 0.5))
        for trajectory in play.rollouts(2):
            assert trajectory.rewards.shape == (4, 2)
        play.close()
        assert told.platforms == {platform}
        assert student.platforms == (set() if device is None else {platform})


@pytest.mark.parametrize("acts", [False, True])
def test_rollouts_that_are_played_in_one_call_are_those_of_one_call_each(
    acts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load("cartpole")

    def play(counts: tuple[int, ...]) -> tuple[list[np.ndarray], list[float], list[float]]:
        env = OneGameEnvConfig(num_lanes=3, stepping="jit", max_episode_steps=20)
        student = teacher.network.apply if acts else None
        live_play = LivePlay(teacher, teacher.task, env, rollout_length=8, epsilon=0.3, seed=0, student=student)
        if acts:
            live_play.let_act(ActingStudent(jax.tree.map(lambda leaf: -leaf, teacher.variables), 0.5))
        returns, played = [], []
        for count in counts:
            for trajectory in live_play.rollouts(count):
                played += map(np.asarray, jax.tree.leaves(trajectory))
                returns.append(sum(live_play.finished_returns))
        live_play.close()
        return played, returns, live_play.finished_returns

    together = play((5, 1, 4))
    monkeypatch.setattr(live, "_MOST_TOGETHER", 3)
    by_three = play((5, 1, 4))
    monkeypatch.setattr(live, "_MOST_TOGETHER", 1)
    alone = play((1, 9))
    assert together[1:] == by_three[1:] == alone[1:]
    assert len(alone[2]) > 5
    for each in (together, by_three):
        jax.tree.map(np.testing.assert_array_equal, each[0], alone[0])
