"""The user's own environments: they play as Gymnasium and the JAX environment themselves do, and as EnvPool's lanes."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from pd_jax.environments.envpool import Environment
from pd_jax.environments.registered import register_gymnasium, register_jax
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from support.jax_environments import Params, Walk


def pendulum(lanes: int, mode: AutoresetMode = AutoresetMode.DISABLED) -> Any:
    return gymnasium.make_vec(
        "Pendulum-v1", lanes, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, max_episode_steps=7
    )


@pytest.fixture(scope="module")
def walk() -> Any:
    return register_jax("walk", lambda: (Walk(), Params()))


@pytest.fixture(scope="module")
def own_pendulum() -> Any:
    return register_gymnasium("own_pendulum", pendulum)


def test_a_task_says_what_its_spaces_say(walk, own_pendulum):
    assert get_task("walk") is walk and get_task("Own_Pendulum") is own_pendulum
    assert (walk.observation_shape, walk.num_actions, walk.max_episode_steps) == ((4,), 1, 9)
    assert (walk.action_low, walk.action_high) == ((-0.5,), (0.5,)) and walk.is_continuous
    assert (own_pendulum.observation_shape, own_pendulum.max_episode_steps) == ((3,), 7)
    assert (own_pendulum.action_low, own_pendulum.action_high) == ((-2.0,), (2.0,))


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
def test_a_vector_environment_plays_as_gymnasium_does(mode):
    """Against single environments, each stepped by itself and reset where its episode was over."""
    task = register_gymnasium("pendulum_of_mode", lambda lanes: pendulum(lanes, mode))
    environment = Environment(task, 2, 11, stepping="jit")
    assert environment.stepping == "host"
    _, timestep = environment.reset()
    alone = [gymnasium.make("Pendulum-v1", max_episode_steps=7) for _ in range(2)]
    expected = np.stack([single.reset(seed=11 + lane)[0] for lane, single in enumerate(alone)])
    np.testing.assert_array_equal(timestep.observations, expected)
    rng, is_first = np.random.default_rng(0), np.zeros(2, bool)
    for step in range(1, 8):
        actions = rng.uniform(-2, 2, (2, 1)).astype(np.float32)
        timestep = environment.step_host(actions, is_first)
        theirs = [single.step(action) for single, action in zip(alone, actions, strict=True)]
        np.testing.assert_array_equal(timestep.observations, np.stack([each[0] for each in theirs]))
        np.testing.assert_allclose(timestep.rewards, [each[1] for each in theirs], rtol=1e-6)
        assert timestep.truncated.tolist() == [step == 7] * 2 and not timestep.terminated.any()
        is_first = timestep.is_last
    timestep = environment.step_host(actions, is_first)
    assert timestep.is_first.all() and not timestep.is_last.any() and (timestep.rewards == 0).all()
    environment.close()


def test_lanes_of_a_vector_environment_end_apart():
    """CartPole's lanes end at different steps: each shows its own last observation, and then a first one."""
    task = register_gymnasium(
        "own_cartpole",
        lambda lanes: gymnasium.make_vec(
            "CartPole-v1", lanes, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED}
        ),
        max_episode_steps=40,
    )
    environment = Environment(task, 4, 3, stepping="host")
    environment.reset()
    is_first, lengths, ended = np.zeros(4, bool), np.zeros(4, int), []
    for _ in range(120):
        timestep = environment.step_host(np.ones(4, np.int32), is_first)
        lengths = np.where(is_first, 0, lengths + 1)
        fell = np.abs(timestep.observations[:, 2]) > 0.2095
        np.testing.assert_array_equal(timestep.terminated, fell)
        assert (np.abs(timestep.observations[is_first]) <= 0.05).all()
        ended += lengths[timestep.is_last].tolist()
        is_first = timestep.is_last
    assert len(set(ended)) > 1 and max(ended) < 40
    environment.close()


def play_of_walk(walk: Any, actions: np.ndarray, stepping: Any) -> list[Any]:
    environment = Environment(walk, 3, 5, stepping=stepping)
    handle, timestep = environment.reset()
    seen = [timestep]
    step = jax.jit(environment.step) if stepping == "jit" else None
    for chosen in actions:
        if step is not None:
            handle, timestep = step(handle, jnp.asarray(chosen), timestep)
        else:
            timestep = environment.step_host(chosen, np.asarray(timestep.is_last))
        seen.append(jax.device_get(timestep))
    environment.close()
    return seen


def test_a_jax_environment_plays_alike_in_jit_and_from_the_host(walk):
    actions = np.random.default_rng(1).uniform(-0.5, 0.5, (30, 3, 1)).astype(np.float32)
    in_jit, on_host = play_of_walk(walk, actions, "jit"), play_of_walk(walk, actions, "host")
    for one, other in zip(in_jit, on_host, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    # As it is defined: positions are sums of actions, until the point is beyond 1 or nine steps are over.
    position, elapsed = np.asarray(in_jit[0].observations)[:, 0].astype(np.float64), np.zeros(3, int)
    ends = set()
    for before, chosen, after in zip(in_jit, actions, in_jit[1:], strict=False):
        first = np.asarray(before.is_last)
        position = np.where(first, after.observations[:, 0], position + chosen[:, 0])
        elapsed = np.where(first, 0, elapsed + 1)
        np.testing.assert_allclose(after.observations[:, 0], position, atol=1e-5)
        np.testing.assert_allclose(after.rewards, np.where(first, 0.0, -np.abs(position)), atol=1e-5)
        cut, beyond = elapsed == 9, np.abs(position) > 1
        np.testing.assert_array_equal(after.truncated, cut & ~first)
        np.testing.assert_array_equal(after.terminated, beyond & ~cut & ~first)
        ends |= {"cut"} if (cut & ~first).any() else set()
        ends |= {"beyond"} if (beyond & ~cut & ~first).any() else set()
    assert ends == {"cut", "beyond"}


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: register_jax("pong", lambda: (Walk(), Params())), "is the name of a task that is there"),
        (lambda: register_jax(" ", lambda: (Walk(), Params())), "is no name"),
        (lambda: register_jax("endless", lambda: (Walk(), None)), "give max_episode_steps"),
        (
            lambda: register_gymnasium("same", lambda lanes: pendulum(lanes, AutoresetMode.SAME_STEP)),
            "hides the last observation",
        ),
        (
            lambda: register_gymnasium(
                "early", lambda lanes: pendulum(lanes, AutoresetMode.NEXT_STEP), max_episode_steps=3
            ),
            "cannot be cut off after 3 steps",
        ),
        (
            lambda: register_gymnasium("taxi", lambda lanes: gymnasium.make_vec("Taxi-v4", lanes)),
            "its observations are a Discrete space",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(register, message):
    with pytest.raises(UserError, match=message):
        register()
