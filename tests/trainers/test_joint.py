"""What the algorithms for several games share: the network, and the views that play one game with it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.greedy import epsilon_greedy
from pd_jax.networks.joint import GameNetwork, make_joint_network
from pd_jax.networks.policy import count_params
from pd_jax.trainers.joint import game_keys, mean_q
from support.two_games import NARROW, WIDE, make_student, one_games_values, random_variables


def test_the_network_is_the_three_game_students() -> None:
    student = make_joint_network("multi3", [get_task(game) for game in ("breakout", "freeway", "pong")])
    # Rusu et al. (2016), table 4, with today's 13 actions.
    assert count_params(jax.eval_shape(student.init, jax.random.key(0))) == 1_882_797
    narrow = make_joint_network("net3", student.tasks, head_hidden=0, channels=(4, 4, 4), hidden=8, layer_norm=True)
    params = jax.eval_shape(narrow.init, jax.random.key(0))["params"]
    assert params["head"]["output1"]["kernel"].shape == (8, 3)
    assert params["torso"]["norm4"]["scale"].shape == (8,)


@pytest.mark.parametrize(
    ("network", "games", "message"),
    [
        ("mlp", ("cartpole", "pong"), "pong shows frames and cartpole vectors"),
        ("multi3", ("pong", "pong"), "pong is there 2 times"),
        ("multi3", ("cartpole", "acrobot"), "'multi3' sees frames, and cartpole has none; use 'mlp'"),
        ("mlp", ("breakout", "pong"), "'mlp' sees vectors, and breakout shows frames"),
    ],
)
def test_games_that_do_not_go_together_are_refused(network: str, games: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as refused:
        make_joint_network(network, [get_task(game) for game in games])
    assert message in str(refused.value)


def test_a_view_gives_one_games_values_from_its_own_observations() -> None:
    student = make_student()
    variables = random_variables(student, 0)
    for game, task in enumerate((NARROW, WIDE)):
        seen = jax.random.normal(jax.random.key(game), (5, *task.observation_shape))
        values = GameNetwork(student.policy(game)).apply(variables, seen)
        np.testing.assert_allclose(values, one_games_values(variables, game, seen), rtol=1e-4, atol=1e-4)
    # Compiled once for all evaluations that share it.
    assert hash(GameNetwork(student.policy(1))) == hash(GameNetwork(make_student().policy(1)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), epsilon=st.sampled_from([0.0, 0.5, 1.0]))
def test_an_action_that_is_not_there_is_never_chosen(seed: int, epsilon: float) -> None:
    student = make_student()
    values = jax.random.normal(jax.random.key(seed), (64, 3)) * 100 - 200
    narrow = jnp.where(jnp.asarray(student.mask[0]), values, -jnp.inf)
    actions = epsilon_greedy(jax.random.key(seed + 1), narrow[:, : NARROW.num_actions], epsilon)
    assert set(np.unique(actions)) <= {0, 1}
    # Of the padded values too, the best is one that is there.
    assert set(np.unique(narrow.argmax(axis=-1))) <= {0, 1}


def test_mean_values_are_over_the_actions_that_are_there() -> None:
    values = jnp.array([[[1.0, 2.0, -jnp.inf], [3.0, 6.0, -jnp.inf]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    np.testing.assert_allclose(mean_q(make_student(), values), [3.0, 3.5])


def test_every_game_has_a_key_of_its_own() -> None:
    drawn = {float(jax.random.uniform(key)) for key in game_keys(jax.random.key(0), 3)}
    assert len(drawn) == 3
