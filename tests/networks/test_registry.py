"""Networks of the user's own, by name, beside those that are always there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config import own_networks
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.networks.registry import NETWORK_NAMES, TorsoOptions, make_network, network_names, register_network
from pd_jax.networks.student import Student


class Dense(nn.Module):
    """``x @ kernel``, whatever is observed."""

    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        x = observations.reshape(len(observations), -1).astype(self.dtype)
        return nn.Dense(self.units, use_bias=False, dtype=self.dtype, name="only")(x)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(own_networks, "registered", {})
    yield


def test_a_network_of_ones_own_has_the_heads_of_all_others() -> None:
    register_network("own", lambda options: Dense(options.hidden or 5))
    network = make_network("own", 3)
    assert isinstance(network, PolicyNetwork)
    observations = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    variables = network.init(jax.random.key(0), observations)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"torso": {"only": {"kernel": (6, 5)}}, "head": {"output": {"kernel": (5, 3), "bias": (3,)}}}
    torso, output = variables["params"]["torso"]["only"], variables["params"]["head"]["output"]
    expected = observations @ np.asarray(torso["kernel"]) @ np.asarray(output["kernel"]) + output["bias"]
    np.testing.assert_allclose(network.apply(variables, observations), expected, rtol=1e-4, atol=1e-5)
    wide = make_network("own", 3, hidden=7).init(jax.random.key(0), observations)
    assert wide["params"]["torso"]["only"]["kernel"].shape == (6, 7)


def test_it_plays_several_games_as_a_student() -> None:
    register_network("own", lambda options: Dense(5))
    network = make_network("own", (2, 3), head_hidden=4)
    assert isinstance(network, MultiGameNetwork)
    student = Student(network, tuple(get_task(game) for game in ("cartpole", "acrobot")))
    variables = student.init(jax.random.key(0))
    outputs = student.apply(variables, jnp.ones((2, 3, 6)))
    assert outputs.shape == (2, 3, 3) and (outputs[0, :, 2] == -jnp.inf).all()
    np.testing.assert_allclose(student.apply_game(variables, jnp.ones((3, 6)), 1), outputs[1], rtol=1e-5)


def test_the_torso_is_told_what_was_asked_for() -> None:
    told: list[TorsoOptions] = []

    def build(options: TorsoOptions) -> Dense:
        told.append(options)
        return Dense(2, options.dtype)

    register_network("own", build)
    make_network("own", 3)
    network = make_network(
        "own", 3, layer_norm=True, hidden_sizes=[9], activation="tanh", compute_dtype="bfloat16",
        convolution="native", channels=[1, 2], hidden=4,
    )  # fmt: skip
    assert told == [
        TorsoOptions(False, (128, 128), "relu", "auto", None, None, jnp.dtype("float32")),
        TorsoOptions(True, (9,), "tanh", "native", (1, 2), 4, jnp.dtype("bfloat16")),
    ]
    variables = network.init(jax.random.key(0), np.zeros((1, 4), np.float32))
    assert network.apply(variables, np.zeros((1, 4), np.float32)).dtype == jnp.float32


def test_equal_networks_of_ones_own_share_a_compiled_program() -> None:
    register_network("own", lambda options: Dense(5))
    traced = []

    def apply(network: Any, variables: Any, observations: Any) -> Any:
        traced.append(network)
        return network.apply(variables, observations)

    compiled = jax.jit(apply, static_argnums=0)
    observations = np.zeros((1, 4), np.float32)
    variables = make_network("own", 3).init(jax.random.key(0), observations)
    for _ in range(2):
        compiled(make_network("own", 3), variables, observations)
    assert len(traced) == 1


def test_a_name_that_is_given_again_stands_for_the_later_network() -> None:
    register_network("own", lambda options: Dense(5))
    register_network("own", lambda options: Dense(6))
    assert make_network("own", 3).torso == Dense(6)
    assert network_names() == (*NETWORK_NAMES, "own")


@pytest.mark.parametrize("name", ["net2", "mlp", ""])
def test_names_that_are_taken_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name!r} cannot be the name of a network of your own \(dqn, net1, "):
        register_network(name, lambda options: Dense(5))
    assert network_names() == NETWORK_NAMES


def test_ones_own_networks_are_among_those_that_a_wrong_name_may_have_meant() -> None:
    with pytest.raises(
        UserError, match=r"^'impalla' is not a network \(dqn, net1, net2, net3, multi3, multi10, mlp, mlp_bits\)$"
    ):
        make_network("impalla", 3)
    register_network("impala", lambda options: Dense(5))
    with pytest.raises(UserError, match=r"did you mean 'impala'\? \(dqn, .*, mlp, mlp_bits, impala\)$"):
        make_network("impalla", 3)
