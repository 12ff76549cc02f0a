"""Two games that one network learns, and what that network computes, written down anew for one game at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.environments.tasks import get_task
from pd_jax.networks.joint import make_joint_network
from pd_jax.networks.student import Student

NARROW = dataclasses.replace(get_task("cartpole"), name="narrow")
"""4 numbers to see, 2 actions."""
WIDE = dataclasses.replace(get_task("acrobot"), name="wide")
"""6 numbers to see, 3 actions."""


def make_student(**options: Any) -> Student:
    return make_joint_network("mlp", (NARROW, WIDE), **({"hidden_sizes": (16,), "head_hidden": 8} | options))


def random_variables(student: Student, seed: int) -> Any:
    """Weights and biases from a normal distribution, the narrow game's values far below 0.

    What a padded action would be worth, were it there, is then more than what the others are.
    """
    shapes = jax.eval_shape(student.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)
    head = variables["params"]["head"]
    head["output0"]["bias"] = head["output0"]["bias"] - 20.0
    return variables


def one_games_values(variables: Any, game: int, observations: Any) -> Any:
    """Q-values ``[B, actions]`` of one game, from its own observations, by the layers' definitions."""
    params = variables["params"]
    torso, head = params["torso"]["fc1"], params["head"]
    padded = jnp.pad(observations, ((0, 0), (0, torso["kernel"].shape[0] - observations.shape[1])))
    x = jax.nn.relu(padded @ torso["kernel"] + torso["bias"])
    x = jax.nn.relu(x @ head["fc2"]["kernel"][game] + head["fc2"]["bias"][game])
    return x @ head[f"output{game}"]["kernel"] + head[f"output{game}"]["bias"]


def mean_of(gradients: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *gradients)


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), found, wanted)
