"""Heads of several games against each game's own matrix products in float64 NumPy, for random action sets."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.losses import kl_loss, mse_loss, nll_loss
from pd_jax.networks.heads import MultiGameHead, SingleHead, action_mask

FEATURES, BATCH = 5, 3
LOSSES = {"nll": nll_loss, "mse": mse_loss, "kl": partial(kl_loss, temperature=0.5)}
action_sets = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
# Each example compiles anew, for shapes of its own.
few_examples = settings(deadline=None, max_examples=10)


def random_variables(head: MultiGameHead, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    features = np.zeros((len(head.num_actions), 1, FEATURES), np.float32)
    shapes = jax.eval_shape(head.init, jax.random.key(0), features)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def numpy_head(params: Any, features: np.ndarray, game: int) -> np.ndarray:
    """``[B, features] -> [B, actions]`` of one game alone, float64."""
    x = features.astype(np.float64)
    if "fc2" in params:
        x = x @ params["fc2"]["kernel"][game].astype(np.float64) + params["fc2"]["bias"][game]
        if "norm" in params:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * params["norm"]["scale"][game] + params["norm"]["bias"][game]
        x = np.maximum(x, 0.0)
    output = params[f"output{game}"]
    return x @ output["kernel"].astype(np.float64) + output["bias"]


def numpy_cotangent(kind: str, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Gradient in the student's outputs of the sum over examples of a loss, float64 ``[B, actions]``."""
    if kind == "mse":
        return 2 * (student - teacher)
    softmax = np.exp(student - student.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    if kind == "nll":
        return softmax - np.eye(student.shape[1])[teacher.argmax(-1)]
    target = np.exp((teacher - teacher.max(-1, keepdims=True)) / 0.5)
    return softmax - target / target.sum(-1, keepdims=True)


def test_the_mask_says_which_actions_each_game_has():
    assert action_mask((2, 4, 1)).tolist() == [
        [True, True, False, False],
        [True, True, True, True],
        [True, False, False, False],
    ]


@few_examples
@given(num_actions=action_sets, hidden=st.sampled_from([0, 4]), layer_norm=st.booleans(), seed=st.integers(0, 99))
def test_every_game_has_its_own_outputs_and_never_an_action_it_lacks(num_actions, hidden, layer_norm, seed):
    head = MultiGameHead(num_actions, hidden, layer_norm)
    variables = random_variables(head, seed)
    features = np.random.default_rng(seed).standard_normal((len(num_actions), BATCH, FEATURES)).astype(np.float32)
    outputs = np.asarray(jax.jit(head.apply)(variables, features))
    assert outputs.shape == (len(num_actions), BATCH, max(num_actions)) and outputs.dtype == np.float32
    for game, actions in enumerate(num_actions):
        expected = numpy_head(variables["params"], features[game], game)
        np.testing.assert_allclose(outputs[game, :, :actions], expected, rtol=1e-4, atol=1e-4)
        assert (outputs[game, :, actions:] == -np.inf).all()
        assert (outputs[game].argmax(-1) < actions).all()


@few_examples
@given(num_actions=action_sets, kind=st.sampled_from(sorted(LOSSES)), seed=st.integers(0, 99))
def test_an_action_that_a_game_lacks_gets_no_gradient_and_the_others_what_the_game_alone_gives_them(
    num_actions, kind, seed
):
    head, rng = MultiGameHead(num_actions, hidden=0), np.random.default_rng(seed)
    variables, mask = random_variables(head, seed), action_mask(num_actions)
    features = rng.standard_normal((len(num_actions), BATCH, FEATURES)).astype(np.float32)
    teacher_q = rng.standard_normal((len(num_actions), BATCH, max(num_actions))).astype(np.float32)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2))
    def gradients(variables: Any, features: jax.Array, shift: jax.Array) -> jax.Array:
        return LOSSES[kind](head.apply(variables, features) + shift, teacher_q, mask=mask[:, None]).sum()

    by_parameter, by_feature, by_output = gradients(variables, features, jnp.zeros_like(teacher_q))
    assert (np.asarray(by_output)[np.broadcast_to(~mask[:, None], by_output.shape)] == 0.0).all()
    for game, actions in enumerate(num_actions):
        student = numpy_head(variables["params"], features[game], game)
        cotangent = numpy_cotangent(kind, student, teacher_q[game, :, :actions].astype(np.float64))
        kernel = variables["params"][f"output{game}"]["kernel"]
        found, close = by_parameter["params"][f"output{game}"], partial(np.testing.assert_allclose, atol=1e-4)
        close(by_output[game, :, :actions], cotangent)
        close(found["kernel"], features[game].T @ cotangent)
        close(found["bias"], cotangent.sum(0))
        close(by_feature[game], cotangent @ kernel.T)


@pytest.mark.parametrize("hidden", [0, 4])
def test_one_game_may_be_chosen_inside_a_compiled_program(hidden):
    head = MultiGameHead((2, 5, 3), hidden, layer_norm=True)
    variables = random_variables(head, 0)
    features = np.random.default_rng(1).standard_normal((BATCH, FEATURES)).astype(np.float32)
    apply = jax.jit(head.apply)
    for game, actions in enumerate(head.num_actions):
        outputs = np.asarray(apply(variables, features, jnp.int32(game)))
        expected = numpy_head(variables["params"], features, game)
        np.testing.assert_allclose(outputs[:, :actions], expected, rtol=1e-4, atol=1e-4)
        assert outputs.shape == (BATCH, 5) and (outputs[:, actions:] == -np.inf).all()
    assert apply._cache_size() == 1


def test_fresh_heads_are_as_wide_apart_as_single_ones():
    """He initialisation for ``fc2``, LeCun's for the outputs: the stack's first axis is no part of the fan-in."""
    several, single = MultiGameHead((40, 40, 40), 200), SingleHead(40, 200)
    features = np.zeros((3, 1, 300), np.float32)
    stacked = jax.device_get(jax.jit(several.init)(jax.random.key(0), features))["params"]
    alone = jax.device_get(jax.jit(single.init)(jax.random.key(1), features[0]))["params"]
    for game in range(3):
        # Of 60,000 and 8,000 numbers the standard deviation is known to 0.3 and 0.8 %.
        fc2, output = stacked["fc2"]["kernel"][game], stacked[f"output{game}"]["kernel"]
        assert fc2.std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)
        assert fc2.std() == pytest.approx(alone["fc2"]["kernel"].std(), rel=0.02)
        assert output.std() == pytest.approx(np.sqrt(1 / 200), rel=0.04)
        assert output.std() == pytest.approx(alone["output"]["kernel"].std(), rel=0.04)
    assert not np.allclose(stacked["fc2"]["kernel"][0], stacked["fc2"]["kernel"][1])
    assert not np.allclose(stacked["output0"]["kernel"], stacked["output1"]["kernel"])


def test_bfloat16_is_for_what_is_computed_between_float32_parameters_and_outputs():
    exact, rounded = (MultiGameHead((2, 5), 4, layer_norm=True, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = random_variables(exact, 0)
    features = np.random.default_rng(1).standard_normal((2, BATCH, FEATURES)).astype(np.float32)
    shapes = jax.eval_shape(rounded.init, jax.random.key(0), features)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    outputs, expected = jax.jit(rounded.apply)(variables, features), jax.jit(exact.apply)(variables, features)
    assert outputs.dtype == jnp.float32
    difference = np.abs(np.where(np.isinf(expected), 0.0, outputs - expected)).max()
    assert 1e-4 < difference < 0.1
