"""Students whose games become more, fewer or others: what each network computes stays what it was."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.config.sections import StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.networks.added import grown, heads_of, old_elements
from pd_jax.networks.student import Student, make_student
from support.policies import random_observations

WITHOUT = StudentConfig(network="mlp", mlp_hidden=(8,), head_hidden=0)
WITH = StudentConfig(network="mlp", mlp_hidden=(8,), head_hidden=4)


def student_of(config: StudentConfig, *games: str) -> Student:
    return make_student(config, [get_task(game) for game in games])


def params_of(student: Student, seed: int) -> Any:
    return jax.tree.map(np.asarray, student.init(jax.random.key(seed))["params"])


def outputs(student: Student, params: Any, game: str) -> np.ndarray:
    place = [task.name for task in student.tasks].index(game)
    return np.asarray(student.policy(place)({"params": params}, random_observations(get_task(game), 7)))


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        # Wider in what it sees and in what it does; narrower; two at once, from one game.
        (WITH, ("cartpole", "acrobot"), ("lunarlander",)),
        (WITH, ("lunarlander", "acrobot"), ("cartpole",)),
        (WITHOUT, ("cartpole",), ("acrobot", "lunarlander")),
    ],
)
def test_a_grown_student_gives_what_the_old_one_did_and_new_heads_are_fresh(
    config: StudentConfig, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    old, whole = student_of(config, *before), student_of(config, *before, *after)
    own, fresh = params_of(old, 1), params_of(whole, 2)
    params = grown(fresh, heads_of(own, range(len(before)), several=True))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, fresh)
    for game in before:
        if after == ("cartpole",):
            # Nothing becomes wider, and nothing is computed in another order.
            np.testing.assert_array_equal(outputs(whole, params, game), outputs(old, own, game))
        np.testing.assert_allclose(outputs(whole, params, game), outputs(old, own, game), rtol=1e-6, atol=1e-6)
    for place in range(len(before), len(before) + len(after)):
        jax.tree.map(np.testing.assert_array_equal, params["head"][f"output{place}"], fresh["head"][f"output{place}"])


def test_what_is_old_is_what_the_old_student_has_and_no_more() -> None:
    old, whole = student_of(WITH, "cartpole", "acrobot"), student_of(WITH, "cartpole", "acrobot", "lunarlander")
    ones = jax.tree.map(np.ones_like, heads_of(params_of(old, 1), (0, 1), several=True))
    fresh = params_of(whole, 2)
    marked = grown(jax.tree.map(np.zeros_like, fresh), ones)
    found = jax.tree.map(lambda own, leaf: np.broadcast_to(own, leaf.shape), old_elements(fresh, ones), fresh)
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(lambda leaf: leaf == 1, marked))
    assert sum(leaf.sum() for leaf in jax.tree.leaves(found)) == sum(leaf.size for leaf in jax.tree.leaves(ones))
    # The torso's first layer has rows that only the third game reaches.
    assert found["torso"]["fc1"]["kernel"][:, 0].tolist() == [True] * 6 + [False] * 2


def test_heads_go_between_one_game_and_several_and_change_places() -> None:
    games = ("cartpole", "acrobot", "lunarlander")
    whole = student_of(WITHOUT, *games)
    params = params_of(whole, 3)
    some = student_of(WITHOUT, "lunarlander", "cartpole")
    chosen = heads_of(params, (2, 0), several=True)
    alone = student_of(WITHOUT, "lunarlander")
    single = heads_of(params, (2,), several=False)
    for game in ("lunarlander", "cartpole"):
        np.testing.assert_allclose(outputs(some, chosen, game), outputs(whole, params, game), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        outputs(alone, single, "lunarlander"), outputs(whole, params, "lunarlander"), rtol=1e-6, atol=1e-6
    )
    back = heads_of(single, (0,), several=True)
    np.testing.assert_array_equal(back["head"]["output0"]["kernel"], params["head"]["output2"]["kernel"])
