"""Networks of the user's own, by name, beside those that are always there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config import TrainTeacherConfig, own_networks
from pd_jax.config.sections import StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.joint import make_joint_network
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.networks.registry import NETWORK_NAMES, TorsoOptions, make_network, network_names, register_network
from pd_jax.networks.student import Student, make_student
from pd_jax.trainers.setup import TrainingSetup


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


class Faulty(nn.Module):
    """What a torso should not be, by the name of its fault."""

    fault: str

    @nn.compact
    def __call__(self, observations: jax.Array) -> Any:
        features = nn.Dense(3)(observations.reshape(len(observations), -1).astype(jnp.float32))
        if self.fault == "raises":
            raise ValueError("this\nis wrong")
        if self.fault == "normalises batches":
            return nn.BatchNorm(use_running_average=True)(features)
        if self.fault == "drops out":
            return nn.Dropout(0.5, deterministic=False)(features)
        return {"sums": features.sum(axis=-1), "a pair": (features, features), "whole": features.astype(int)}[
            self.fault
        ]


@pytest.mark.parametrize("teacher", ["cartpole", "pong cartpole"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"fails on observations \w+ \[2, .*\]: ValueError: this is wrong \(.*test_registry.py, line \d+\)"),
        ("normalises batches", "has variables in batch_stats, and a torso has parameters alone"),
        ("drops out", r"fails on .*: InvalidRngError: .* \(.*test_registry.py, line \d+\)"),
        ("sums", r"gives float32 \[2\] for observations \[2, .*\]; a torso gives floats \[2, features\]"),
        ("a pair", "gives tuple for .*"),
        ("whole", "gives int32 .*"),
    ],
)
def test_a_torso_that_is_none_is_refused_with_its_fault(fault: str, message: str, teacher: str) -> None:
    register_network("own", lambda options: Faulty(fault))
    tasks = [get_task(name) for name in teacher.split()]
    with pytest.raises(UserError, match=f"^network 'own': {message}$"):
        make_student(StudentConfig(network="own"), tasks)


def test_what_builds_no_module_is_refused_where_teachers_are_trained_too() -> None:
    register_network("own", lambda options: None)
    message = "^network 'own': what builds its torso gave NoneType, and no linen module$"
    with pytest.raises(UserError, match=message):
        make_joint_network("own", [get_task("cartpole"), get_task("acrobot")])
    config = TrainTeacherConfig(game="cartpole", network="own", out="unused")
    with pytest.raises(UserError, match=message):
        TrainingSetup.make(config, (get_task("cartpole"),))
