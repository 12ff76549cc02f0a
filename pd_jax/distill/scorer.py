"""The scores of a distillation's student and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pd_jax.distill.setup import DistillSetup
from pd_jax.distill.summary import random_scores
from pd_jax.evaluation.protocol import play_games
from pd_jax.evaluation.statistics import Scores, mean_percent, summarise_scores
from pd_jax.runs.metrics import score_values
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress


class Scorer:
    """Plays whole games; students and teachers meet the same seeds.

    Args:
      setting: of the run.
      progress: gets a meter of the games.
      interrupts: heeded after every step.
    """

    def __init__(self, setting: DistillSetup, progress: Progress, interrupts: Interrupts) -> None:
        self._setting = setting
        self._config = setting.config
        self._progress = progress
        self._interrupts = interrupts
        self._meter = progress.add("games", self._config.evaluation.episodes)
        self._teacher_means: dict[str, float] | None = None
        """The teachers' scores under the protocol of the evaluations on the way, once they are needed."""

    def score_on_the_way(self, variables: Any) -> tuple[dict[str, float | None], float | None]:
        """Plays the few games that training waits for.

        Args:
          variables: the student's.

        Returns:
          metrics, and the number that says which checkpoint is best.
        """
        episodes = self._config.evaluation.progress_episodes
        means: dict[str, float] = {}
        values: dict[str, float | None] = {}
        for game, name in enumerate(self._setting.names):
            scores = summarise_scores(self._play_student(variables, game, episodes))
            values |= score_values(name, scores)
            means[name] = scores["mean"]
        if len(means) == 1:
            return values, means[self._setting.names[0]]
        score = values["mean_percent"] = self._mean_percent(means)
        return values, score

    def score_both(self, variables: Any) -> tuple[dict[str, Scores], dict[str, Scores]]:
        """Plays the games that a run ends with.

        Args:
          variables: the student's.

        Returns:
          returns of whole episodes, by game: the teachers' and the student's.
        """
        episodes = self._config.evaluation.episodes
        student: dict[str, Scores] = {}
        teacher: dict[str, Scores] = {}
        for game, name in enumerate(self._setting.names):
            student[name] = self._play_student(variables, game, episodes)
            known = self._setting.teacher_scores.get(name)
            teacher[name] = known.scores if known else self._play_teacher(game, episodes)
        return teacher, student

    def _mean_percent(self, means: Mapping[str, float]) -> float | None:
        if self._teacher_means is None:
            episodes, games = self._config.evaluation.progress_episodes, enumerate(self._setting.names)
            self._teacher_means = {name: float(self._play_teacher(game, episodes).mean()) for game, name in games}
        return mean_percent(means, self._teacher_means, random_scores(self._setting))

    def _play_student(self, variables: Any, game: int, episodes: int) -> np.ndarray:
        return self._play("student", self._setting.student.policy(game), variables, game, episodes)

    def _play_teacher(self, game: int, episodes: int) -> np.ndarray:
        teacher = self._setting.teachers[game]
        return self._play("teacher", teacher.network.apply, teacher.variables, game, episodes)

    def _play(self, who: str, apply: Any, variables: Any, game: int, episodes: int) -> np.ndarray:
        setting = self._setting
        of_game = f" in {setting.names[game]}" if len(setting.tasks) > 1 else ""
        self._progress.status(f"evaluating the {who}{of_game}")
        self._meter.reset(episodes)
        return play_games(
            apply,
            variables,
            setting.tasks[game],
            self._config.evaluation,
            self._config.env,
            episodes=episodes,
            seed=self._config.seed,
            meter=self._meter,
            interrupts=self._interrupts,
        ).returns
