"""A run's student as a teacher: what a teacher file of it holds."""

from __future__ import annotations

import datetime
from typing import Any

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import to_mapping
from pd_jax.deploy.student import load_trained
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.runs.directory import OF_ONE_START
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.version import __version__


def student_as_teacher(path: str) -> tuple[Any, list[TeacherMetadata]]:
    """Reads the newest student of a run.

    Args:
      path: the run's directory.

    Returns:
      Parameters and metadata, one for each of its games, for `pd_jax.teachers.save_teacher`. A student that was to
      match Q-values (MSE) gives these, others the logits of a policy.

    Raises:
      UserError: it is no run with a student, it has no checkpoint yet, or its network is one of the user's own.
    """
    trained = load_trained(path)
    config, games = trained.config, trained.names
    if not isinstance(config, DistillConfig):
        raise UserError(f"{path}: has its teacher in teacher.safetensors, for each of its games")
    params = jax.tree.map(np.asarray, trained.variables["params"])
    widths: dict[str, Any] = {name: getattr(config.student, name) for name in ("channels", "hidden")}
    if len(games) > 1 or config.student.network in ("multi3", "multi10"):
        widths["head_hidden"] = config.student.head_hidden
    if len(games) > 1:
        widths["games"] = games
    return params, [_describe(task, path, config, trained.counters.updates, widths) for task in trained.student.tasks]


def _describe(task: Task, path: str, config: DistillConfig, updates: int, widths: dict[str, Any]) -> TeacherMetadata:
    is_atari = task.kind == "atari"
    atari = {"frame_stack": 4, "frame_skip": 4, "grey": True, "scaling": "1/255, inside the network"}
    return TeacherMetadata(
        name=f"{task.name}-{config.student.network}-student",
        game=task.name,
        env_id=task.env_id,
        network=config.student.network,
        layer_norm=False,
        hidden_sizes=config.student.mlp_hidden if config.student.network == "mlp" else (),
        **widths,
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype}
        | (atari if is_atari else {}),
        output="q" if config.loss.kind == "mse" else "logits",
        algorithm="policy-distillation",
        env_steps=None,
        seed=config.seed,
        training_config={key: value for key, value in to_mapping(config).items() if key not in ("out", *OF_ONE_START)},
        evaluation={},
        learning_curve=[],
        how_made=f"the student of {path!r} after {updates} updates",
        licence="that of its teachers",
        created=datetime.date.today().isoformat(),
        pd_jax_version=__version__,
    )
