"""Play that is sensed in another way than it is shown: what rollouts and evaluations hold of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.actors import rollout
from pd_jax.environments.envpool import Environment
from pd_jax.environments.senses import Senses, make_senses
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.evaluator import Evaluator
from pd_jax.networks.sensing import SensingPolicy
from pd_jax.types import Trajectory

CARTPOLE, PONG = get_task("cartpole"), get_task("pong")
WAYS: dict[str, Any] = {
    "jit": {"stepping": "jit"},
    "host": {"stepping": "host"},
    "host in two groups": {"stepping": "host", "num_groups": 2},
}


def leaning(variables: Any, observations: jax.Array) -> jax.Array:
    """Pushes the cart under the pole: what is shown decides, so that equal play is equal observations."""
    lean = observations[:, 2] + 0.3 * observations[:, 3]
    return jnp.stack([-lean, lean], axis=1)


def newest_seen(variables: Any, observations: jax.Array) -> jax.Array:
    """Goes by the newest two of the numbers that it senses."""
    lean = observations[:, -2] + 0.3 * observations[:, -1]
    return jnp.stack([-lean, lean], axis=1)


def constant(variables: Any, observations: jax.Array) -> jax.Array:
    return jnp.tile(jnp.arange(6.0), (len(observations), 1))


def played(
    senses: Senses | None, way: str, *, share: float = 0.0, keeps_shown: bool = True, calls: int = 2
) -> list[Trajectory]:
    task = CARTPOLE if senses is None else senses.task
    policy = leaning if task is CARTPOLE else constant
    student = newest_seen if share else None
    beside = None if senses is None else senses.beside
    environment = Environment(task, 4, 3, beside=beside, max_episode_steps=25, **WAYS[way])
    play = rollout.make_rollout(environment, policy, 20, student=student, senses=senses, keeps_shown=keeps_shown)
    state = rollout.start(environment, jax.random.key(1), policy, student, senses)
    trajectories = []
    for _ in range(calls):
        acting = rollout.ActingStudent({}, jnp.float32(share)) if share else None
        state, trajectory, _ = play({}, state, 0.2, acting)
        trajectories.append(jax.device_get(trajectory))
    return trajectories


def joined(trajectories: list[Trajectory]) -> Trajectory:
    whole: Trajectory = jax.tree.map(lambda *leaves: np.concatenate(leaves), *trajectories)
    return whole


NOISY = make_senses(CARTPOLE, components=(2, 3), noise=(0.05,), missing=0.2, delay=1, window=3)


def test_play_and_labels_are_what_they_are_without_senses() -> None:
    plain, sensed = joined(played(None, "jit")), joined(played(NOISY, "jit"))
    for name in ("observations", "is_first", "is_decision", "actions", "rewards", "teacher_q"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(sensed, name), err_msg=name)
    assert plain.sensed is None
    assert sensed.sensed is not None and sensed.sensed.shape == (40, 4, 2)
    (alone,) = played(NOISY, "jit", keeps_shown=False, calls=1)
    np.testing.assert_array_equal(alone.observations, sensed.sensed[:20])
    assert alone.sensed is None


def test_samples_of_a_sensor_without_chance_are_those_of_the_steps_before() -> None:
    late = make_senses(CARTPOLE, components=(3, 0), delay=2)
    whole = joined(played(late, "jit"))
    begin = np.zeros(4, int)
    for step in range(40):
        begin = np.where(whole.is_first[step], step, begin)
        times = np.maximum(step - 2, begin)
        np.testing.assert_array_equal(whole.sensed[step], whole.observations[times, np.arange(4)][:, [3, 0]])
    assert whole.is_first[1:].any()


@pytest.mark.parametrize("way", ["host", "host in two groups"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_in_jit_and_from_the_host_the_same_is_sensed_whoever_acts(way: str, share: float) -> None:
    jit, host = (joined(played(NOISY, each, share=share)) for each in ("jit", way))
    for name in ("observations", "is_first", "is_decision", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(jit, name), getattr(host, name), err_msg=name)
    # Normal numbers of other shapes differ in the last bits.
    np.testing.assert_allclose(jit.sensed, host.sensed, atol=1e-6)
    np.testing.assert_allclose(jit.teacher_q, host.teacher_q, atol=1e-6)


def test_a_student_that_acts_goes_by_what_it_senses() -> None:
    # Its senses show it nothing, so it does the same always; the teacher would not.
    blind = make_senses(CARTPOLE, components=(2, 3), delay=200)
    (trajectory,) = played(blind, "jit", share=1.0, calls=1)
    lean = trajectory.sensed[..., 0] + 0.3 * trajectory.sensed[..., 1]
    expected = (lean > 0).astype(int)
    # One in five actions is drawn at random, half of which are the same.
    assert (trajectory.actions == expected).mean() > 0.75
    (taught,) = played(blind, "jit", share=0.0, calls=1)
    teachers = (taught.observations[..., 2] + 0.3 * taught.observations[..., 3] > 0).astype(int)
    assert (taught.actions == teachers).mean() > 0.75


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("pong_ram", {"source": "frames", "size": 42, "frames": 1}),
        pytest.param("pong", {"source": "ram"}, marks=pytest.mark.slow),
    ],
)
def test_memory_and_frames_are_of_the_same_step(task: str, options: dict[str, Any]) -> None:
    senses = make_senses(get_task(task), **options)
    (jit,), (host,) = (played(senses, way, calls=1) for way in ("jit", "host in two groups"))
    jax.tree.map(np.testing.assert_array_equal, jit, host)
    (other,) = played(make_senses(get_task("pong" if task == "pong_ram" else "pong_ram")), "jit", calls=1)
    expected = other.observations if senses.sees_ram else senses.of_samples(other.observations)
    np.testing.assert_array_equal(jit.sensed, expected)


def test_an_evaluation_plays_behind_the_senses() -> None:
    def score(senses: Senses, policy: Any) -> float:
        evaluator = Evaluator(CARTPOLE, SensingPolicy(senses, policy), episodes=8, num_lanes=4, epsilon=0.0)
        return float(evaluator.run({}).returns.mean())

    clear, noisy, late = (
        make_senses(CARTPOLE, components=(2, 3), **options) for options in ({}, {"noise": (1.0,)}, {"delay": 8})
    )
    assert score(clear, newest_seen) > 150
    # The angle is below 0.2 always.
    assert score(noisy, newest_seen) < 100
    assert score(late, newest_seen) < 100


def test_who_looks_on_is_shown_what_was_acted_on() -> None:
    class LooksOn:
        senses = True

        def __init__(self) -> None:
            self.sensed: list[np.ndarray] = []
            self.shown: list[np.ndarray] = []

        def sense(self, sensed: np.ndarray) -> None:
            self.sensed.append(np.array(sensed))

        def __call__(self, observations: Any, playing: np.ndarray, is_last: np.ndarray) -> None:
            self.shown.append(np.array(observations))

    senses = make_senses(CARTPOLE, components=(1, 2), delay=1)
    looks_on = LooksOn()
    Evaluator(CARTPOLE, SensingPolicy(senses, newest_seen), episodes=2, num_lanes=2).run({}, on_step=looks_on)
    assert len(looks_on.sensed) == len(looks_on.shown) > 5
    np.testing.assert_array_equal(looks_on.sensed[0], looks_on.shown[0][:, [1, 2]])
    for before, sensed in zip(looks_on.shown[:5], looks_on.sensed[1:6], strict=True):
        np.testing.assert_array_equal(sensed, before[:, [1, 2]])
