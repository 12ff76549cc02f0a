"""The rival in PyTorch does the same job: the same outputs, gradients and minibatches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.material import TEMPERATURE
from benchmarks.rivals import pytorch
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network
from pd_jax.replay import rings
from pd_jax.types import Trajectory


def _frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 84, 84, 4), dtype=np.uint8)


def _network(name: str, *, layer_norm: bool = False) -> tuple[Any, Any]:
    network = make_network(name, 6, layer_norm=layer_norm)
    variables = jax.jit(network.init)(jax.random.key(0), _frames(1))
    return network, jax.tree.map(lambda leaf: np.array(leaf) + 0.01, variables)


@pytest.mark.parametrize(("name", "layer_norm"), [("dqn", True), ("dqn", False), ("net3", False)])
def test_outputs_are_ours(name: str, layer_norm: bool):
    network, variables = _network(name, layer_norm=layer_norm)
    frames = _frames(3)
    outputs = pytorch.Student(variables, "cpu").act(frames)
    np.testing.assert_allclose(outputs, jax.jit(network.apply)(variables, frames), rtol=1e-4, atol=1e-4)


def test_loss_and_gradients_are_ours():
    network, variables = _network("net3")
    frames, q_values = _frames(8), np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32) * 0.02

    def mean_loss(variables: Any) -> jax.Array:
        return kl_loss(network.apply(variables, frames), jnp.asarray(q_values), temperature=TEMPERATURE).mean()

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(variables)
    rival = pytorch.Student(variables, "cpu")
    its_loss = rival.update(rival.frames(frames), pytorch.torch.from_numpy(q_values), TEMPERATURE)
    assert float(its_loss) == pytest.approx(float(loss), rel=1e-4)
    torso = gradients["params"]["torso"]
    for index, layer in enumerate(rival.network.convolutions):
        expected = np.transpose(torso[f"conv{index + 1}"]["kernel"], (3, 2, 0, 1))
        np.testing.assert_allclose(layer.weight.grad, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(rival.network.hidden.weight.grad, torso["fc1"]["kernel"].T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_updates_lower_the_loss(optimizer: str):
    _, variables = _network("net3")
    rival = pytorch.Student(variables, "cpu", optimizer=optimizer, learning_rate=1e-3)
    frames = rival.frames(_frames(8))
    q_values = pytorch.torch.from_numpy(np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32) * 0.02)
    losses = [float(rival.update(frames, q_values, TEMPERATURE)) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_its_store_draws_the_stacks_that_our_replay_rebuilds():
    lanes, capacity = 2, 12
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (capacity, lanes, 84, 84), dtype=np.uint8)
    is_first = np.zeros((capacity, lanes), bool)
    is_first[0], is_first[5, 0], is_first[7, 1] = True, True, True
    is_decision = np.ones((capacity, lanes), bool)
    is_decision[4, 0] = is_decision[6, 1] = False
    q_values = generator.normal(size=(capacity, lanes, 6)).astype(np.float32)
    columns = (frames, is_first, is_decision, q_values)
    lane_major = [np.ascontiguousarray(np.swapaxes(column, 0, 1)) for column in columns]
    store = pytorch.Store(*lane_major, "cpu")
    zeros = np.zeros((capacity, lanes), np.int32)
    trajectory = Trajectory(*map(jnp.asarray, (frames, is_first, is_decision, zeros, zeros.astype("f4"), q_values)))
    stored = rings.insert(rings.init(lanes, capacity, (84, 84), np.uint8, 6), trajectory)

    places = store.usable.numpy()
    drawable = [(lane, slot) for lane in range(lanes) for slot in range(3, capacity) if is_decision[slot, lane]]
    assert [divmod(place, capacity) for place in places.tolist()] == drawable
    stacks, its_q = store.take(store.usable)
    ours = rings.gather(stored, jnp.asarray(places // capacity), jnp.asarray(places % capacity))
    np.testing.assert_array_equal(stacks.permute(0, 2, 3, 1), ours)
    np.testing.assert_array_equal(its_q, [q_values[slot, lane] for lane, slot in drawable])
    sampled, _ = store.sample(5)
    assert sampled.shape == (5, 4, 84, 84) and sampled.is_contiguous(memory_format=pytorch.torch.channels_last)
