"""The paper's networks against their published sizes and against convolutions written out in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.environments.tasks import PAPER_GAMES, get_task
from pd_jax.errors import UserError
from pd_jax.losses import kl_loss
from pd_jax.networks.convolutions import matmul_convolution, native_convolution
from pd_jax.networks.policy import count_params
from pd_jax.networks.registry import make_network

PAPER_PARAMETERS = {"dqn": 1_693_362, "net1": 427_874, "net2": 113_346, "net3": 61_954}
# Outputs of every normalised layer: three convolutions' channels and the dense layer's units.
NORMALISED_FEATURES = {"dqn": 32 + 64 + 64 + 512, "net1": 16 + 32 + 32 + 256, "net2": 48 + 128, "net3": 48 + 64}
STRIDES = {"conv1": 4, "conv2": 2, "conv3": 1}


def frames(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 84, 84, 4)).astype(np.uint8)


def random_params(network: Any, example: np.ndarray, seed: int = 0) -> Any:
    """Parameters of the network's shapes; biases and LayerNorm scales are random too, so that all of them matter."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25
        values = rng.standard_normal(leaf.shape) / np.sqrt(fan_in) + (path[-1].key == "scale")
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(network.init, jax.random.key(0), example))


def numpy_convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    size = kernel.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True)


def numpy_layer_norm(x: np.ndarray, params: dict[str, np.ndarray]) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def numpy_forward(variables: Any, observations: np.ndarray) -> np.ndarray:
    """The network in float64, layer by layer; pixels are scaled to [0, 1] first. Heads may have a hidden layer."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    torso, output = params["torso"], params["head"]["output"]
    is_frames = "conv1" in torso
    x = observations.astype(np.float64) / (255.0 if is_frames else 1.0)
    layers = [*STRIDES, "fc1"] if is_frames else sorted(name for name in torso if name.startswith("fc"))
    for index, name in enumerate(layers):
        layer = torso[name]
        if name.startswith("conv"):
            x = numpy_convolution(x, layer["kernel"], STRIDES[name]) + layer["bias"]
        else:
            x = x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]
        if f"norm{index + 1}" in torso:
            x = numpy_layer_norm(x, torso[f"norm{index + 1}"])
        x = np.maximum(x, 0.0)
    if "fc2" in params["head"]:
        x = np.maximum(x @ params["head"]["fc2"]["kernel"] + params["head"]["fc2"]["bias"], 0.0)
    return x @ output["kernel"] + output["bias"]


def of_game(variables: Any, game: int) -> Any:
    """The parameters of the network that plays one game alone: the torso, and what belongs to its head."""
    params = variables["params"]
    head = {"output": params["head"][f"output{game}"]}
    if "fc2" in params["head"]:
        head["fc2"] = {name: stacked[game] for name, stacked in params["head"]["fc2"].items()}
    return {"params": {"torso": params["torso"], "head": head}}


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_networks_have_exactly_the_papers_numbers_of_parameters(name):
    network = make_network(name, 18)
    variables = jax.eval_shape(network.init, jax.random.key(0), frames(1))
    assert count_params(variables) == PAPER_PARAMETERS[name]


THREE_GAMES = ("breakout", "freeway", "pong")


@pytest.mark.parametrize(
    ("name", "num_actions", "parameters"),
    [
        ("multi3", [get_task(game).num_actions for game in THREE_GAMES], 1_882_797),
        ("multi10", [get_task(game).num_actions for game in PAPER_GAMES], 6_757_108),
        # The paper's own counts: 12 and 85 actions in all.
        ("multi3", [3, 3, 6], 1_882_668),
        ("multi10", [9, 4, 9, 3, 6, 6, 6, 18, 18, 6], 6_756_721),
    ],
)
def test_networks_of_several_games_have_exactly_the_papers_numbers_of_parameters(name, num_actions, parameters):
    network = make_network(name, num_actions)
    variables = jax.eval_shape(network.init, jax.random.key(0), frames(len(num_actions))[:, None])
    assert count_params(variables) == parameters


def test_widths_that_are_given_take_the_place_of_those_of_the_name():
    network = make_network("net2", (2, 3), channels=(4, 6, 5), hidden=7, head_hidden=9)
    variables = jax.eval_shape(network.init, jax.random.key(0), frames(2)[:, None])
    convolutions = (8 * 8 * 4 * 4 + 4) + (4 * 4 * 4 * 6 + 6) + (3 * 3 * 6 * 5 + 5)
    heads = 2 * (7 * 9 + 9) + (9 * 2 + 2) + (9 * 3 + 3)
    assert count_params(variables) == convolutions + (7 * 7 * 5 * 7 + 7) + heads


@pytest.mark.parametrize(
    ("name", "options"),
    [("multi3", {"channels": (4, 4, 4), "hidden": 8, "head_hidden": 6}), ("mlp", {"head_hidden": 0}), ("mlp", {})],
)
def test_games_share_a_torso_and_have_the_outputs_that_their_heads_alone_would_give(name, options):
    network = make_network(name, (2, 4, 3), **options)
    rng = np.random.default_rng(0)
    shape = (3, 2, 6) if name == "mlp" else (3, 2, 84, 84, 4)
    observations = rng.standard_normal(shape).astype(np.float32) if name == "mlp" else frames(6).reshape(shape)
    variables = random_params(network, observations)
    outputs = jax.jit(network.apply)(variables, observations)
    one_game = jax.jit(lambda v, x, game: network.apply(v, x, game, method="one_game"))
    for game, actions in enumerate((2, 4, 3)):
        expected = numpy_forward(of_game(variables, game), observations[game])
        np.testing.assert_allclose(outputs[game, :, :actions], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            one_game(variables, observations[game], game)[:, :actions], expected, rtol=1e-4, atol=1e-4
        )
        assert (outputs[game, :, actions:] == -np.inf).all()


def test_a_network_for_several_games_has_a_hidden_layer_in_its_head_for_one_game_too():
    network = make_network("multi3", 4, channels=(4, 4, 4), hidden=8, head_hidden=6)
    observations = frames(2)
    variables = random_params(network, observations)
    assert variables["params"]["head"]["fc2"]["kernel"].shape == (8, 6)
    expected = numpy_forward(variables, observations)
    assert expected.shape == (2, 4)
    np.testing.assert_allclose(jax.jit(network.apply)(variables, observations), expected, rtol=1e-4, atol=1e-4)
    others = jax.eval_shape(make_network("net3", 4).init, jax.random.key(0), observations)
    assert "fc2" not in others["params"]["head"]


def test_observations_of_fewer_games_than_heads_are_refused():
    network = make_network("mlp", (2, 3))
    with pytest.raises(AssertionError):
        network.init(jax.random.key(0), np.zeros((3, 1, 4), np.float32))


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_layer_norm_adds_a_scale_and_a_bias_per_feature(name):
    network = make_network(name, 18, layer_norm=True)
    variables = jax.eval_shape(network.init, jax.random.key(0), frames(1))
    assert count_params(variables) == PAPER_PARAMETERS[name] + 2 * NORMALISED_FEATURES[name]


@pytest.mark.parametrize(
    ("name", "convolution", "layer_norm"),
    [*itertools.product(PAPER_PARAMETERS, ["matmul", "native"], [False]), ("dqn", "matmul", True)],
)
def test_outputs_equal_a_float64_numpy_network_on_frames_scaled_to_one(name, convolution, layer_norm):
    network = make_network(name, 6, layer_norm=layer_norm, convolution=convolution)
    observations = frames(3)
    variables = random_params(network, observations)
    outputs = jax.jit(network.apply)(variables, observations)
    expected = numpy_forward(variables, observations)
    assert outputs.shape == (3, 6) and outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_gradients_of_both_formulations_agree(name):
    observations = frames(4)
    teacher_q = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    variables = random_params(make_network(name, 6), observations)

    def gradients(convolution: Any) -> Any:
        network = make_network(name, 6, convolution=convolution)

        def loss(variables: Any) -> jax.Array:
            return kl_loss(network.apply(variables, observations), teacher_q, temperature=1.0).mean()

        return jax.jit(jax.grad(loss))(variables)

    by_matmul, by_native = gradients("matmul"), gradients("native")
    for found, expected in zip(jax.tree.leaves(by_matmul), jax.tree.leaves(by_native), strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("convolution", ["matmul", "native"])
def test_no_observations_have_no_outputs_and_no_gradient(convolution):
    network = make_network("net3", 6, convolution=convolution)
    variables = random_params(network, frames(1))
    outputs, gradients = jax.value_and_grad(lambda variables: network.apply(variables, frames(0)).sum())(variables)
    assert network.apply(variables, frames(0)).shape == (0, 6) and outputs == 0.0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "stride", "dtype"),
    [
        ((2, 12, 20, 3), (8, 8, 3, 5), 4, np.uint8),
        ((3, 8, 6, 4), (4, 4, 4, 2), 2, np.float32),
        ((1, 5, 9, 2), (3, 3, 2, 7), 1, np.float32),
        ((1, 5, 3, 7), (3, 3, 7, 2), 1, np.float32),
        ((2, 4, 4, 1), (4, 4, 1, 1), 4, np.uint8),
    ],
)
def test_both_convolutions_equal_one_written_out_in_numpy(shape, kernel_shape, stride, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, shape).astype(dtype)
    kernel = rng.standard_normal(kernel_shape).astype(np.float32)
    expected = numpy_convolution(x.astype(np.float64), kernel.astype(np.float64), stride)
    for convolution in (matmul_convolution, native_convolution):
        np.testing.assert_allclose(jax.jit(convolution, static_argnums=2)(x, kernel, stride), expected, atol=1e-3)


def test_parameters_have_the_fields_usual_shapes_whatever_the_formulation():
    def shapes(convolution: Any) -> Any:
        network = make_network("net2", 4, convolution=convolution)
        params = jax.eval_shape(network.init, jax.random.key(3), frames(1))["params"]
        return jax.tree.map(lambda leaf: leaf.shape, params)

    assert shapes("matmul") == shapes("native")
    torso = shapes("matmul")["torso"]
    assert torso["conv1"] == {"kernel": (8, 8, 4, 16), "bias": (16,)}
    assert torso["conv2"] == {"kernel": (4, 4, 16, 16), "bias": (16,)}
    assert torso["fc1"] == {"kernel": (7 * 7 * 16, 128), "bias": (128,)}


@pytest.mark.parametrize(("convolution", "layer_norm"), [("matmul", True), ("native", False)])
def test_bfloat16_computes_in_less_but_keeps_parameters_and_outputs_in_float32(layer_norm, convolution):
    network = make_network("net3", 6, layer_norm=layer_norm, compute_dtype="bfloat16", convolution=convolution)
    observations = frames(4)
    shapes = jax.eval_shape(network.init, jax.random.key(0), observations)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    variables = random_params(network, observations)
    outputs, expected = jax.jit(network.apply)(variables, observations), numpy_forward(variables, observations)
    assert outputs.dtype == jnp.float32
    # bfloat16 keeps 8 bits: 0.4 % at each rounding, and there are five layers of them.
    error = np.abs(outputs - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.03


def test_an_mlp_equals_its_matrix_products_in_numpy():
    network = make_network("mlp", 3, hidden_sizes=(7, 5, 9), layer_norm=True)
    observations = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    variables = random_params(network, observations)
    assert count_params(variables) == (6 * 7 + 3 * 7) + (7 * 5 + 3 * 5) + (5 * 9 + 3 * 9) + (9 * 3 + 3)
    np.testing.assert_allclose(
        jax.jit(network.apply)(variables, observations), numpy_forward(variables, observations), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "hint"), [("net9", "did you mean 'net"), ("DQN2", "did you mean 'dqn'?"), ("resnet-50", "dqn, net1")]
)
def test_an_unknown_network_is_refused_with_the_nearest_name(name, hint):
    with pytest.raises(UserError) as refusal:
        make_network(name, 4)
    assert repr(name) in str(refusal.value) and hint in str(refusal.value) and "\n" not in str(refusal.value)


def test_impossible_numbers_are_refused():
    with pytest.raises(UserError, match="num_actions must be at least 1, got 0"):
        make_network("dqn", 0)
    with pytest.raises(UserError, match="'float16' is not one of float32, bfloat16"):
        make_network("dqn", 4, compute_dtype="float16")
    with pytest.raises(UserError, match="num_actions must be at least 1, got 0"):
        make_network("multi3", (3, 0, 2))
    with pytest.raises(UserError, match="num_actions must be at least 1, got 0"):
        make_network("multi3", ())
    with pytest.raises(UserError, match="head_hidden must be at least 0, got -1"):
        make_network("multi3", (3, 2), head_hidden=-1)
    with pytest.raises(UserError, match="channels: 2 widths for 3 convolutions"):
        make_network("dqn", 4, channels=(8, 8))
    with pytest.raises(UserError, match=r"channels and hidden must be at least 1, got \(8, 0, 8\) and 512"):
        make_network("dqn", 4, channels=(8, 0, 8))
    with pytest.raises(UserError, match="channels and hidden are widths of convolutional torsos, and 'mlp' has none"):
        make_network("mlp", 4, hidden=8)
    with pytest.raises(UserError, match="a categorical head is for a single game"):
        make_network("mlp", (4, 2), support=(0.0, 1.0))


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
def test_an_mlp_with_tanh_equals_its_matrix_products_in_numpy(hidden_sizes):
    network = make_network("mlp", 3, hidden_sizes=hidden_sizes, activation="tanh")
    observations = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    params = random_params(network, observations)["params"]
    x = observations.astype(np.float64)
    for index in range(len(hidden_sizes)):
        layer = params["torso"][f"fc{index + 1}"]
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    expected = x @ params["head"]["output"]["kernel"] + params["head"]["output"]["bias"]
    np.testing.assert_allclose(network.apply({"params": params}, observations), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "observations"), [("mlp", np.ones((4, 6), np.float32)), ("net3", frames(4))])
def test_a_categorical_head_gives_the_mean_of_each_actions_distribution(name, observations):
    support = (-2.0, -0.5, 0.0, 3.0, 10.0)
    network = make_network(name, 3, hidden_sizes=(7,), support=support)
    variables = random_params(network, observations)
    plain = make_network(name, 15, hidden_sizes=(7,))
    logits = np.asarray(plain.apply(variables, observations), np.float64)
    expected = np.empty((4, 3))
    for action in range(3):
        weights = np.exp(logits[:, 5 * action : 5 * action + 5])
        expected[:, action] = weights @ np.array(support) / weights.sum(axis=1)
    outputs = jax.jit(network.apply)(variables, observations)
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize(("name", "activation"), [("mlp", "softplus"), ("dqn", "tanh"), ("mlp", "")])
def test_an_activation_that_a_network_does_not_have_is_refused(name, activation):
    with pytest.raises(UserError, match=rf"activation: {activation!r} is not one of those of {name} \(relu"):
        make_network(name, 4, activation=activation)
