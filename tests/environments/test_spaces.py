"""Tasks made of what EnvPool says: their spaces, their names, and how their lanes are stepped."""

from __future__ import annotations

import subprocess
import sys

import envpool
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.environments.envpool import Environment
from pd_jax.environments.spaces import simulator_of, task_name
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("HalfCheetah-v5", "HalfCheetah-v5"),
        ("half_cheetah_v4", "HalfCheetah-v4"),
        ("half_cheetah", "HalfCheetah-v5"),
        ("gymnasium:Pendulum-v1", "Pendulum-v1"),
        ("Walker2D", "Walker2d-v5"),
        ("dm_control/cheetah-run-v0", "CheetahRun-v1"),
        ("cheetah_run", "CheetahRun-v1"),
        ("MuJoCoPlayground/Go1Getup-v1", "Go1Getup-v1"),
        ("bipedal_walker", "BipedalWalker-v3"),
        ("MiniGrid-Empty-5x5-v0", "MiniGrid-Empty-5x5-v0"),
    ],
)
def test_tasks_of_other_families_are_found_in_every_spelling(name: str, env_id: str) -> None:
    task = get_task(name)
    assert task.env_id == env_id
    assert get_task(task.name) == get_task(task.env_id) == task


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Humanoid-v5", "Pendulum-v1", "LunarLanderContinuous-v3"])
def test_the_spaces_of_boxes_are_envpools(env_id: str) -> None:
    task, spec = get_task(env_id), envpool.make_spec(env_id)
    assert task.is_continuous and task.action_dtype == "float32"
    assert task.action_shape == spec.action_space.shape == (task.num_actions,)
    assert np.array_equal(task.action_low, spec.action_space.low)
    assert np.array_equal(task.action_high, spec.action_space.high)
    assert task.observation_shape == spec.observation_space.shape
    assert (len(task.action_names), task.max_episode_steps) == (task.num_actions, spec.config.max_episode_steps)


def test_names_are_words_that_files_can_be_called() -> None:
    assert task_name("HumanoidCMURun-v1") == "humanoid_cmu_run_v1"
    assert task_name("MetaWorld/PickPlace-v3") == "meta_world_pick_place_v3"
    assert not get_task("cartpole").is_continuous and get_task("pong").action_shape == ()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CarRacing-v3", "CarRacing-v3: shows 27,648 numbers, which are no frames of Atari and more than the 4,096 of"),
        (
            "RubiksCube-v0",
            "RubiksCube-v0: its actions are a box of whole numbers; a student chooses one of several",
        ),
        ("TicTacToe-v1", "TicTacToe-v1: has several players; one policy plays one of them here"),
        ("Taxi-v3", "Taxi-v3: its observations are a Discrete space; those of students are boxes of numbers"),
        ("D1Basic-v1", "D1Basic-v1: its actions are no vector of numbers with bounds"),
        ("Hopper-v2", "'Hopper-v2' is not a game; did you mean 'Hopper-v5'? (beam_rider"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(env_id: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        get_task(env_id)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "HumanoidRun-v1", "BipedalWalker-v3", "MiniGrid-Empty-5x5-v0"])
def test_lanes_show_the_same_from_the_host_in_groups_and_in_jit(env_id: str) -> None:
    task, lanes, steps = get_task(env_id), 3, 8
    inside = Environment(task, lanes, 5)
    host = Environment(task, lanes, 5, stepping="host")
    groups = Environment(task, lanes, 5, stepping="host", num_groups=2)
    handle, first = inside.reset()
    assert first.observations.shape == (lanes, *task.observation_shape) and first.observations.dtype == jnp.float32
    for other in (host, groups):
        assert np.array_equal(other.reset()[1].observations, first.observations)
    generator = np.random.default_rng(0)
    if task.is_continuous:
        actions = generator.uniform(task.action_low, task.action_high, (steps, lanes, task.num_actions))
    else:
        actions = generator.integers(task.num_actions, size=(steps, lanes))
    actions = actions.astype(task.action_dtype)

    @jax.jit
    def play(handle, timestep, actions):
        def step(state, actions):
            handle, timestep = inside.step(state[0], actions, state[1])
            return (handle, timestep), timestep

        return jax.lax.scan(step, (handle, timestep), actions)[1]

    played = play(handle, first, jnp.asarray(actions))
    is_first = np.zeros(lanes, bool)
    for index in range(steps):
        shown = host.step_host(actions[index], is_first)
        is_first = shown.is_last
        for group, own in enumerate(groups.groups):
            groups.send(group, actions[index][own.start : own.stop])
        received = [groups.receive(group).observations for group in range(2)]
        assert np.array_equal(shown.observations, played.observations[index])
        assert np.array_equal(shown.observations, np.concatenate(received))
        assert np.array_equal(shown.rewards, played.rewards[index]) and shown.rewards.dtype == np.float32


def test_the_parts_of_a_dict_follow_one_another_in_envpools_order() -> None:
    task = get_task("CheetahRun-v1")
    assert task.components == (("position", 8), ("velocity", 9))
    pool = envpool.make("CheetahRun-v1", env_type="gymnasium", num_envs=2, seed=3)
    parts, _ = pool.reset()
    seen = Environment(task, 2, 3, stepping="host").reset()[1].observations
    assert np.array_equal(seen[:, :8], parts["position"].astype(np.float32))
    assert np.array_equal(seen[:, 8:], parts["velocity"].astype(np.float32))


def test_the_simulators_version_is_told() -> None:
    name, version = simulator_of("HalfCheetah-v5").split()
    assert name == "mujoco" and len(version.split(".")) == 3
    for other in ("CheetahRun-v1", "MetaWorld/Reach-v3"):
        assert simulator_of(other) == f"mujoco {version}"
    assert simulator_of("Pendulum-v1") == simulator_of("Pong-v5") == ""


CODE = """
from pd_jax.environments.families import import_few
import_few()
import pickle, sys
from pd_jax.environments.envpool import Environment
task = pickle.load(sys.stdin.buffer)
print(Environment(task, 2, 0, stepping="host").reset()[1].observations.shape)
"""


def test_a_process_that_never_asked_for_the_task_by_name_plays_it() -> None:
    import pickle

    given = pickle.dumps(get_task("Hopper-v5"))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], input=given, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "(2, 11)"
