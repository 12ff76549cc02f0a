"""What a student of a continuous task is asked to match: a teacher's Gaussian, or its actions.

As `pd_jax.learner.objective` does for discrete tasks. Outputs are those of `pd_jax.networks.continuous`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from pd_jax import losses
from pd_jax.config.sections import LossConfig
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.continuous import action_range, mean_actions, split_gaussian

OF_GAUSSIANS = ("kl", "reverse_kl")
OF_ACTIONS = ("mse", "huber")


def check_loss(config: LossConfig, task: Task, *, teacher_is_gaussian: bool) -> None:
    """Raises a UserError unless a loss can be had of a teacher of a continuous task."""
    kinds = (*OF_GAUSSIANS, *OF_ACTIONS) if teacher_is_gaussian else OF_ACTIONS
    if config.kind not in kinds:
        gives = "Gaussians" if teacher_is_gaussian else "actions without deviations"
        raise UserError(f"loss.kind: {config.kind!r}: the teacher of {task.name} gives {gives} ({', '.join(kinds)})")
    if config.is_auto:
        raise UserError(
            f"loss.temperature: auto is of teachers that choose among actions, and {task.name} is continuous"
        )
    if config.weights != "none":
        raise UserError(f"loss.weights: {config.weights!r} is of teachers that choose among actions")


def loss_of(config: LossConfig, task: Task, temperature: Any, outputs: Array, teacher_outputs: Array) -> Array:
    """The loss of each example: of Gaussians, or of the distance to the teacher's action without noise.

    Args:
      config: which loss.
      task: as the teacher plays it.
      temperature: that the teacher's variance is multiplied by: its density to the power of 1 / temperature.
      outputs: the student's, ``[..., 2 D]`` of losses of Gaussians and ``[..., D]`` of losses of actions.
      teacher_outputs: ``[..., 2 D]`` or ``[..., D]``.

    Returns:
      float32 ``[...]``.
    """
    if config.kind in OF_GAUSSIANS:
        teacher, student = split_gaussian(teacher_outputs), split_gaussian(outputs)
        function = losses.gaussian_kl_loss if config.kind == "kl" else losses.gaussian_reverse_kl_loss
        return function(*student, *teacher, temperature=temperature)
    wanted = mean_actions(teacher_outputs, task)
    # Not clipped: beyond the range there would be no gradient back, and what is played is the nearest in the range.
    if config.kind == "mse":
        return losses.mse_loss(outputs, wanted)
    return losses.huber_loss(outputs, wanted, delta=config.delta)


def agreement(outputs: Array, teacher_outputs: Array, task: Task) -> Array:
    """1 less the mean distance of the actions without noise, as a share of the range: float32 ``[...]``, from 0 to 1.

    Args:
      outputs, teacher_outputs: ``[..., 2 D]`` or ``[..., D]`` each.
      task: of both.
    """
    low, high = action_range(task)
    distance = jnp.abs(mean_actions(outputs, task) - mean_actions(teacher_outputs, task))
    return 1.0 - jnp.mean(distance / (high - low), axis=-1)
