"""What a training tells: its metrics on the way and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.trainers.normalised_score import NormalisedScore
from pd_jax.trainers.teacher_files import Scores

_ABOUT_PLAY = ("games", "game_return", "epsilon")


def iteration_numbers(values: Mapping[str, Any], games: Sequence[str]) -> tuple[dict[str, float], list[float]]:
    """The line of metrics for what an iteration returns.

    Args:
      values: as `pd_jax.trainers.algorithm.Iteration` gives them, on the host.
      games: names of the games.

    Returns:
      Numbers by name, those of one of several games as ``GAME/NAME``; and the mean returns of the games that ended, one
      for each task in which any did. What describes updates is left out if there were none, and what describes games
      that ended likewise.
    """
    numbers = {name: float(value) for name, value in values.items() if name != "by_game"}
    if not numbers.pop("updates"):
        # A replay that is filling up: what describes updates describes nothing yet.
        numbers = {name: value for name, value in numbers.items() if name in _ABOUT_PLAY}
    if "by_game" not in values:
        return numbers, _note_games(numbers)
    returns = []
    for index, game in enumerate(games):
        own = {name: float(value[index]) for name, value in values["by_game"].items()}
        if "loss" not in numbers:
            own = {name: value for name, value in own.items() if name in _ABOUT_PLAY}
        returns += _note_games(own)
        numbers |= {f"{game}/{name}": value for name, value in own.items()}
    return numbers, returns


def _note_games(numbers: dict[str, float]) -> list[float]:
    """Moves what describes games that ended to the end of the line, or out of it."""
    games, game_return = numbers.pop("games"), numbers.pop("game_return")
    if games <= 0:
        return []
    numbers |= {"game_return": game_return, "games": games}
    return [game_return]


def summarise_game(
    config: TrainTeacherConfig, path: str, scores: Scores, merit: NormalisedScore, parameters: int
) -> dict[str, Any]:
    """The first part of the summary of one game's teacher.

    Args:
      config: of the training.
      path: of the teacher file.
      scores: of its weights.
      merit: how they were chosen.
      parameters: of the network.
    """
    ((game, own),) = scores.items()
    return {
        "game": game,
        "algorithm": config.algorithm,
        "teacher": path,
        **_named(own),
        "epsilon": config.evaluation.epsilon,
    }


def summarise_games(
    config: TrainTeacherConfig, path: str, scores: Scores, merit: NormalisedScore, parameters: int
) -> dict[str, Any]:
    """The first part of the summary of a network of several games; the arguments are those of :func:`summarise_game`.

    Each of ``games`` has, beside its score, that of random play, the reference that it was compared with, and its
    ``normalised_score``, of which the mean over the games decided which weights were kept.
    """
    shares = merit.normalised(scores)
    games = {}
    for task, reference in zip(merit.tasks, merit.references, strict=True):
        games[task.name] = _named(scores[task.name]) | {
            "random_score": task.random_score,
            "reference": None if reference is None else reference.name,
            "reference_score": None if reference is None else reference.score,
            "normalised_score": shares[task.name],
        }
    return {
        "games": games,
        "normalised_score": merit.of(scores),
        "algorithm": config.algorithm,
        "network": config.network,
        "teacher": path,
        "teacher_parameters": parameters,
        "epsilon": config.evaluation.epsilon,
    }


def _named(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "teacher_score": scores["mean"],
        "teacher_standard_error": scores["standard_error"],
        "teacher_ci95": scores["ci95"],
        "episodes": scores["episodes"],
    }
