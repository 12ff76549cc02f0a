"""The teacher file that a training leaves, and the figure of its learning curve."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.loading import to_mapping
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.protocols import PROTOCOLS
from pd_jax.environments.registered import is_registered
from pd_jax.environments.spaces import simulator_of
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.report.figures import plot_learning_curve, plot_learning_curves
from pd_jax.runs.directory import OF_ONE_START
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.version import __version__

FINAL_SEED_OFFSET = 500_000
"""The last score is taken from other starts than those that chose the best weights: it owes nothing to luck."""


class TeacherWriter:
    """Keeps the weights of a game's teacher in the directory of its training.

    Args:
      config: of the training.
      task: its game.
      directory: of the run.
      command: that trains, as the file is to name it.

    Attributes:
      path: ``teacher.safetensors`` in it.
    """

    def __init__(self, config: TrainTeacherConfig, task: Task, directory: Path, command: str = "train-teacher") -> None:
        self.path = directory / "teacher.safetensors"
        self._plot_path = directory / "learning_curve.png"
        self._config = config
        self._task = task
        self._command = command
        self._references: dict[str, float] = {}

    def plot(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Draws ``learning_curve.png``, with 95 % intervals and the scores of chance and of a human."""
        points, references = self.panel(curve)
        plot_learning_curve(points, self._plot_path, title=self.title, references=references)

    def compare_with(self, references: Mapping[str, float]) -> None:
        """Has the learning curve show these scores too, by name."""
        self._references |= references

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
        references = {"random": self._task.random_score, "human": self._task.human_score, **self._references}
        return points, {name: score for name, score in references.items() if score is not None}

    def write(
        self,
        params: Any,
        score: Score,
        *,
        env_steps: int,
        curve: Sequence[dict[str, Any]],
        seed_offset: int = 0,
        path: Path | None = None,
        normalisation: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the teacher file.

        Args:
          params: the weights.
          score: theirs.
          env_steps: control steps behind them.
          curve: of the whole training.
          seed_offset: of the score's protocol.
          path: another file than :attr:`path`.
          normalisation: of what the network sees, as `TeacherMetadata` has it.
        """
        metadata = self.metadata(score, env_steps=env_steps, curve=curve, seed_offset=seed_offset)
        metadata = dataclasses.replace(metadata, normalisation=dict(normalisation or {}))
        save_teacher(path or self.path, params, metadata)

    def metadata(
        self, score: Score | None, *, env_steps: int, curve: Sequence[dict[str, Any]], seed_offset: int = 0
    ) -> TeacherMetadata:
        """What the file is to say of this game; the arguments are those of ``write``. Weights that were not scored have
        no ``score``."""
        config, task = self._config, self._task
        is_atari = task.kind == "atari"
        atari = {"frame_stack": 4, "frame_skip": 4, "grey": True, "scaling": "1/255, inside the network"}
        protocol = Protocol.of(config, task, seed_offset=seed_offset).to_json()
        told = {name: protocol[name] for name in ("epsilon", "max_noops", "max_episode_steps", "seed")}
        if config.protocol in PROTOCOLS:
            told["protocol"] = config.protocol
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
            **_of_policy(config, task),
            algorithm=config.algorithm,
            env_steps=env_steps,
            seed=config.seed,
            training_config={key: value for key, value in run_settings(config).items() if key != "out"},
            evaluation={} if score is None else {**score.to_json(), **told},
            learning_curve=list(curve),
            how_made=f"pd-jax {self._command} on {DeviceGroup.local(1).platform}{_guidance(config)}",
            licence="Apache-2.0",
            created=datetime.date.today().isoformat(),
            pd_jax_version=__version__,
        )


class TeachersWriter:
    """A :class:`TeacherWriter` for every game of a training: one, or several that share a network and a file.

    Args:
      config: of the training.
      tasks: its games.
      directory: of the run.

    Attributes:
      path: ``teacher.safetensors`` in it.
    """

    def __init__(self, config: TrainTeacherConfig, tasks: Sequence[Task], directory: Path) -> None:
        self._writers = {task.name: TeacherWriter(config, task, directory) for task in tasks}
        self._first = self._writers[tasks[0].name]
        self._plot_path = directory / "learning_curve.png"
        self.path = self._first.path

    def compare_with(self, references: Mapping[str, float]) -> None:
        """As :meth:`TeacherWriter.compare_with`, of the first game."""
        self._first.compare_with(references)

    def plot(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Draws ``learning_curve.png``, a panel for each game, as :meth:`TeacherWriter.plot` does."""
        if len(self._writers) == 1:
            self._first.plot(curve)
            return
        panels = {writer.title: writer.panel(_curve_of(curve, game)) for game, writer in self._writers.items()}
        plot_learning_curves(panels, self._plot_path, x_label="environment steps of all games")

    def write(
        self,
        params: Any,
        scores: Mapping[str, Score],
        *,
        env_steps: int,
        curve: Sequence[dict[str, Any]],
        seed_offset: int = 0,
        path: Path | None = None,
        normalisation: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the teacher file.

        Args:
          params: the weights.
          scores: theirs, by game.
          env_steps: control steps behind them, of all games.
          curve: of the whole training, points of `curve_point`.
          seed_offset: of the scores' protocol.
          path: another file than :attr:`path`.
          normalisation: of what the network of one game sees, as `TeacherMetadata` has it.
        """
        if len(self._writers) == 1:
            ((game, writer),) = self._writers.items()
            writer.write(
                params,
                scores[game],
                env_steps=env_steps,
                curve=curve,
                seed_offset=seed_offset,
                path=path,
                normalisation=normalisation,
            )
            return
        metadata = [
            writer.metadata(scores[game], env_steps=env_steps, curve=_curve_of(curve, game), seed_offset=seed_offset)
            for game, writer in self._writers.items()
        ]
        save_teacher(path or self.path, params, metadata)


def curve_point(env_steps: int, scores: Mapping[str, Score], mean: float | None) -> dict[str, Any]:
    """A point of the learning curve: of one game as in the teacher file; of several, each one's under ``games``."""
    games = {game: score.point() for game, score in scores.items()}
    if len(games) == 1:
        return {"env_steps": env_steps} | next(iter(games.values()))
    return {"env_steps": env_steps, "mean": mean, "games": games}


def _curve_of(curve: Sequence[Mapping[str, Any]], game: str) -> list[dict[str, Any]]:
    return [{"env_steps": point["env_steps"], **point["games"][game]} for point in curve]


def _of_policy(config: TrainTeacherConfig, task: Task) -> dict[str, Any]:
    """What a file says of the outputs, and of the layers before them."""
    if config.algorithm != "ppo":
        return {"output": "q"}
    return {
        "output": "gaussian",
        "activation": config.ppo.activation,
        "action_low": task.action_low,
        "action_high": task.action_high,
        "simulator": "" if is_registered(task) else simulator_of(task.env_id),
    }


def _guidance(config: TrainTeacherConfig) -> str:
    """How a file says from whom its weights have learnt beside their rewards."""
    if not config.guidance.is_on:
        return ""
    start = "" if config.init_from is None else f", from {config.init_from!r}"
    return f"{start}, guided by {config.guidance.teacher!r}"


def run_settings(config: TrainTeacherConfig) -> dict[str, Any]:
    """The settings that say what a training is: with those of its own algorithm, and no other's.

    A run of a single game says nothing of what is for several, and one without a teacher that guides nothing of
    guidance: runs from before there was such a thing go on.
    """
    left_out: set[str] = {*config.other_algorithms, *OF_ONE_START}
    settings = to_mapping(config)
    if not config.guidance.is_on:
        left_out.add("guidance")
    if config.num_games == 1:
        left_out |= {"channels", "hidden", "head_hidden"}
        settings["dqn"].pop("games")
    return {key: value for key, value in settings.items() if key not in left_out}
