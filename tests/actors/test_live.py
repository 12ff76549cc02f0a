"""Live play beside a learner on other devices. What it plays is in ``test_play.py``."""

from __future__ import annotations

import jax
import pytest

from pd_jax.actors.live import LivePlay
from pd_jax.actors.rollout import ActingStudent
from pd_jax.actors.stepping import Stepping
from pd_jax.config.sections import OneGameEnvConfig
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
