"""What a training tells: its metrics on the way and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_jax.evaluation.scores import Score
from pd_jax.runs.summary import GameSummary, Summary
from pd_jax.trainers.counters import TrainingCounters
from pd_jax.trainers.normalised_score import NormalisedScore
from pd_jax.trainers.setup import TrainingSetup

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


def summarise_training(
    setup: TrainingSetup,
    counters: TrainingCounters,
    scores: Mapping[str, Score],
    normalised: NormalisedScore,
    *,
    path: str,
    updates: int,
    parameters: int,
    speed: Mapping[str, Any],
    wall_seconds: float,
) -> Summary:
    """The summary of a training.

    Each of several ``games`` has, beside its score, that of random play, the reference that it was compared with, and
    its ``normalised_score``, of which the mean over the games decided which weights were kept.

    Args:
      setup: of the training.
      counters: where it stands at its end.
      scores: of the weights that are kept, by game.
      normalised: how they were chosen.
      path: of the teacher file.
      updates: that it took.
      parameters: of the network.
      speed: what `pd_jax.resources.pace.Pace.summarise` says.
      wall_seconds: in all sessions together.
    """
    config = setup.config
    about: dict[str, Any] = {"algorithm": config.algorithm, "teacher": path, "epsilon": config.evaluation.epsilon}
    if setup.is_joint:
        about |= {"normalised_score": normalised.of(scores), "network": config.network}
    cost = {"teacher_env_steps": counters.best_env_steps, "learning_curve": counters.curve, **speed}
    about_games = _about_games(scores, normalised) if setup.is_joint else {}
    return Summary(
        games={
            task.name: GameSummary(
                scores[task.name], None, task.random_score if setup.is_joint else None, about_games.get(task.name, {})
            )
            for task in setup.tasks
        },
        teacher_parameters=parameters if setup.is_joint else None,
        wall_seconds=wall_seconds,
        env_steps=counters.env_steps,
        updates=updates,
        about=about | cost,
        is_flat=not setup.is_joint,
    )


def _about_games(scores: Mapping[str, Score], normalised: NormalisedScore) -> dict[str, dict[str, Any]]:
    shares = normalised.normalised(scores)
    return {
        task.name: {
            "reference": None if reference is None else reference.name,
            "reference_score": None if reference is None else reference.score,
            "normalised_score": shares[task.name],
        }
        for task, reference in zip(normalised.tasks, normalised.references, strict=True)
    }
