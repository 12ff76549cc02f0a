"""What a network sees of a console's memory, bit by bit, against NumPy."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.games import check_network
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.bits import bits_of, factors_of_bits
from pd_jax.networks.normalisation import Normalisation
from pd_jax.networks.registry import make_network
from pd_jax.networks.torsos import MLPTorso

BYTES = np.arange(256, dtype=np.uint8).reshape(4, 64)


def test_every_byte_is_its_bits() -> None:
    seen = jax.jit(bits_of)(jnp.asarray(BYTES, jnp.float32) * np.float32(1 / 255))
    np.testing.assert_array_equal(seen, np.unpackbits(BYTES, axis=-1) * 2.0 - 1.0)
    assert seen.dtype == jnp.float32


def test_what_lies_between_bytes_is_the_nearer_one() -> None:
    noisy = jnp.array([[127.4, 127.6, -20.0, 300.0]]) / 255.0
    wanted = np.unpackbits(np.array([[127, 128, 0, 255]], np.uint8), axis=-1) * 2.0 - 1.0
    np.testing.assert_array_equal(bits_of(noisy), wanted)


def test_bytes_that_never_move_are_left_out_and_the_others_make_up_for_them() -> None:
    normalisation = Normalisation((0.5,), (0.2, 0.0, 0.0, 1e-9), 1e-8)
    np.testing.assert_allclose(factors_of_bits(normalisation, 4), [2**0.5, 0, 0, 2**0.5])
    np.testing.assert_array_equal(factors_of_bits(Normalisation((0.5,), (0.0,), 1e-8), 3), 0.0)
    torso = MLPTorso((8,), bits=True, normalisation=normalisation)
    variables = torso.init(jax.random.key(0), jnp.zeros((1, 4)))
    one, other = jnp.array([[0.1, 0.2, 0.3, 0.4]]), jnp.array([[0.1, 0.9, 0.7, 0.4]])
    np.testing.assert_array_equal(torso.apply(variables, one), torso.apply(variables, other))
    assert (torso.apply(variables, one) != torso.apply(variables, one.at[0, 3].set(0.8))).any()


def test_two_places_a_step_apart_look_very_different() -> None:
    """That is what it is for: of plain bytes the first layer sees almost the same."""
    one, other = (jnp.full((1, 128), np.float32(byte / 255)) for byte in (127, 128))
    features = {}
    for name in ("mlp", "mlp_bits"):
        network = make_network(name, 6)
        variables = network.init(jax.random.key(0), one)
        outputs = [np.asarray(network.apply(variables, x)) for x in (one, other)]
        features[name] = np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max()
    assert features["mlp"] < 0.02
    assert features["mlp_bits"] > 0.2


def test_it_is_for_memories_alone() -> None:
    check_network("mlp_bits", get_task("pong_ram"))
    for game, complaint in {
        "cartpole": "network: 'mlp_bits' sees the bits of a console's memory, and cartpole shows numbers; use 'mlp'",
        "pong": "network: 'mlp_bits' sees vectors, and pong shows frames; use one of dqn, net1, net2, net3",
    }.items():
        with pytest.raises(UserError, match=f"^{re.escape(complaint)}$"):
            check_network("mlp_bits", get_task(game))
    with pytest.raises(UserError, match=r"^quantisation: int8: 'mlp_bits' has no such layers$"):
        make_network("mlp_bits", 6, quantisation="int8")
