"""What a training tells: the lines of its metrics, for one game and for several."""

from __future__ import annotations

import numpy as np

from pd_jax.trainers.summary import iteration_numbers

ONE = {"loss": np.float32(0.5), "mean_q": np.float32(2.0), "games": np.int32(3), "game_return": np.float32(7.0)}
ONE |= {"epsilon": np.float32(0.25), "updates": np.int32(4)}
SEVERAL = {
    "loss": np.float32(0.5),
    "mean_q": np.float32(2.0),
    "epsilon": np.float32(0.25),
    "updates": np.int32(4),
    "by_game": {
        "games": np.array([2, 0]),
        "game_return": np.array([9.0, 0.0]),
        "loss": np.array([0.25, 0.75]),
        "mean_q": np.array([1.0, 3.0]),
    },
}


def test_one_games_line_has_its_numbers_and_no_returns_of_no_games() -> None:
    learnt = {"loss": 0.5, "mean_q": 2.0, "epsilon": 0.25}
    assert iteration_numbers(ONE, ["pong"]) == (learnt | {"game_return": 7.0, "games": 3.0}, [7.0])
    assert iteration_numbers(ONE | {"games": np.int32(0)}, ["pong"]) == (learnt, [])
    # A replay that is filling up.
    assert iteration_numbers(ONE | {"updates": np.int32(0)}, ["pong"]) == (
        {"epsilon": 0.25, "game_return": 7.0, "games": 3.0},
        [7.0],
    )


def test_several_games_have_a_number_each_beside_the_means() -> None:
    played = {"pong/game_return": 9.0, "pong/games": 2.0}
    learnt = {"pong/loss": 0.25, "pong/mean_q": 1.0, "freeway/loss": 0.75, "freeway/mean_q": 3.0}
    names = ["pong", "freeway"]
    assert iteration_numbers(SEVERAL, names) == (
        {"loss": 0.5, "mean_q": 2.0, "epsilon": 0.25} | learnt | played,
        [9.0],
    )
    assert iteration_numbers(SEVERAL | {"updates": np.int32(0)}, names) == ({"epsilon": 0.25} | played, [9.0])
