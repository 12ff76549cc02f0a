"""Scores a network in all games of its training, draws their learning curves and writes its one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.tasks import Task
from pd_jax.report.figures import plot_learning_curves
from pd_jax.teachers.files import save_teacher
from pd_jax.trainers.teacher_file import Keeper

Scores = dict[str, dict[str, Any]]
"""By game, what `pd_jax.evaluation.statistics.summarise_scores` gives."""


class Keepers:
    """A `pd_jax.trainers.teacher_file.Keeper` for every game of a training: one, or several that share a network.

    Args:
      config: of the training.
      tasks: its games.
      networks: what plays each of them.
      directory: of the run.

    Attributes:
      path: ``teacher.safetensors`` in it.
    """

    def __init__(
        self, config: TrainTeacherConfig, tasks: Sequence[Task], networks: Sequence[Any], directory: Path
    ) -> None:
        pairs = zip(tasks, networks, strict=True)
        self._keepers = {task.name: Keeper(config, task, network, directory) for task, network in pairs}
        self._first = self._keepers[tasks[0].name]
        self._plot_path = directory / "learning_curve.png"
        self.path = self._first.path

    def score(
        self, variables: Any, episodes: int, on_progress: Callable[[int, int], None], *, seed_offset: int = 0
    ) -> Scores:
        """Plays whole games and summarises them; the same starts for every call with the same ``seed_offset``."""
        return {
            game: keeper.score(variables, episodes, on_progress, seed_offset=seed_offset)
            for game, keeper in self._keepers.items()
        }

    def plot(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Draws ``learning_curve.png``, a panel for each game, as `pd_jax.trainers.teacher_file.Keeper.plot` does."""
        if len(self._keepers) == 1:
            self._first.plot(curve)
            return
        panels = {keeper.title: keeper.panel(_curve_of(curve, game)) for game, keeper in self._keepers.items()}
        plot_learning_curves(panels, self._plot_path, x_label="environment steps of all games")

    def write(
        self, params: Any, scores: Scores, *, env_steps: int, curve: Sequence[dict[str, Any]], seed_offset: int = 0
    ) -> None:
        """Writes the teacher file.

        Args:
          params: the weights.
          scores: theirs, from ``score`` with the same ``seed_offset``.
          env_steps: control steps behind them, of all games.
          curve: of the whole training, points of `curve_point`.
          seed_offset: of the scores.
        """
        if len(self._keepers) == 1:
            ((game, keeper),) = self._keepers.items()
            keeper.write(params, scores[game], env_steps=env_steps, curve=curve, seed_offset=seed_offset)
            return
        metadata = [
            keeper.metadata(scores[game], env_steps=env_steps, curve=_curve_of(curve, game), seed_offset=seed_offset)
            for game, keeper in self._keepers.items()
        ]
        save_teacher(self.path, params, metadata)


def curve_point(env_steps: int, scores: Scores, merit: float | None) -> dict[str, Any]:
    """A point of the learning curve: of one game as in the teacher file; of several, each one's under ``games``."""
    games = {game: {name: own[name] for name in ("mean", "standard_error", "episodes")} for game, own in scores.items()}
    if len(games) == 1:
        return {"env_steps": env_steps} | next(iter(games.values()))
    return {"env_steps": env_steps, "mean": merit, "games": games}


def _curve_of(curve: Sequence[Mapping[str, Any]], game: str) -> list[dict[str, Any]]:
    return [{"env_steps": point["env_steps"], **point["games"][game]} for point in curve]
