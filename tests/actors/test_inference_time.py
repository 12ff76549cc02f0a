"""The share of inference in play: probed beside it, and nothing that is played is another for it."""

from __future__ import annotations

import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.actors.inference_time import InferenceProbe, InferenceTimer, RolloutTime
from pd_jax.actors.live import LivePlay
from pd_jax.actors.rollout import ActingStudent
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.environments.envpool import TimeStep
from pd_jax.teachers import from_function, load
from pd_jax.types import Trajectory
from support.platforms import TracedPolicy, make_tpu_the_default


def test_the_usual_rollout_is_none_of_those_that_compile() -> None:
    play = RolloutTime()
    assert play.usual_seconds is None
    play.count(30.0)
    assert play.usual_seconds is None
    for seconds in (1.0, 5.0, 2.0):
        play.count(seconds)
    assert (play.usual_seconds, play.seconds) == (2.0, 38.0)


def showing(observations: jax.Array) -> TimeStep:
    flags = jnp.zeros(len(observations), bool)
    return TimeStep(observations, jnp.zeros(len(observations)), flags, flags, flags, flags)


def test_a_probe_times_every_decision_of_all_who_decide() -> None:
    calls: list[int] = []

    def slow(variables: Any, observations: Any) -> Any:
        def wait(seen: Any) -> np.ndarray:
            calls.append(len(seen))
            time.sleep(0.01)
            return np.asarray(seen)

        return jax.pure_callback(wait, jax.ShapeDtypeStruct(observations.shape, jnp.float32), observations)

    # Not the same function twice: XLA would call it once for both.
    other = lambda variables, observations: slow(variables, observations + 1.0)  # noqa: E731
    seconds = InferenceProbe(((slow, {}, None), (other, {}, None)), showing(jnp.zeros((3, 2)))).seconds()
    assert 0.02 <= seconds < 0.2, "two of a hundredth each, in each decision"
    assert set(calls) == {3}


def test_a_probe_decides_as_the_play_on_its_device_does(monkeypatch: pytest.MonkeyPatch) -> None:
    make_tpu_the_default(monkeypatch)
    for device, platform in ((jax.devices("cpu")[0], "cpu"), (None, "tpu")):
        told = TracedPolicy()
        observations = jnp.zeros((2, 4)) if device is None else jax.device_put(np.zeros((2, 4), np.float32), device)
        assert InferenceProbe(((told, told.variables(device), None),), showing(observations)).seconds() > 0.0
        assert told.platforms == {platform}


@pytest.fixture
def env() -> OneGameEnvConfig:
    return OneGameEnvConfig(num_lanes=4, max_episode_steps=50)


def play_two_rounds(env: OneGameEnvConfig, *, timed: bool, student: bool = False) -> tuple[LivePlay, list[Trajectory]]:
    teacher = load("cartpole")
    own = teacher.network.apply if student else None
    play = LivePlay(teacher, teacher.task, env, rollout_length=16, epsilon=0.3, seed=1, student=own)
    if student:
        play.let_act(ActingStudent(teacher.variables, 0.5))
    timer = InferenceTimer([play] if timed else [])
    rollouts = []
    for _ in range(2):
        rollouts += play.rollouts(3)
        timer.note_round()
    rollouts += play.rollouts(1)
    play.close()
    return play, rollouts


@pytest.mark.parametrize("student", [False, True])
def test_timing_the_inference_changes_nothing_in_the_play(env: OneGameEnvConfig, student: bool) -> None:
    timed, ours = play_two_rounds(env, timed=True, student=student)
    untimed, theirs = play_two_rounds(env, timed=False, student=student)
    for our, their in zip(ours, theirs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, our, their)
    assert timed.time.inference_share is not None
    assert 0 < timed.time.inference_share <= 1
    assert untimed.time.inference_share is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("probe")]


def test_the_share_is_that_of_a_rollouts_decisions(env: OneGameEnvConfig) -> None:
    play, _ = play_two_rounds(env, timed=False)
    usual = play.time.usual_seconds
    assert usual is not None
    play.note_inference(usual / 64)
    assert play.time.inference_share == pytest.approx(0.25), "16 decisions"
    play.note_inference(usual)
    assert play.time.inference_share == 1.0


def test_a_function_of_the_users_is_called_by_the_play_alone(env: OneGameEnvConfig) -> None:
    teacher = from_function(
        lambda seen: np.zeros((len(seen), 2)), kind="q", game="cartpole", host=True, fingerprint="x"
    )
    play = LivePlay(teacher, teacher.task, env, rollout_length=4, epsilon=0.0, seed=1)
    timer = InferenceTimer([play])
    for _ in range(2):
        list(play.rollouts(2))
        timer.note_round()
    play.close()
    assert play.time.inference_share is None


def test_a_probe_that_fails_is_no_reason_to_end_a_run() -> None:
    class Broken:
        def probe_inference(self) -> InferenceProbe:
            raise RuntimeError("out of memory")

        def note_inference(self, seconds: float) -> None:
            raise AssertionError("there is nothing to note")

    timer = InferenceTimer([Broken()])
    timer.note_round()
    timer.note_round()
    timer.close()


def test_a_probe_waits_for_the_first_updates() -> None:
    class Asked:
        asked = threading.Event()

        def probe_inference(self) -> None:
            self.asked.set()

        def note_inference(self, seconds: float) -> None:
            raise AssertionError("there is nothing to note")

    timer = InferenceTimer([Asked()])
    timer.note_call()
    timer.note_round()
    assert not Asked.asked.wait(0.1)
    timer.note_call()
    assert Asked.asked.wait(10)
    timer.close()
