"""Scores a teacher in training, draws its learning curve and writes its file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import pd_jax
from pd_jax.config import TrainTeacherConfig
from pd_jax.config_loading import to_mapping
from pd_jax.evaluation import Evaluator
from pd_jax.play import environment_options
from pd_jax.reporting.plots import plot_learning_curve, plot_learning_curves
from pd_jax.reporting.summary import summarise_scores
from pd_jax.tasks import Task
from pd_jax.teachers.files import TeacherMetadata, save_teacher

FINAL_SEED_OFFSET = 500_000
"""The last score is taken from other starts than those that chose the best weights: it owes nothing to luck."""


Scores = dict[str, dict[str, Any]]
"""By game, what `pd_jax.reporting.summary.summarise_scores` gives."""


class Keeper:
    """Scores weights of one training, and keeps them in its directory.

    Args:
      config: of the training.
      tasks: its games.
      networks: that learn, one for each game: one network's views if it learns several.
      directory: of the run.

    Attributes:
      path: ``teacher.safetensors`` in it.
    """

    def __init__(
        self, config: TrainTeacherConfig, tasks: Sequence[Task], networks: Sequence[Any], directory: Path
    ) -> None:
        self.path = directory / "teacher.safetensors"
        self._plot_path = directory / "learning_curve.png"
        self._config = config
        self._tasks = tuple(tasks)
        self._networks = tuple(networks)

    def score(
        self, variables: Any, episodes: int, on_progress: Callable[[int, int], None], *, seed_offset: int = 0
    ) -> Scores:
        """Plays whole games and summarises them; the same starts for every call with the same ``seed_offset``."""
        evaluation = self._config.evaluation
        scores = {}
        for task, network in zip(self._tasks, self._networks, strict=True):
            evaluator = Evaluator(
                task,
                network.apply,
                episodes=episodes,
                num_lanes=evaluation.num_lanes,
                epsilon=evaluation.epsilon,
                seed=self._seed(seed_offset),
                environment_options=environment_options(self._config.env)
                | {"max_episode_steps": evaluation.max_episode_steps},
            )
            scores[task.name] = summarise_scores(evaluator.run(variables, on_progress).returns)
        return scores

    def plot(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Draws ``learning_curve.png``, with 95 % intervals and the scores of chance and of a human."""
        curves = {}
        for task in self._tasks:
            points = []
            for point in self._curve(curve, task):
                margin = 1.96 * point["standard_error"]
                points.append((point["env_steps"], point["mean"], point["mean"] - margin, point["mean"] + margin))
            references = {"random": task.random_score, "human": task.human_score}
            known = {name: score for name, score in references.items() if score is not None}
            curves[f"{self._config.algorithm.upper()}, {task.name}"] = points, known
        if len(curves) > 1:
            plot_learning_curves(curves, self._plot_path, x_label="environment steps of all games")
            return
        ((title, (points, known)),) = curves.items()
        plot_learning_curve(points, self._plot_path, title=title, references=known)

    def write(
        self,
        params: Any,
        scores: Scores,
        *,
        env_steps: int,
        curve: Sequence[dict[str, Any]],
        seed_offset: int = 0,
    ) -> None:
        """Writes the teacher file.

        Args:
          params: the weights.
          scores: theirs, from ``score`` with the same ``seed_offset``.
          env_steps: control steps behind them, of all games.
          curve: of the whole training.
          seed_offset: of the scores.
        """
        metadata = [
            self._metadata(task, scores[task.name], env_steps, self._curve(curve, task), seed_offset)
            for task in self._tasks
        ]
        save_teacher(self.path, params, metadata[0] if len(metadata) == 1 else metadata)

    def _metadata(
        self, task: Task, scores: Mapping[str, Any], env_steps: int, curve: list[dict[str, Any]], seed_offset: int
    ) -> TeacherMetadata:
        config, evaluation = self._config, self._config.evaluation
        is_atari = task.kind == "atari"
        atari = {"frame_stack": 4, "frame_skip": 4, "grey": True, "scaling": "1/255, inside the network"}
        several: dict[str, Any] = {}
        if len(self._tasks) > 1:
            several = {"games": tuple(task.name for task in self._tasks)}
            several |= {name: getattr(config, name) for name in ("channels", "hidden", "head_hidden")}
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
            evaluation={
                **scores,
                "epsilon": evaluation.epsilon,
                "max_noops": config.env.max_noops,
                "max_episode_steps": evaluation.max_episode_steps or task.max_episode_steps,
                "seed": self._seed(seed_offset),
            },
            learning_curve=curve,
            how_made=f"pd-jax train-teacher on {jax.default_backend()}",
            licence="Apache-2.0",
            created=datetime.date.today().isoformat(),
            pd_jax_version=pd_jax.__version__,
        )

    def _curve(self, curve: Sequence[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
        """One game's learning curve."""
        if len(self._tasks) == 1:
            return [dict(point) for point in curve]
        return [{"env_steps": point["env_steps"], **point["games"][task.name]} for point in curve]

    def _seed(self, offset: int) -> int:
        return self._config.seed + self._config.evaluation.seed_offset + offset


def curve_point(env_steps: int, scores: Scores, merit: float | None) -> dict[str, Any]:
    """A point of the learning curve: of one game as in the teacher file; of several, each one's under ``games``."""
    games = {game: {name: own[name] for name in ("mean", "standard_error", "episodes")} for game, own in scores.items()}
    if len(games) == 1:
        return {"env_steps": env_steps} | next(iter(games.values()))
    return {"env_steps": env_steps, "mean": merit, "games": games}


def run_settings(config: TrainTeacherConfig) -> dict[str, Any]:
    """The settings that say what a training is: with those of its own algorithm, and no other's.

    A run of a single game says nothing of what is for several: runs from before there was such a thing go on.
    """
    left_out = {{"pqn": "dqn", "dqn": "pqn"}[config.algorithm], "resume"}
    settings = to_mapping(config)
    if config.num_games == 1:
        left_out |= {"channels", "hidden", "head_hidden"}
        settings["dqn"].pop("games")
    return {key: value for key, value in settings.items() if key not in left_out}
