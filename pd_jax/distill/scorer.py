"""The scores of a distillation's student and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pd_jax.distill.setup import DistillSetup
from pd_jax.evaluation.comparison import Comparison
from pd_jax.evaluation.evaluator import OnStep
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.sampled_states import SampledStates
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import mean_percent
from pd_jax.learner.objective import student_temperature
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.runs.metrics import score_values
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress


class Scorer:
    """Plays whole games; students and teachers meet the same seeds.

    Args:
      setup: of the run.
      progress: gets a meter of the games.
      interrupts: heeded after every step.
    """

    def __init__(self, setup: DistillSetup, progress: Progress, interrupts: Interrupts) -> None:
        self._setup = setup
        self._config = setup.config
        self._progress = progress
        self._interrupts = interrupts
        self._meter = progress.add("games", self._config.evaluation.episodes)
        self._teacher_means: dict[str, float] | None = None
        """The teachers' scores under the protocol of the evaluations on the way, once they are needed."""
        self._sampled: dict[str, SampledStates] = {}
        """By game, states of the student's final games."""

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
        for game, name in enumerate(self._setup.names):
            score = self.play_student(variables, game, episodes)
            values |= score_values(name, score)
            means[name] = score.mean
        if len(means) == 1:
            return values, means[self._setup.names[0]]
        percent = values["mean_percent"] = self._mean_percent(means)
        return values, percent

    def score_both(self, variables: Any) -> tuple[dict[str, Score], dict[str, Score]]:
        """Plays the games that a run ends with.

        Args:
          variables: the student's.

        Returns:
          scores by game: the teachers' and the student's.
        """
        episodes = self._config.evaluation.episodes
        student: dict[str, Score] = {}
        teacher: dict[str, Score] = {}
        for game, name in enumerate(self._setup.names):
            policy, seen = self._setup.student.policy(game), self._setup.student.tasks[game]
            beside = (policy, variables) if isinstance(policy, LanePolicy) else None
            if not seen.is_continuous and not self._setup.teachers[game].carries:
                self._sampled[name] = SampledStates(self._setup.tasks[game], student=beside, seen=seen)
            student[name] = self.play_student(variables, game, episodes, self._sampled.get(name))
            known = self._setup.teacher_scores.get(name)
            teacher[name] = known.score if known else self._play_teacher(game, episodes)
        return teacher, student

    @property
    def sampled(self) -> Mapping[str, SampledStates]:
        """By game, states of the student's final games, until :meth:`compare` has asked about them."""
        return self._sampled

    def compare(self, variables: Any) -> dict[str, Comparison]:
        """By game, what the student chooses in its final games where its teacher would choose; not of continuous ones.

        Args:
          variables: the student's, which :meth:`score_both` was given.
        """
        setup, found = self._setup, {}
        for game, name in enumerate(setup.names):
            if name not in self._sampled:
                continue
            self._progress.status(
                f"asking the teacher{f' of {name}' * (len(setup.names) > 1)} about the student's games"
            )
            self._interrupts.check()
            teacher = setup.teachers[game]
            found[name] = self._sampled.pop(name).compare(
                (teacher.network.apply, teacher.variables),
                (setup.student.policy(game), variables),
                student_temperature=student_temperature(self._config.loss, game, gives_logits=teacher.gives_logits),
                gives_logits=teacher.gives_logits,
            )
        return found

    def _mean_percent(self, means: Mapping[str, float]) -> float | None:
        if self._teacher_means is None:
            episodes, games = self._config.evaluation.progress_episodes, enumerate(self._setup.names)
            self._teacher_means = {name: self._play_teacher(game, episodes).mean for game, name in games}
        randoms = {task.name: task.random_score for task in self._setup.tasks if task.random_score is not None}
        return mean_percent(means, self._teacher_means, randoms)

    def play_student(self, variables: Any, game: int, episodes: int, on_step: OnStep | None = None) -> Score:
        """The student's score in the game at a place."""
        return self._play("student", self._setup.student.player(game), variables, game, episodes, on_step)

    def _play_teacher(self, game: int, episodes: int) -> Score:
        teacher = self._setup.teachers[game]
        return self._play("teacher", teacher.network.apply, teacher.variables, game, episodes)

    def _play(
        self, who: str, apply: Any, variables: Any, game: int, episodes: int, on_step: OnStep | None = None
    ) -> Score:
        setup, task = self._setup, self._setup.tasks[game]
        of_game = f" in {task.name}" if len(setup.tasks) > 1 else ""
        self._progress.status(f"evaluating the {who}{of_game}")
        self._meter.reset(episodes)
        protocol = Protocol.of(self._config, task, episodes=episodes)
        on_progress = heeding(self._interrupts, self._meter)
        games = play_games(apply, variables, task, protocol, on_progress=on_progress, on_step=on_step)
        return Score.of(games.returns)
