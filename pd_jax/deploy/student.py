"""A run's student, read from its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.distill.counters import DistillCounters, GameCounters
from pd_jax.distill.setup import network_label
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.learner.learner import learner_template
from pd_jax.networks.student import Student, make_student
from pd_jax.online.state import OnlineCounters, state_template
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.system.progress import print_warning
from pd_jax.teachers import load
from pd_jax.teachers.checks import build_student


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """A run's student, read from one of its checkpoints; or a network that learnt its games from rewards.

    Attributes:
      student: the network and its games.
      variables: its parameters, NumPy arrays.
      config: the run's.
      counters: where the run stood.
    """

    student: Student
    variables: Any
    config: DistillConfig | TrainTeacherConfig
    counters: DistillCounters

    @property
    def network(self) -> str:
        """Its network's name."""
        return self.config.network if isinstance(self.config, TrainTeacherConfig) else self.config.student.network

    @property
    def names(self) -> tuple[str, ...]:
        """The games it plays, in the order of its heads."""
        return tuple(task.name for task in self.student.tasks)


def load_trained(
    path: str, *, checkpoint: Literal["newest", "best"] = "newest", warn: Callable[[str], None] = print_warning
) -> TrainedStudent:
    """Reads the student of a ``distill`` or ``online`` run; the run may still be going.

    A ``train-teacher`` run has one too, once it has ended: the weights that it kept.

    Args:
      path: the run's directory.
      checkpoint: the newest intact one, or the one with the best score on the way.
      warn: is told of damaged checkpoints that were passed over.

    Returns:
      all that was read; `pd_jax.deploy.policy.load_student` makes a policy of it.

    Raises:
      UserError: not such a run, none of its checkpoints is intact, or none was scored and the best is wanted.
    """
    run = read_run(path)
    if run.command == "train-teacher":
        return _load_trained_from_rewards(run)
    if run.command not in ("distill", "online"):
        raise UserError(f"{path}: is a run of pd-jax {run.command}, which has no student")
    online = read_config(OnlineConfig, run.config_path) if run.command == "online" else None
    config = read_config(DistillConfig, run.config_path) if online is None else online.distillation
    if config.game is None:
        raise UserError(f"{run.config_path}: names no game; it is not the resolved configuration of a run")
    student = make_student(config.student, [get_task(game) for game in config.game])
    template: Any = learner_template(student, config.learner) if online is None else state_template(online, student)
    label = network_label(config.student, student.tasks)
    with Checkpointer(run.checkpoints, read_only=True, warn=warn) as checkpointer:
        step = checkpointer.best_step() if checkpoint == "best" else None
        if checkpoint == "best" and step is None:
            raise UserError(f"{path}: no checkpoint has a score; evaluation.every_rounds is what scores them")
        restored = checkpointer.restore(template, step, network=label if online is None else None)
    if restored is None:
        raise UserError(f"{path}: has no checkpoint yet")
    state, metadata, _ = restored
    if online is None:
        return TrainedStudent(student, state.variables, config, DistillCounters.from_metadata(metadata))
    at = OnlineCounters.from_metadata(metadata)
    counters = DistillCounters(updates=at.updates, wall_seconds=at.wall_seconds, network=label, games=[at.play])
    return TrainedStudent(student, state.student.variables, config, counters)


def _load_trained_from_rewards(run: RunDirectory) -> TrainedStudent:
    """The network of a ``train-teacher`` run, as the baseline of students of its games."""
    config = read_config(TrainTeacherConfig, run.config_path)
    summary = run.read_summary_json()
    if summary is None:
        raise UserError(f"{run.path}: has not ended, and has no student yet")
    file = run.path / "teacher.safetensors"
    teacher = load(file, config.game[0])
    try:
        # The steps of all games, which they have had equally many of.
        steps, updates = int(summary["env_steps"]) // config.num_games, int(summary["updates"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run.summary_path}: does not say how much the run has learnt from") from None
    games = [GameCounters(name=name, env_steps=steps) for name in config.game]
    counters = DistillCounters(updates=updates, network=config.network, games=games)
    several = config.num_games > 1
    student = build_student(teacher.metadata) if several else Student(teacher.network, (teacher.task,))
    return TrainedStudent(student, teacher.variables, config, counters)
