"""A run's student as a teacher: what a teacher file of it holds."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.deploy.student import load_trained
from pd_jax.errors import UserError
from pd_jax.runs.students import student_metadata
from pd_jax.teachers.metadata import TeacherMetadata


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
    if not isinstance(trained.config, DistillConfig):
        raise UserError(f"{path}: has its teacher in teacher.safetensors, for each of its games")
    params = jax.tree.map(np.asarray, trained.variables["params"])
    return params, student_metadata(path, trained.student, trained.config, trained.counters.updates)
