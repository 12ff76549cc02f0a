"""Play of continuous tasks: who acts, with which noise, and the same from the host and in jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.actors import rollout
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.teachers.function import from_function

TASK = get_task("Pendulum-v1")


def teacher(variables: Any, observations: Any) -> Any:
    """Means that the observation says, and deviations of 0.1."""
    return jnp.stack([observations[:, 1] * variables, jnp.full(len(observations), jnp.log(0.1))], axis=1)


def student(variables: Any, observations: Any) -> Any:
    """Actions, not a Gaussian's."""
    return observations[:, :1] * variables


def play(stepping: Any, share: float | None, epsilon: float, num_groups: int = 1) -> Any:
    environment = Environment(TASK, 6, 3, stepping=stepping, num_groups=num_groups)
    state = rollout.start(environment, jax.random.key(0))
    unroll = rollout.make_rollout(environment, teacher, 12, student=None if share is None else student)
    acting = None if share is None else rollout.ActingStudent(jnp.float32(1.5), share)
    # The emulators are there for as long as the program runs.
    played = jax.block_until_ready(unroll(jnp.float32(0.5), state, epsilon, acting)[1])
    environment.close()
    return played


@pytest.mark.parametrize("share", [None, 0.5])
def test_play_is_the_same_in_jit_from_the_host_and_in_groups(share: float | None) -> None:
    first = play("jit", share, 0.7)
    for other in (play("host", share, 0.7), play("host", share, 0.7, num_groups=3)):
        for name in ("actions", "observations", "teacher_q", "rewards"):
            np.testing.assert_allclose(getattr(first, name), getattr(other, name), rtol=1e-5, atol=1e-5)
    assert first.actions.shape == (12, 6, 1) and first.teacher_q.shape == (12, 6, 2)


def test_without_noise_the_mean_is_played_and_of_a_mixture_either_ones_whole_action() -> None:
    alone = play("jit", None, 0.0)
    np.testing.assert_allclose(alone.actions[..., 0], 0.5 * alone.observations[..., 1], atol=1e-6)
    mixed = play("jit", 0.5, 0.0)
    own, theirs = 1.5 * mixed.observations[..., 0], 0.5 * mixed.observations[..., 1]
    is_own, is_theirs = (np.isclose(mixed.actions[..., 0], each, atol=1e-6) for each in (own, theirs))
    assert (is_own | is_theirs).all() and 0.2 < is_own.mean() < 0.8
    # What is learnt from is the teacher's, whoever acts.
    np.testing.assert_allclose(mixed.teacher_q[..., 0], theirs, atol=1e-6)


def test_noise_is_of_the_policys_own_deviations() -> None:
    played = play("jit", None, 1.0)
    noise = (played.actions - played.teacher_q[..., :1]) / 0.1
    assert abs(noise.mean()) < 0.3 and 0.8 < noise.std() < 1.2


def test_a_function_is_a_teacher_of_a_continuous_task_and_is_scored() -> None:
    made = from_function(
        lambda seen: np.concatenate([seen[:, 1:2], seen[:, :1] * 0 - 1], axis=1),
        kind="gaussian",
        game="Pendulum-v1",
        fingerprint="one",
        host=True,
        squashed=True,
    )
    assert made.task.squashed and made.num_outputs == 2
    seen = np.float32([[0.1, 0.5, 0.0]])
    np.testing.assert_allclose(made.act(seen)[0], [[2 * np.tanh(0.5)]], rtol=1e-6)
    options = {"max_episode_steps": 10}
    scores = [evaluate(made, episodes=2, num_lanes=2, epsilon=e, environment_options=options) for e in (0.0, 1.0)]
    assert scores[0].returns.shape == (2,) and not np.array_equal(scores[0].returns, scores[1].returns)
    with pytest.raises(UserError, match="kind: 'q' is neither 'gaussian' nor 'means'"):
        from_function(lambda seen: seen, kind="q", game="Pendulum-v1", fingerprint="one")
    with pytest.raises(UserError, match="pendulum_v1 needs \\[2, 1\\]"):
        from_function(lambda seen: seen, kind="means", game="Pendulum-v1", fingerprint="one")
