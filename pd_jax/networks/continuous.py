"""Policies of continuous tasks: what their outputs mean, and the actions that are made of them.

A Gaussian policy gives D means and then D logarithms of standard deviations, a deterministic one D actions. Where a
Gaussian policy is squashed (SAC, Haarnoja et al. 2018), its action is the task's range applied to the tanh of a sample;
otherwise (PPO) it is the sample, clipped to the range. Outputs of a Gaussian are kept before the tanh: the divergence
between two of them is the same before and after it, as it is one-to-one.
"""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class OutputSpec:
    """What a policy's outputs of one task are.

    Attributes:
      kind: ``"q"`` or ``"logits"`` of a discrete task, ``"gaussian"`` or ``"means"`` of a continuous one.
      squashed: whether a Gaussian's samples go through tanh.
    """

    kind: OutputKind = "q"
    squashed: bool = False

    @property
    def is_continuous(self) -> bool:
        """Whether they are of a continuous task."""
        return self.kind in ("gaussian", "means")

    def width(self, task: Task) -> int:
        """O, the number of outputs."""
        return (2 if self.kind == "gaussian" else 1) * task.num_actions


def split_gaussian(outputs: Array) -> tuple[Array, Array]:
    """Means and logarithms of standard deviations, each ``[..., D]``, of outputs ``[..., 2 D]``."""
    means, log_stds = jnp.split(outputs, 2, axis=-1)
    return means, jnp.clip(log_stds, LOWEST_LOG_STD, HIGHEST_LOG_STD)


def action_range(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of each component, float32 ``[D]``."""
    return np.asarray(task.action_low, np.float32), np.asarray(task.action_high, np.float32)


def mean_actions(outputs: Array, spec: OutputSpec, task: Task) -> Array:
    """The actions without noise: of a Gaussian that of its mean.

    Args:
      outputs: ``[..., O]``.
      spec, task: whose they are.

    Returns:
      float32 ``[..., D]``, within the task's range.
    """
    chex.assert_axis_dimension(outputs, -1, spec.width(task))
    means = split_gaussian(outputs)[0] if spec.kind == "gaussian" else outputs
    return _in_range(means, spec, task)


def noisy_actions(
    key: Array,
    outputs: Array,
    epsilon: Array | float,
    spec: OutputSpec,
    task: Task,
    lanes: LaneRange | None = None,
) -> Array:
    """Actions with Gaussian noise, ``epsilon`` of the policy's own.

    The noise's standard deviation is ``epsilon`` times that of a Gaussian policy, so that 0 plays its means and 1 its
    samples; of a deterministic policy it is ``epsilon`` times half the range of each component (Fujimoto et al. 2018
    explore with 0.1). It is added before the tanh of a squashed policy.

    Args:
      key: PRNG key of these decisions.
      outputs: ``[L, O]``.
      epsilon: scale of the noise.
      spec, task: whose they are.
      lanes: which of those that the key is for these are; all of them by default.

    Returns:
      float32 ``[L, D]``, within the task's range.
    """
    chex.assert_shape(outputs, (None, spec.width(task)))
    lanes = lanes or LaneRange(0, len(outputs), len(outputs))
    noise = lanes.of(jax.random.normal(key, (lanes.total, task.num_actions)))
    if spec.kind == "gaussian":
        means, log_stds = split_gaussian(outputs)
        deviations = jnp.exp(log_stds)
    else:
        low, high = action_range(task)
        means, deviations = outputs, (high - low) / 2
    # Without noise the means to the bit: infinity times 0 would be NaN.
    moved = jnp.where(epsilon > 0, means + epsilon * deviations * noise, means)
    return _in_range(moved, spec, task)


def _in_range(values: Array, spec: OutputSpec, task: Task) -> Array:
    low, high = action_range(task)
    if spec.kind == "gaussian" and spec.squashed:
        return squash(values, low, high)
    return jnp.clip(values, low, high).astype(jnp.float32)


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
