"""Scores a teacher in training, draws its learning curve and writes its file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import pd_jax
from pd_jax.config.loading import to_mapping
from pd_jax.config.sections import environment_options
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.evaluator import Evaluator
from pd_jax.evaluation.statistics import summarise_scores
from pd_jax.report.figures import plot_learning_curve
from pd_jax.runs.directory import OF_ONE_START
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.metadata import TeacherMetadata

FINAL_SEED_OFFSET = 500_000
"""The last score is taken from other starts than those that chose the best weights: it owes nothing to luck."""


class Keeper:
    """Scores weights of one training, and keeps them in its directory.

    Args:
      config: of the training.
      task: its game.
      network: that learns.
      directory: of the run.
      command: that trains, as the file is to name it.

    Attributes:
      path: ``teacher.safetensors`` in it.
    """

    def __init__(
        self, config: TrainTeacherConfig, task: Task, network: Any, directory: Path, command: str = "train-teacher"
    ) -> None:
        self.path = directory / "teacher.safetensors"
        self._plot_path = directory / "learning_curve.png"
        self._config = config
        self._task = task
        self._network = network
        self._command = command

    def score(
        self, variables: Any, episodes: int, on_progress: Callable[[int, int], None], *, seed_offset: int = 0
    ) -> dict[str, Any]:
        """Plays whole games and summarises them; the same starts for every call with the same ``seed_offset``."""
        evaluation = self._config.evaluation
        evaluator = Evaluator(
            self._task,
            self._network.apply,
            episodes=episodes,
            num_lanes=evaluation.num_lanes,
            epsilon=evaluation.epsilon,
            seed=self._seed(seed_offset),
            environment_options=environment_options(self._config.env)
            | {"max_episode_steps": evaluation.max_episode_steps},
        )
        return summarise_scores(evaluator.run(variables, on_progress).returns)

    def plot(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Draws ``learning_curve.png``, with 95 % intervals and the scores of chance and of a human."""
        points, references = self.panel(curve)
        plot_learning_curve(points, self._plot_path, title=self.title, references=references)

    @property
    def title(self) -> str:
        """Of the learning curve."""
        return f"{self._config.algorithm.upper()}, {self._task.name}"

    def panel(
        self, curve: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tuple[float, float, float, float]], dict[str, float]]:
        """The learning curve as rows ``(step, score, low, high)``, and what it is compared with, by name."""
        points = []
        for point in curve:
            margin = 1.96 * point["standard_error"]
            points.append((point["env_steps"], point["mean"], point["mean"] - margin, point["mean"] + margin))
        references = {"random": self._task.random_score, "human": self._task.human_score}
        return points, {name: score for name, score in references.items() if score is not None}

    def write(
        self,
        params: Any,
        scores: Mapping[str, Any],
        *,
        env_steps: int,
        curve: Sequence[dict[str, Any]],
        seed_offset: int = 0,
    ) -> None:
        """Writes the teacher file.

        Args:
          params: the weights.
          scores: theirs, from ``score`` with the same ``seed_offset``.
          env_steps: control steps behind them.
          curve: of the whole training.
          seed_offset: of the scores.
        """
        save_teacher(
            self.path, params, self.metadata(scores, env_steps=env_steps, curve=curve, seed_offset=seed_offset)
        )

    def metadata(
        self, scores: Mapping[str, Any], *, env_steps: int, curve: Sequence[dict[str, Any]], seed_offset: int = 0
    ) -> TeacherMetadata:
        """What the file is to say of this game; the arguments are those of ``write``. Weights that were not scored have
        no ``scores``."""
        config, task, evaluation = self._config, self._task, self._config.evaluation
        is_atari = task.kind == "atari"
        atari = {"frame_stack": 4, "frame_skip": 4, "grey": True, "scaling": "1/255, inside the network"}
        protocol = {
            "epsilon": evaluation.epsilon,
            "max_noops": config.env.max_noops,
            "max_episode_steps": evaluation.max_episode_steps or task.max_episode_steps,
            "seed": self._seed(seed_offset),
        }
        several: dict[str, Any] = {}
        if config.num_games > 1:
            several = {name: getattr(config, name) for name in ("channels", "hidden", "head_hidden")}
            several["games"] = config.game
        return TeacherMetadata(
            name=f"{task.name}-{config.network}",
            game=task.name,
            env_id=task.env_id,
            network=config.network,
            layer_norm=config.uses_layer_norm,
            hidden_sizes=() if is_atari else config.mlp_hidden,
            **several,
            num_actions=task.num_actions,
            action_names=task.action_names,
            observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype}
            | (atari if is_atari else {}),
            output="q",
            algorithm=config.algorithm,
            env_steps=env_steps,
            seed=config.seed,
            training_config={key: value for key, value in run_settings(config).items() if key != "out"},
            evaluation={**scores, **protocol} if scores else {},
            learning_curve=list(curve),
            how_made=f"pd-jax {self._command} on {jax.default_backend()}",
            licence="Apache-2.0",
            created=datetime.date.today().isoformat(),
            pd_jax_version=pd_jax.__version__,
        )

    def _seed(self, offset: int) -> int:
        return self._config.seed + self._config.evaluation.seed_offset + offset


def run_settings(config: TrainTeacherConfig) -> dict[str, Any]:
    """The settings that say what a training is: with those of its own algorithm, and no other's.

    A run of a single game says nothing of what is for several: runs from before there was such a thing go on.
    """
    left_out = {config.other_algorithm, *OF_ONE_START}
    settings = to_mapping(config)
    if config.num_games == 1:
        left_out |= {"channels", "hidden", "head_hidden"}
        settings["dqn"].pop("games")
    return {key: value for key, value in settings.items() if key not in left_out}
