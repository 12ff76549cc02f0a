"""Students as functions with a game axis, against the networks of each game alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.policy import shared
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student
from pd_jax.teachers import load

SMALL = StudentConfig(network="mlp", mlp_hidden=(6,), head_hidden=5)


def student_of(*games: str, config: StudentConfig = SMALL) -> Student:
    return make_student(config, [get_task(game) for game in games])


def random_variables(student: Student) -> Any:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(student.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def numpy_mlp(params: Any, observations: np.ndarray, game: int) -> np.ndarray:
    """Torso, ``fc2`` and output of one game; of the first layer only the rows that the game's vector meets."""
    torso, head = params["torso"]["fc1"], params["head"]
    x = np.maximum(observations @ torso["kernel"][: observations.shape[-1]] + torso["bias"], 0.0)
    x = np.maximum(x @ head["fc2"]["kernel"][game] + head["fc2"]["bias"][game], 0.0)
    return x @ head[f"output{game}"]["kernel"] + head[f"output{game}"]["bias"]


@pytest.mark.parametrize("games", [("cartpole", "acrobot", "lunarlander"), ("lunarlander", "cartpole")])
def test_a_student_sees_the_longest_vector_and_the_widest_action_set_of_its_games(games: Sequence[str]) -> None:
    student = student_of(*games)
    sizes = {"cartpole": 2, "acrobot": 3, "lunarlander": 4}
    assert (student.num_games, student.num_actions) == (len(games), 4)
    assert (student.observation_shape, student.observation_dtype) == ((8,), "float32")
    assert student.mask.dtype == bool and student.mask.shape == (len(games), 4)
    assert student.mask.sum(axis=1).tolist() == [sizes[game] for game in games]
    assert not student.mask[games.index("cartpole"), 2:].any()


def test_games_of_frames_share_their_shape() -> None:
    student = student_of("breakout", "seaquest", config=StudentConfig(network="multi3"))
    assert (student.observation_shape, student.observation_dtype) == ((84, 84, 4), "uint8")
    assert student.mask.sum(axis=1).tolist() == [4, 18]


def test_a_policy_takes_a_games_own_observations_and_gives_its_own_actions() -> None:
    student = student_of("cartpole", "acrobot")
    variables = random_variables(student)
    rng = np.random.default_rng(1)
    own = [rng.standard_normal((5, size)).astype(np.float32) for size in (4, 6)]
    padded = np.stack([np.pad(own[0], ((0, 0), (0, 2))), own[1]])
    together = np.asarray(jax.jit(student.apply)(variables, padded))
    assert together.shape == (2, 5, 3) and (together[0, :, 2] == -np.inf).all() and np.isfinite(together[1]).all()
    one = jax.jit(student.apply_game)
    for game, actions in enumerate((2, 3)):
        expected = numpy_mlp(variables["params"], own[game], game)
        assert expected.shape == (5, actions)
        found = jax.jit(student.policy(game))(variables, own[game])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together[game, :, :actions], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one(variables, padded[game], game)[:, :actions], expected, rtol=1e-4, atol=1e-5)


def test_equal_networks_are_one_so_that_what_was_compiled_of_them_is_found_again() -> None:
    first, second, other = (make_network("mlp", 3, hidden_sizes=(size,)) for size in (7, 7, 8))
    assert first is second and first.apply == second.apply and other is not first
    assert load("cartpole").network is load("cartpole").network
    unhashable = first.clone(torso=first.torso.clone(hidden_sizes=[7]))
    assert shared(unhashable) is unhashable


def test_a_students_layers_are_normalised_where_that_is_asked_for() -> None:
    normed = dataclasses.replace(SMALL, layer_norm=True)
    one, two = student_of("cartpole", config=normed), student_of("cartpole", "acrobot", config=normed)
    beside = StudentObservationConfig(last_actions=2)
    joined = student_of("cartpole", config=dataclasses.replace(normed, observation=beside))
    shapes = [jax.eval_shape(student.init, jax.random.key(0))["params"] for student in (one, two, joined)]
    assert shapes[0]["torso"]["norm1"]["scale"].shape == (6,) and "norm" not in shapes[0]["head"]
    assert shapes[1]["head"]["norm"]["scale"].shape == (2, 5), "each game has its own in the heads' hidden layer"
    assert shapes[2]["torso"]["vector"]["norm1"]["scale"].shape == (6,)
    assert shapes[2]["torso"]["extra"]["norm1"]["scale"].shape == (64,)
    variables = random_variables(one)
    x = np.random.default_rng(2).standard_normal((7, 4)).astype(np.float32)
    params = variables["params"]["torso"]
    hidden = x @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-6)
    hidden = np.maximum(hidden * params["norm1"]["scale"] + params["norm1"]["bias"], 0.0)
    output = variables["params"]["head"]["output"]
    expected = hidden @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(one.policy(0)(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_equal_policies_compile_once() -> None:
    traced = []

    def play(policy: Any, variables: Any, observations: Any) -> Any:
        traced.append(policy.game)
        return policy(variables, observations)

    play = jax.jit(play, static_argnums=0)
    variables = random_variables(student_of("cartpole", "acrobot"))
    for _ in range(2):
        for game, size in enumerate((4, 6)):
            play(student_of("cartpole", "acrobot").policy(game), variables, np.ones((1, size), np.float32))
    assert traced == [0, 1]


@pytest.mark.parametrize(("game", "network"), [("cartpole", "mlp"), ("pong", "net3")])
def test_a_student_of_one_game_is_the_papers_single_game_network(game: str, network: str) -> None:
    config, task = StudentConfig(network=network, mlp_hidden=(6,)), get_task(game)  # type: ignore[arg-type]
    student = make_student(config, [task])
    alone = make_network(network, task.num_actions, hidden_sizes=(6,))
    example = jnp.zeros((1, *task.observation_shape), task.observation_dtype)
    variables = jax.jit(student.init)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, variables, jax.jit(alone.init)(jax.random.key(3), example))
    observations = np.random.default_rng(0).integers(0, 256, (3, *task.observation_shape)).astype(example.dtype)
    expected = np.asarray(jax.jit(alone.apply)(variables, observations))
    np.testing.assert_array_equal(jax.jit(student.apply)(variables, observations[None]), expected[None])
    np.testing.assert_array_equal(jax.jit(student.policy(0))(variables, observations), expected)


def test_multi3_of_one_game_has_its_head() -> None:
    config = StudentConfig(network="multi3", channels=(4, 5, 6), hidden=7, head_hidden=8)
    shapes = jax.eval_shape(student_of("pong", config=config).init, jax.random.key(0))["params"]
    assert shapes["head"]["fc2"]["kernel"].shape == (7, 8) and shapes["head"]["output"]["kernel"].shape == (8, 6)
    assert shapes["torso"]["conv3"]["kernel"].shape == (3, 3, 5, 6)


def test_an_mlp_for_frames_beside_vectors_is_refused() -> None:
    with pytest.raises(UserError, match=r"student.network: 'mlp' sees vectors, and pong shows frames"):
        student_of("cartpole", "acrobot", "pong", config=StudentConfig(network="mlp"))
