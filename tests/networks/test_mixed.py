"""Students with several torsos: what their lines hold, and what they compute, written down anew by the definitions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.observation import StudentObservationConfig
from pd_jax.environments.tasks import get_task
from pd_jax.networks import recent
from pd_jax.networks.mixed import Layout
from support.policies import random_observations, random_student

N = 5
GAMES = ["cartpole", "acrobot"]
MLP: dict[str, Any] = {"network": "mlp", "mlp_hidden": (6,), "extra_hidden": (5,), "joint_hidden": 7}


def seen(last_actions: int, **others: Any) -> Any:

    return StudentObservationConfig(last_actions=last_actions, **others)


def test_lines_hold_frames_floats_and_what_is_beside_to_the_bit() -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (N, 6, 6, 2)).astype(np.uint8)
    vectors = generator.standard_normal((N, 3)).astype(np.float32)
    one_hot = np.eye(4, dtype=np.float32)[generator.integers(0, 4, N)]
    for observations, in_bytes in ((frames, True), (vectors, True), (vectors, False)):
        layout = Layout(observations.shape[1:], recent=4, in_bytes=in_bytes)
        line = layout.pack(jnp.asarray(observations), jnp.asarray(one_hot))
        assert line.shape == (N, layout.size) and line.dtype == (np.uint8 if in_bytes else np.float32)
        # What follows a shorter line is not looked at.
        main, extra = layout.split(jnp.pad(line, ((0, 0), (0, 9)), constant_values=3))
        np.testing.assert_array_equal(main, observations)
        np.testing.assert_array_equal(extra, one_hot)


def test_actions_are_one_hot_and_the_newest_comes_first() -> None:
    task = get_task("acrobot")
    state = np.zeros((1, 6), np.float32)
    for action in (0, 2, 1):
        state = recent.shift_in(task, state, np.array([action]))
    np.testing.assert_array_equal(state, [[0, 1, 0, 0, 0, 1]])
    together = recent.encode_all(task, np.array([[1, 2, 0]]), np.array([[True, True, False]]))
    np.testing.assert_array_equal(together, [[0, 1, 0, 0, 0, 1, 0, 0, 0]])


def test_continuous_actions_are_in_units_of_half_their_range() -> None:

    task = dataclasses.replace(get_task("cartpole"), action_low=(-2.0, 0.0), action_high=(2.0, 4.0))
    np.testing.assert_allclose(recent.encode(task, np.array([[-2.0, 4.0], [1.0, 2.0]])), [[-1, 1], [0.5, 0]])


def layer(params: Any, x: Any, name: str = "fc1") -> Any:
    return np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)


def test_a_student_of_vectors_and_last_actions_is_what_its_layers_say() -> None:
    policy = random_student(GAMES, **MLP, head_hidden=4, observation=seen(2))
    student, variables = policy.trained.student, policy.variables
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    torso, head = params["torso"], params["head"]
    # Acrobot is the second: its six numbers stand after the four of cartpole among what all games have beside.
    vectors = random_observations(get_task("acrobot"), N)
    played = np.random.default_rng(1).random((N, 6)).astype(np.float32)
    beside = np.concatenate([np.zeros((N, 4)), played], axis=1)
    joint = layer(torso["vector"], vectors) @ torso["joint_vector"]["kernel"]
    joint = joint + layer(torso["extra"], beside) @ torso["joint_extra"]["kernel"] + torso["bias"]
    x = np.maximum(joint, 0)
    x = np.maximum(x @ head["fc2"]["kernel"][1] + head["fc2"]["bias"][1], 0)
    wanted = x @ head["output1"]["kernel"] + head["output1"]["bias"]
    line = student.pad(jnp.asarray(vectors), 1, jnp.asarray(played))
    alone = jax.jit(lambda variables, line: student.apply_game(variables, line, 1))(variables, line)
    np.testing.assert_allclose(alone[:, :3], wanted, rtol=1e-4, atol=1e-4)
    # All games at once give the same.
    other = student.pad(jnp.asarray(random_observations(get_task("cartpole"), N)), 0)
    both = jax.jit(student.apply)(variables, jnp.stack([other, line]))
    np.testing.assert_allclose(both[1, :, :3], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_state_holds_what_was_played_and_forgets_it_where_an_episode_opens(memory: str) -> None:
    policy = random_student(["cartpole"], **MLP, memory=memory, memory_size=3, observation=seen(2))
    vectors = random_observations(policy.task, 2)
    state = policy.initial_state(2)
    assert state is not None and state.shape == (2, 4 + (3 if memory == "gru" else 0))
    fresh, after = policy.decide(vectors, state)
    after = policy.note(after, np.array([1, 0]))
    np.testing.assert_array_equal(after[:, -4:], [[0, 1, 0, 0], [1, 0, 0, 0]])
    later, _ = policy.decide(vectors, after)
    assert np.abs(np.asarray(later) - np.asarray(fresh)).max() > 1e-3
    again, _ = policy._step(policy.variables, vectors, np.ones(2, bool), after)
    np.testing.assert_allclose(again, fresh, rtol=1e-5)
    # What is acted on is noted without being asked.
    actions, told = policy.act(vectors, state)
    np.testing.assert_array_equal(told[:, -4:-2], np.eye(2)[actions])
