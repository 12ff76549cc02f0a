"""The published results of policy distillation (Rusu et al. 2016), to stand beside ours where they measure the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal

from pd_jax.environments.tasks import PAPER_GAMES

TEMPERATURE = 0.01
"""The paper's, for KL; at another temperature there is no figure of its to compare with."""


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """A published percentage of the teacher's raw score.

    Attributes:
      percent: of one game, or the geometric mean over several.
      games: how many games it is about.
      verified: False for what is quoted from memory and was not found again in a second source: a lead, not a bar.
    """

    percent: float
    games: int
    verified: bool = True


_LOSS_GAMES = ("breakout", "freeway", "pong", "qbert")
_LOSSES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "mse": (33.9, 99.4, 94.4, 122.2),
        "nll": (77.6, 101.4, 94.9, 147.6),
        "kl": (94.7, 103.5, 100.9, 155.0),
    }
)
_COMPRESSION: Mapping[str, float] = MappingProxyType({"net1": 108.3, "net2": 101.7, "net3": 83.9})
COMPRESSION_FACTORS: Mapping[str, float] = MappingProxyType(
    {"net1": 1_693_362 / 427_874, "net2": 1_693_362 / 113_346, "net3": 1_693_362 / 61_954}
)
"""How much smaller than its teacher each network is at the paper's 18 actions."""
_THREE_GAMES = frozenset({"breakout", "freeway", "pong"})
_MULTI_GAME: Mapping[tuple[str, frozenset[str], str], float] = MappingProxyType(
    {
        ("multi3", _THREE_GAMES, "kl"): 116.9,
        ("multi3", _THREE_GAMES, "nll"): 105.1,
        ("multi10", frozenset(PAPER_GAMES), "kl"): 89.3,
    }
)
_JOINTLY_TRAINED: Mapping[tuple[str, frozenset[str]], float] = MappingProxyType({("multi3", _THREE_GAMES): 83.5})


def figure_for_game(
    network: str, loss: str | None, temperature: float | tuple[float, ...] | Literal["auto"] | None, game: str
) -> PaperFigure | None:
    """The paper's comparison of losses: single-game students as large as their teachers, in four games.

    Args:
      network: the student's, ``dqn`` for the size of the paper's teachers.
      loss: ``kl``, ``nll`` or ``mse``.
      temperature: of ``kl``.
      game: our name of it.

    Returns:
      None where the paper measured something else.
    """
    if network != "dqn" or game not in _LOSS_GAMES:
        return None
    if loss is None or loss not in _LOSSES or _is_other_kl(loss, temperature):
        return None
    return PaperFigure(_LOSSES[loss][_LOSS_GAMES.index(game)], games=1, verified=False)


def figure_for_mean(
    network: str,
    loss: str | None,
    temperature: float | tuple[float, ...] | Literal["auto"] | None,
    games: Collection[str],
    *,
    together: bool,
    jointly_trained: bool = False,
) -> PaperFigure | None:
    """The paper's geometric means: compression, and several games in one student.

    The compression figures are over the paper's ten games; some of these games are compared with them, which the
    figure's ``games`` tells apart, and no other game is. A student of several games stands beside the paper's only if
    it has learnt the very same games.

    Args:
      network: by name, such as ``net2`` or ``multi3``.
      loss: ``kl``, ``nll`` or ``mse``; anything in a network that was jointly trained.
      temperature: of ``kl``.
      games: that ours is about.
      together: whether one student plays them all.
      jointly_trained: whether it learnt from rewards (the paper's Multi-DQN), not from teachers.
    """
    names = frozenset(games)
    if jointly_trained:
        percent = _JOINTLY_TRAINED.get((network, names)) if together else None
        return PaperFigure(percent, len(names)) if percent is not None else None
    if loss is None or _is_other_kl(loss, temperature):
        return None
    if together:
        percent = _MULTI_GAME.get((network, names, loss))
        return PaperFigure(percent, len(names)) if percent is not None else None
    if loss == "kl" and network in _COMPRESSION and names and names <= frozenset(PAPER_GAMES):
        return PaperFigure(_COMPRESSION[network], len(PAPER_GAMES))
    return None


def _is_other_kl(loss: str, temperature: float | tuple[float, ...] | Literal["auto"] | None) -> bool:
    return loss == "kl" and temperature != TEMPERATURE
