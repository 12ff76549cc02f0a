"""The scores of a teacher in training, and which of its weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError
from pd_jax.evaluation.games import play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.runs.metrics import score_values
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress, print_warning
from pd_jax.teachers.files import read_games
from pd_jax.trainers.counters import TrainingCounters
from pd_jax.trainers.normalised_score import NormalisedScore
from pd_jax.trainers.setup import TrainingSetup
from pd_jax.trainers.teacher_writer import FINAL_SEED_OFFSET, TeachersWriter, curve_point
from pd_jax.types import PolicyApply

Scores = Mapping[str, Score]
"""By game."""


class TrainingScorer:
    """Plays whole games with weights of a training, and keeps the best of them in its teacher file.

    Args:
      setup: of the training.
      directory: of the run.
      progress: says what is being evaluated.
      interrupts: heeded every few steps.

    Attributes:
      path: ``teacher.safetensors``.
      normalised: tells better weights from worse ones.
    """

    def __init__(self, setup: TrainingSetup, directory: Path, progress: Progress, interrupts: Interrupts) -> None:
        self._setup, self._evaluation = setup, setup.config.evaluation
        self._progress, self._interrupts = progress, interrupts
        self._writer = TeachersWriter(setup.config, setup.tasks, directory)
        self.path = self._writer.path
        self.normalised = NormalisedScore(setup.tasks)
        for name in self.normalised.unknown:
            print_warning(f"{name}: no score to compare with is known; other games decide which weights are kept")

    def compare_with(self, references: Mapping[str, float]) -> None:
        """Has the learning curve show these scores too, by name."""
        self._writer.compare_with(references)

    def score_policy(self, apply: PolicyApply, variables: Any, who: str) -> Score:
        """The score of another policy of the only game, on the starts of the last score."""
        (task,) = self._setup.tasks
        protocol = Protocol.of(self._setup.config, task, seed_offset=FINAL_SEED_OFFSET)

        def on_progress(finished: int, wanted: int) -> None:
            self._progress.status(f"evaluating {who}: {finished} of {wanted} games")
            self._interrupts.check()

        return Score.of(play_games(apply, variables, task, protocol, on_progress=on_progress).returns)

    def on_the_way(self, variables: Any, counters: TrainingCounters) -> dict[str, float | None]:
        """Adds a point to the learning curve, writes the teacher file if it is the best so far, and returns metrics."""
        scores = self._score(variables, self._evaluation.progress_episodes)
        mean = self.normalised.of(scores)
        # A run that is resumed at its end evaluates again what it may have evaluated before.
        counters.curve = [point for point in counters.curve if point["env_steps"] != counters.env_steps]
        counters.curve.append(curve_point(counters.env_steps, scores, mean))
        try:
            if self._evaluation.snapshots:
                # As a list of files is sorted, so are the steps.
                path = self.path.parent / "snapshots" / f"{counters.env_steps:012d}{self.path.suffix}"
                self._write(variables, scores, counters, env_steps=counters.env_steps, path=path)
            if counters.best_mean is None or mean is None or mean >= counters.best_mean:
                counters.best_env_steps = counters.env_steps
                self._write(variables, scores, counters)
                counters.best_mean = mean
            self._writer.plot(counters.curve)
        # A full disk does not end the training: the next point of the curve tries again.
        except UserError as error:
            print_warning(str(error))
        except OSError as error:
            print_warning(f"{error.filename}: cannot be written: {error.strerror}")
        values = {name: value for game, score in scores.items() for name, value in score_values(game, score).items()}
        return values | ({"normalised_score": mean} if len(scores) > 1 else {})

    def finish(self, variables: Any, counters: TrainingCounters) -> tuple[Any, Scores]:
        """Picks between the best weights and the last, scores these on fresh starts and writes the teacher file.

        Args:
          variables: the last ones.
          counters: where the training stands.

        Returns:
          the variables that are kept, and their scores.
        """
        params, (best, *_) = read_games(self.path)
        counters.best_env_steps = best.env_steps or counters.env_steps
        kept: Any = self._setup.variables_of(params, best)
        episodes = self._evaluation.episodes
        if counters.best_env_steps != counters.env_steps:
            # The best of many short evaluations was lucky too; over more games the last weights are often better.
            best_mean = self.normalised.of(self._score(kept, episodes))
            last_mean = self.normalised.of(self._score(variables, episodes))
            if best_mean is None or last_mean is None or last_mean >= best_mean:
                counters.best_env_steps, kept = counters.env_steps, variables
        scores = self._score(kept, episodes, FINAL_SEED_OFFSET)
        self._write(kept, scores, counters, FINAL_SEED_OFFSET)
        return kept, scores

    def _score(self, variables: Any, episodes: int, seed_offset: int = 0) -> Scores:
        """Scores by game, of the same starts for every call with the same ``seed_offset``."""

        def on_progress(finished: int, wanted: int) -> None:
            self._progress.status(f"evaluating: {finished} of {wanted} games")
            self._interrupts.check()

        scores = {}
        for task, network in zip(self._setup.tasks, self._setup.networks, strict=True):
            protocol = Protocol.of(self._setup.config, task, episodes=episodes, seed_offset=seed_offset)
            played = play_games(network.apply, variables, task, protocol, on_progress=on_progress)
            scores[task.name] = Score.of(played.returns)
        return scores

    def _write(
        self,
        variables: Any,
        scores: Scores,
        counters: TrainingCounters,
        seed_offset: int = 0,
        *,
        env_steps: int | None = None,
        path: Path | None = None,
    ) -> None:
        self._writer.write(
            variables["params"],
            scores,
            env_steps=counters.best_env_steps if env_steps is None else env_steps,
            curve=counters.curve,
            seed_offset=seed_offset,
            path=path,
            normalisation=self._setup.normalisation(variables),
        )
