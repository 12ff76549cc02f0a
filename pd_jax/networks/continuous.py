"""Policies of continuous tasks: what their outputs mean, and the actions that are made of them.

A Gaussian policy gives D means and then D logarithms of standard deviations, ``[..., 2 D]``; a deterministic one D
actions, ``[..., D]``. Where a task is squashed (SAC, Haarnoja et al. 2018), the action of a Gaussian policy is the
task's range applied to the tanh of a sample; otherwise (PPO) it is the sample, clipped to the range. Outputs of a
Gaussian are kept before the tanh: the divergence between two of them is the same before and after it, as it is
one-to-one.
"""

from __future__ import annotations

from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.environments.tasks import Task
from pd_jax.types import LaneRange

OutputKind = Literal["q", "logits", "gaussian", "means"]
LOWEST_LOG_STD, HIGHEST_LOG_STD = -20.0, 2.0
"""Logarithms of standard deviations are between these, as those of SAC are: samples of others are no actions."""


def is_gaussian(outputs: Array, task: Task) -> bool:
    """Whether outputs of a continuous task are a Gaussian's; otherwise they are actions.

    Args:
      outputs: ``[..., 2 D]`` or ``[..., D]``.
      task: with D components in an action.
    """
    width = outputs.shape[-1]
    chex.assert_equal(width in (task.num_actions, 2 * task.num_actions), True)
    return bool(width == 2 * task.num_actions)


def split_gaussian(outputs: Array) -> tuple[Array, Array]:
    """Means and logarithms of standard deviations, float32 ``[..., D]`` each, of outputs ``[..., 2 D]``."""
    means, log_stds = jnp.split(outputs.astype(jnp.float32), 2, axis=-1)
    return means, jnp.clip(log_stds, LOWEST_LOG_STD, HIGHEST_LOG_STD)


def action_range(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of each component, float32 ``[D]``."""
    return np.asarray(task.action_low, np.float32), np.asarray(task.action_high, np.float32)


def mean_actions(outputs: Array, task: Task) -> Array:
    """The actions without noise: of a Gaussian that of its mean.

    Args:
      outputs: ``[..., 2 D]`` or ``[..., D]``.
      task: whose they are.

    Returns:
      float32 ``[..., D]``, within the task's range.
    """
    if is_gaussian(outputs, task):
        return _of_sample(split_gaussian(outputs)[0], task)
    return _clipped(outputs, task)


def noisy_actions(
    key: Array, outputs: Array, epsilon: Array | float, task: Task, lanes: LaneRange | None = None
) -> Array:
    """Actions with Gaussian noise, ``epsilon`` of the policy's own.

    The noise's standard deviation is ``epsilon`` times that of a Gaussian policy, so that 0 plays its means and 1 its
    samples; of a deterministic policy it is ``epsilon`` times half the range of each component (Fujimoto et al. 2018
    explore with 0.1). It is added before the tanh of a squashed task.

    Args:
      key: PRNG key of these decisions.
      outputs: ``[L, 2 D]`` or ``[L, D]``.
      epsilon: scale of the noise.
      task: whose they are.
      lanes: which of those that the key is for these are; all of them by default.

    Returns:
      float32 ``[L, D]``, within the task's range.
    """
    chex.assert_rank(outputs, 2)
    lanes = lanes or LaneRange(0, len(outputs), len(outputs))
    noise = epsilon * lanes.of(jax.random.normal(key, (lanes.total, task.num_actions)))
    if is_gaussian(outputs, task):
        means, log_stds = split_gaussian(outputs)
        return _of_sample(means + jnp.exp(log_stds) * noise, task)
    low, high = action_range(task)
    return _clipped(outputs + (high - low) / 2 * noise, task)


def _of_sample(values: Array, task: Task) -> Array:
    """The action that a Gaussian's sample stands for."""
    return squash(values, *action_range(task)) if task.squashed else _clipped(values, task)


def _clipped(values: Array, task: Task) -> Array:
    return jnp.clip(values, *action_range(task)).astype(jnp.float32)


def squash(values: Array, low: Any, high: Any) -> Array:
    """The range applied to the tanh of values: float32 of the same shape, within it."""
    values = values.astype(jnp.float32)
    # Clipped as the rounded middle and half of a range can leave it.
    return jnp.clip((high + low) / 2 + (high - low) / 2 * jnp.tanh(values), low, high)


class ContinuousHead(nn.Module):
    """The output layer of a teacher of a continuous task; students have a plain one.

    Attributes:
      num_outputs: O.
      log_std_bounds: that a Gaussian's logarithms of standard deviations are clipped to, as SAC's are; None leaves
        them.
      low, high: the range that a deterministic policy's tanh is applied to, as TD3's is; ``()`` has no tanh.
    """

    num_outputs: int
    log_std_bounds: tuple[float, float] | None = None
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps ``[N, hidden]`` to float32 ``[N, O]``."""
        outputs = nn.Dense(self.num_outputs, name="output")(features).astype(jnp.float32)
        if self.low:
            return squash(outputs, np.asarray(self.low, np.float32), np.asarray(self.high, np.float32))
        if self.log_std_bounds is not None:
            means, log_stds = jnp.split(outputs, 2, axis=-1)
            outputs = jnp.concatenate([means, jnp.clip(log_stds, *self.log_std_bounds)], axis=-1)
        return outputs
