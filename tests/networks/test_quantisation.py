"""Layers that learn as 8-bit integers compute, against integers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pd_jax.config.sections import StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.quantisation import is_quantised, round_inputs, round_weights, without_ranges
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student

_FLOATS = st.integers(-(10**6), 10**6).map(lambda number: number / 128)


def _students(games, network):
    tasks = [get_task(game) for game in games]
    plain = make_student(StudentConfig(network=network), tasks)
    return plain, make_student(StudentConfig(network=network, quantisation="int8"), tasks)


def _observations(student: Student, seed: int, count: int = 24):
    generator, drawn = np.random.default_rng(seed), []
    for task in student.tasks:
        shape = (count, *task.observation_shape)
        frames = generator.integers(0, 256, shape).astype(np.uint8)
        drawn.append(frames if task.kind == "atari" else generator.normal(size=shape).astype(np.float32))
    return drawn


@functools.cache
def _calibrated(games, network):
    plain, quantised = _students(games, network)
    variables = plain.init(jax.random.key(3))
    return plain, quantised, variables, quantised.calibrated(variables, [_observations(plain, 0)])


def _integer_weights(kernel):
    scale = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127
    return np.rint(kernel / scale).astype(np.int64), scale


def _integer_inputs(x, limit, levels=255, low=0):
    return np.clip(np.rint(x * levels / limit), low, levels).astype(np.int64)


def _dense(x, layer):
    weights, scale = _integer_weights(layer["kernel"])
    integers = _integer_inputs(x, layer["input_range"]) @ weights
    return integers * (scale * layer["input_range"] / 255) + layer["bias"]


def _convolution(x, layer, stride):
    is_first = "input_range" not in layer
    weights, scale = _integer_weights(layer["kernel"] / (255 if is_first else 1))
    integers = x.astype(np.int64) if is_first else _integer_inputs(x, layer["input_range"])
    planes, kernel = (
        torch.tensor(array).permute(order) for array, order in ((integers, (0, 3, 1, 2)), (weights, (3, 2, 0, 1)))
    )
    sums = torch.nn.functional.conv2d(planes.double(), kernel.double(), stride=stride).permute(0, 2, 3, 1).numpy()
    return np.maximum(sums * scale * (1 if is_first else layer["input_range"] / 255) + layer["bias"], 0)


@given(hnp.arrays(np.float32, (5, 3), elements=_FLOATS))
def test_weights_are_at_most_127_steps_of_their_channel(kernel) -> None:
    rounded = np.asarray(round_weights(jnp.asarray(kernel)), np.float64)
    scale = np.abs(kernel).max(axis=0).astype(np.float64) / 127
    assert (np.abs(rounded - kernel) <= 0.5 * scale + 1e-6 * np.abs(kernel).max(axis=0)).all()
    steps = rounded / np.where(scale > 0, scale, 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert np.abs(steps).max() <= 127.001


@given(hnp.arrays(np.float32, 16, elements=_FLOATS), st.floats(0.125, 1e3, width=32), st.booleans())
def test_inputs_are_rounded_within_their_range_and_cut_off_beyond(x, limit, signed) -> None:
    rounded = np.asarray(round_inputs(jnp.asarray(x), jnp.float32(limit), signed=signed))
    step = limit / (127 if signed else 255)
    cut = np.clip(x, -limit if signed else 0, limit)
    assert (np.abs(rounded - cut) <= 0.501 * step + 1e-6 * limit).all()
    np.testing.assert_allclose(rounded / step, np.rint(rounded / step), atol=1e-2)


def test_gradients_pass_through_the_rounding_but_not_where_inputs_are_cut_off() -> None:
    gradient = jax.grad(lambda x: round_inputs(x, jnp.float32(2.0), signed=False).sum())(jnp.float32([-1, 0.3, 1.9, 3]))
    np.testing.assert_array_equal(gradient, [0, 1, 1, 0])
    np.testing.assert_array_equal(jax.grad(lambda w: round_weights(w).sum())(jnp.float32([[0.3], [-2.0]])), [[1], [1]])


def test_a_network_of_frames_computes_what_integers_do() -> None:
    _, quantised, _, variables = _calibrated(("pong",), "net3")
    (frames,) = _observations(quantised, 1)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x, torso = frames, params["torso"]
    for name, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        x = _convolution(x, torso[name], stride)
    x = np.maximum(_dense(x.reshape(len(x), -1), torso["fc1"]), 0)
    outputs = np.asarray(jax.jit(quantised.policy(0))(variables, frames))
    expected = _dense(x, params["head"]["output"])
    # A sum that falls between two integers may be rounded either way: then an output is off by a weight's step or two.
    assert np.abs(outputs - expected).max() < 0.02 * np.abs(expected).max()
    assert np.median(np.abs(outputs - expected)) < 1e-4


def test_each_feature_of_a_vector_has_its_own_range() -> None:
    _, quantised, _, variables = _calibrated(("cartpole",), "mlp")
    (vectors,) = _observations(quantised, 0)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    first = params["torso"]["fc1"]
    np.testing.assert_allclose(first["input_range"], np.abs(vectors).max(axis=0), rtol=1e-6)
    weights, scale = _integer_weights(first["kernel"] * first["input_range"][:, None])
    integers = _integer_inputs(vectors, first["input_range"], 127, -127)
    hidden = np.maximum(integers @ weights * (scale / 127) + first["bias"], 0)
    hidden = np.maximum(_dense(hidden, params["torso"]["fc2"]), 0)
    outputs = np.asarray(jax.jit(quantised.policy(0))(variables, vectors))
    expected = _dense(hidden, params["head"]["output"])
    assert np.median(np.abs(outputs - expected)) < 1e-4


@pytest.mark.parametrize(("games", "network"), [(("pong", "breakout"), "net3"), (("cartpole", "acrobot"), "mlp")])
def test_a_student_of_several_games_has_ranges_for_each_and_plays_one_as_among_all(games, network) -> None:
    plain, quantised, before, variables = _calibrated(games, network)
    assert variables["params"]["head"]["fc2"]["input_range"].shape == (2,)
    assert is_quantised(variables["params"]) and not is_quantised(before["params"])
    jax.tree.map(np.testing.assert_array_equal, without_ranges(variables["params"]), dict(before["params"]))
    jax.tree.map(lambda leaf: np.testing.assert_array_less(0, leaf), variables["params"]["head"]["fc2"]["input_range"])
    # Those that the ranges are of: of others, some would be cut off.
    shown = _observations(quantised, 0)
    padded = jnp.stack([quantised.pad(jnp.asarray(own)) for own in shown])
    together, floats = (np.asarray(jax.jit(s.apply)(v, padded)) for s, v in ((quantised, variables), (plain, before)))
    real = quantised.mask[:, None].repeat(len(shown[0]), axis=1)
    assert 0 < np.abs(together[real] - floats[real]).max() < 0.1 * np.abs(floats[real]).max()
    for game, task in enumerate(quantised.tasks):
        alone = np.asarray(jax.jit(quantised.policy(game))(variables, shown[game]))
        np.testing.assert_allclose(alone, together[game][:, : task.num_actions], atol=1e-4)


def test_ranges_are_not_learnt() -> None:
    _, quantised, _, variables = _calibrated(("cartpole",), "mlp")
    (vectors,) = _observations(quantised, 1)
    gradients = jax.jit(jax.grad(lambda v: quantised.policy(0)(v, vectors).sum()))(variables)["params"]
    for layer in (gradients["torso"]["fc1"], gradients["torso"]["fc2"], gradients["head"]["output"]):
        assert not np.any(layer["input_range"]) and np.any(layer["kernel"])


def test_ranges_that_are_there_stay() -> None:
    _, quantised, _, variables = _calibrated(("cartpole",), "mlp")
    assert quantised.calibrated(variables, []) is variables


@pytest.mark.parametrize(
    ("name", "options"), [("dqn_same", {}), ("net2", {"compute_dtype": "bfloat16"}), ("net2", {"support": (-1.0, 1.0)})]
)
def test_networks_that_have_no_such_layers_are_refused(name, options) -> None:
    with pytest.raises(UserError, match="quantisation: int8"):
        make_network(name, 4, quantisation="int8", **options)
