"""The published figures, and that they stand beside nothing but what they measure."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.environments.tasks import PAPER_GAMES, TASKS
from pd_jax.report.paper import COMPRESSION_FACTORS, figure_for_game, figure_for_mean

THREE = ("breakout", "freeway", "pong")


@pytest.mark.parametrize(
    ("loss", "game", "percent"),
    [("mse", "breakout", 33.9), ("nll", "freeway", 101.4), ("kl", "pong", 100.9), ("kl", "qbert", 155.0)],
)
def test_the_losses_are_compared_by_students_as_large_as_their_teachers(loss: str, game: str, percent: float) -> None:
    figure = figure_for_game("dqn", loss, 0.01, game)
    assert figure is not None
    assert (figure.percent, figure.games, figure.verified) == (percent, 1, False)


@pytest.mark.parametrize(
    ("network", "loss", "temperature", "game"),
    [
        ("net2", "kl", 0.01, "pong"),
        ("dqn", "kl", 1.0, "pong"),
        ("dqn", "kl", None, "pong"),
        ("dqn", None, None, "pong"),
        ("dqn", "kl", 0.01, "seaquest"),
        ("dqn", "kl", 0.01, "cartpole"),
        ("dqn 16-16-16", "kl", 0.01, "pong"),
    ],
)
def test_no_figure_is_invented_for_a_game(network: str, loss: str | None, temperature: float | None, game: str) -> None:
    assert figure_for_game(network, loss, temperature, game) is None


@pytest.mark.parametrize(("network", "percent"), [("net1", 108.3), ("net2", 101.7), ("net3", 83.9)])
def test_compression_is_over_ten_games_even_beside_one(network: str, percent: float) -> None:
    for games in (("pong",), PAPER_GAMES):
        figure = figure_for_mean(network, "kl", 0.01, games, together=False)
        assert figure is not None
        assert (figure.percent, figure.games, figure.verified) == (percent, 10, True)


@pytest.mark.parametrize(
    ("network", "loss", "games", "jointly", "percent"),
    [
        ("multi3", "kl", THREE, False, 116.9),
        ("multi3", "nll", THREE, False, 105.1),
        ("multi3", "dqn", THREE, True, 83.5),
        ("multi10", "kl", PAPER_GAMES, False, 89.3),
    ],
)
def test_several_games_in_one_student(
    network: str, loss: str, games: tuple[str, ...], jointly: bool, percent: float
) -> None:
    figure = figure_for_mean(network, loss, 0.01, reversed(games), together=True, jointly_trained=jointly)  # type: ignore[arg-type]
    assert figure is not None
    assert (figure.percent, figure.games) == (percent, len(games))


@given(
    st.sampled_from(["dqn", "net2", "multi3", "multi10", "mlp 16"]),
    st.sampled_from(["kl", "nll", "mse", None]),
    st.sampled_from([0.01, 1.0, None]),
    st.sets(st.sampled_from(sorted(TASKS))),
    st.booleans(),
    st.booleans(),
)
def test_a_mean_has_a_figure_only_over_the_papers_games(
    network: str, loss: str | None, temperature: float | None, games: set[str], together: bool, jointly: bool
) -> None:
    figure = figure_for_mean(network, loss, temperature, games, together=together, jointly_trained=jointly)
    if figure is not None:
        assert games and games <= set(PAPER_GAMES)
        assert together == network.startswith("multi")
        assert not together or len(games) == figure.games
        assert jointly or loss == "nll" or (loss, temperature) == ("kl", 0.01)


def test_compression_factors_are_those_of_the_networks_sizes() -> None:
    # 84x84x4 through 8x8/4, 4x4/2 and 3x3/1, then fc1 and 18 actions, every layer with its biases.
    def size(first: int, second: int, third: int, hidden: int) -> int:
        convolutions = (8 * 8 * 4 + 1) * first + (4 * 4 * first + 1) * second + (3 * 3 * second + 1) * third
        return convolutions + (7 * 7 * third + 1) * hidden + (hidden + 1) * 18

    sizes = {"net1": size(16, 32, 32, 256), "net2": size(16, 16, 16, 128), "net3": size(16, 16, 16, 64)}
    for name, parameters in sizes.items():
        assert math.isclose(COMPRESSION_FACTORS[name], size(32, 64, 64, 512) / parameters, rel_tol=1e-12)
