"""Recurrent layers against PyTorch's on the same weights, and a network's memory over sequences and step by step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pd_jax.config.sections import StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.memory import MEMORIES, Memory, state_size
from pd_jax.networks.policy import count_params
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import make_student

FEATURES, SIZE, STEPS, LANES = 5, 7, 11, 3
NEVER = np.zeros((STEPS, LANES), bool)


def weights_of(layer: torch.nn.Module, kind: str) -> dict[str, Any]:
    """A layer of PyTorch as ours has it; two of its biases are added to two others, which is all they ever are."""
    found = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    bias, recurrent = found["bias_ih_l0"].copy(), {"kernel": found["weight_hh_l0"].T}
    if kind == "gru":
        bias[: 2 * SIZE] += found["bias_hh_l0"][: 2 * SIZE]
        recurrent["bias"] = found["bias_hh_l0"][2 * SIZE :]
    else:
        bias += found["bias_hh_l0"]
    return {"params": {"input": {"kernel": found["weight_ih_l0"].T, "bias": bias}, "recurrent": recurrent}}


def torch_layer(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    return {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind](FEATURES, SIZE)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_state(kind: str, state: np.ndarray) -> Any:
    parts = [torch.tensor(part[None]) for part in np.split(state, state.shape[1] // SIZE, axis=1)]
    return parts[0] if kind == "gru" else tuple(parts)


@pytest.mark.parametrize("kind", MEMORIES)
def test_outputs_states_and_gradients_are_those_of_pytorch(kind: str) -> None:
    layer, features, state = torch_layer(kind), drawn(STEPS, LANES, FEATURES), drawn(LANES, state_size(kind, SIZE))
    inputs = torch.tensor(features, requires_grad=True)
    expected, last = layer(inputs, torch_state(kind, state))
    (expected**2).sum().backward()
    memory = Memory(kind, SIZE)
    variables = weights_of(layer, kind)
    outputs, after = jax.jit(memory.apply)(variables, features, NEVER, state)
    np.testing.assert_allclose(outputs, expected.detach(), atol=2e-6)
    last = last if kind == "gru" else torch.cat(last, dim=-1)
    np.testing.assert_allclose(after, last[0].detach(), atol=2e-6)

    def loss(variables: Any, features: Any) -> Any:
        return (memory.apply(variables, features, NEVER, state)[0] ** 2).sum()

    gradients, of_features = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, features)
    np.testing.assert_allclose(of_features, inputs.grad, atol=1e-5)
    found = gradients["params"]
    kernels = {"weight_ih_l0": found["input"]["kernel"], "weight_hh_l0": found["recurrent"]["kernel"]}
    for name, kernel in kernels.items():
        np.testing.assert_allclose(kernel, getattr(layer, name).grad.numpy().T, atol=2e-5)
    np.testing.assert_allclose(found["input"]["bias"], layer.bias_ih_l0.grad, atol=2e-5)
    if kind == "gru":
        np.testing.assert_allclose(found["recurrent"]["bias"], layer.bias_hh_l0.grad[2 * SIZE :], atol=2e-5)


@pytest.mark.parametrize("kind", MEMORIES)
def test_an_episode_that_opens_starts_from_nothing_in_its_lane_alone(kind: str) -> None:
    memory, features = Memory(kind, SIZE), drawn(STEPS, LANES, FEATURES)
    state = drawn(LANES, state_size(kind, SIZE), seed=1)
    variables = weights_of(torch_layer(kind), kind)
    is_first = NEVER.copy()
    is_first[4, 1] = is_first[7, 1] = is_first[0, 2] = True
    outputs, after = memory.apply(variables, features, is_first, state)
    for lane, begins in ((0, [0]), (1, [0, 4, 7]), (2, [0])):
        for begin, end in zip(begins, [*begins[1:], STEPS], strict=True):
            carried = np.zeros_like(state) if is_first[begin, lane] else state
            alone = features[begin:end, lane : lane + 1]
            expected, last = memory.apply(variables, alone, np.zeros(alone.shape[:2], bool), carried[lane : lane + 1])
            np.testing.assert_allclose(outputs[begin:end, lane], expected[:, 0], atol=1e-6)
        np.testing.assert_allclose(after[lane], last[0], atol=1e-6)


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_network_goes_step_by_step_where_it_goes_through_a_sequence(kind: str) -> None:
    network = make_network("mlp", 4, hidden_sizes=(6,), memory=kind, memory_size=SIZE)
    observations = drawn(LANES, STEPS, 3)
    is_first = np.random.default_rng(0).random((LANES, STEPS)) < 0.2
    variables = network.init(jax.random.key(0), observations[:, 0])
    width = state_size(kind, SIZE)
    state = jnp.zeros((LANES, width))
    outputs, last = network.apply(variables, observations, is_first, state, method="remember")
    assert outputs.shape == (LANES, STEPS, 4)
    step = jax.jit(lambda *seen: network.apply(variables, *seen, method="remember"))
    for time in range(STEPS):
        here = slice(time, time + 1)
        now, state = step(observations[:, here], is_first[:, here], state)
        np.testing.assert_allclose(now[:, 0], outputs[:, time], atol=1e-6)
    np.testing.assert_allclose(state, last, atol=1e-6)
    once = network.apply(variables, observations[:, 0])
    opened, _ = step(observations[:, :1], np.ones((LANES, 1), bool), drawn(LANES, width))
    np.testing.assert_allclose(once, opened[:, 0], atol=1e-6)


def test_games_share_a_memory_and_each_answers_as_alone() -> None:
    student = make_student(
        StudentConfig(network="mlp", mlp_hidden=(6,), head_hidden=5, memory="gru", memory_size=SIZE),
        [get_task("cartpole"), get_task("acrobot")],
    )
    variables = student.init(jax.random.key(0))
    observations, is_first = drawn(2, LANES, STEPS, 6), np.zeros((2, LANES, STEPS), bool)
    is_first[1, 0, 5] = True
    state = drawn(2, LANES, student.state_size)
    outputs, last = student.remember(variables, observations, is_first, state)
    assert outputs.shape == (2, LANES, STEPS, 3)
    for game in range(2):
        own, after = student.remember_game(variables, observations[game], is_first[game], state[game], game)
        np.testing.assert_allclose(own, outputs[game], atol=1e-5)
        np.testing.assert_allclose(after, last[game], atol=1e-6)


def test_a_layer_has_as_many_parameters_as_pytorchs_without_the_biases_that_are_added_up() -> None:
    plain = count_params(make_network("net2", 6).init(jax.random.key(0), np.zeros((1, 84, 84, 4), np.uint8)))
    for kind, gates, one_less in (("gru", 3, 32), ("lstm", 4, 0)):
        network = make_network("net2", 6, memory=kind, memory_size=32)
        shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 84, 84, 4), np.uint8))
        layer = gates * 32 * (128 + 32 + 1) + one_less
        # The output layer sees 32 features instead of 128.
        assert count_params(shapes) == plain + layer - (128 - 32) * 6


def test_an_lstm_keeps_at_first_and_recurrent_gates_are_orthogonal() -> None:
    for kind, gates in (("gru", 3), ("lstm", 4)):
        memory = Memory(kind, SIZE)
        start = np.zeros((LANES, memory.state_size), np.float32)
        params = memory.init(jax.random.key(0), drawn(STEPS, LANES, FEATURES), NEVER, start)["params"]
        for kernel in np.split(np.asarray(params["recurrent"]["kernel"]), gates, axis=1):
            np.testing.assert_allclose(kernel @ kernel.T, np.eye(SIZE), atol=1e-5)
    np.testing.assert_array_equal(params["input"]["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], SIZE))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "rnn"}, "'rnn' of 128 units is none of none, gru, lstm"),
        ({"memory": "gru", "memory_size": 0}, "'gru' of 0 units"),
        ({"memory": "lstm", "quantisation": "int8"}, "lstm has no 8-bit integers"),
        ({"memory": "gru", "support": (0.0, 1.0)}, "gru has no 8-bit integers|categorical"),
    ],
)
def test_what_no_network_with_memory_can_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_network("mlp", 4, **options)
