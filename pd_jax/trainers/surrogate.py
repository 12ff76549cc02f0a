"""The mathematics of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), as pure functions.

Means are weighted: EnvPool's reset steps are no transitions, and weigh nothing.
"""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

_LOG_TWO_PI = math.log(2.0 * math.pi)
# Of advantages that are all alike; as CleanRL and Stable-Baselines3 have it.
_ADVANTAGE_EPSILON = 1e-8


@jax.named_scope("targets")
def generalised_advantages(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    is_last: Array,
    *,
    gamma: float,
    gae_lambda: float,
) -> Array:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 16), backwards over time.

    ``A_t = d_t + gamma * lambda * (1 - is_last_t) * A_{t+1}`` with
    ``d_t = r_t + gamma * (1 - terminated_t) * V(s_{t+1}) - V(s_t)``. An episode that is cut off, as by a limit of
    steps, is not terminated: what would have followed counts by its value.

    Args:
      rewards, values: float32 ``[T, L]``.
      next_values: float32 ``[T, L]``, of the state that a step led to; after the last step of an episode that is its
        final state, and not the first one of the next episode.
      terminated, is_last: bool ``[T, L]``.
      gamma: discount per step.
      gae_lambda: in [0, 1]; 0 is the error of one step, 1 the whole return less the value.

    Returns:
      float32 ``[T, L]``.
    """
    chex.assert_equal_shape([rewards, values, next_values, terminated, is_last])
    errors = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values

    def backward(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        error, last = step
        advantage = error + gamma * gae_lambda * jnp.where(last, 0.0, later)
        return advantage, advantage

    _, advantages = lax.scan(backward, jnp.zeros_like(errors[0]), (errors, is_last), reverse=True)
    return advantages


def gaussian_log_probability(actions: Array, mean: Array, log_std: Array) -> Array:
    """Log density of a Gaussian with independent components, in nats.

    Args:
      actions, mean, log_std: float32 ``[..., D]``.

    Returns:
      float32 ``[...]``.
    """
    standardised = (actions - mean) * jnp.exp(-log_std)
    return -(0.5 * standardised**2 + log_std + 0.5 * _LOG_TWO_PI).sum(axis=-1)


def gaussian_entropy(log_std: Array) -> Array:
    """Entropy of a Gaussian with independent components, in nats: ``[..., D]`` to ``[...]``."""
    return (log_std + 0.5 * (1.0 + _LOG_TWO_PI)).sum(axis=-1)


def weighted_mean(values: Array, weight: Array) -> Array:
    """Mean of ``values [B]`` by ``weight [B]``; 0 if nothing weighs anything."""
    return (weight * values).sum() / jnp.maximum(weight.sum(), 1.0)


def standardised(advantages: Array, weight: Array) -> Array:
    """Advantages ``[B]`` less their mean, over their (sample) standard deviation."""
    mean = weighted_mean(advantages, weight)
    squares = (weight * (advantages - mean) ** 2).sum()
    deviation = jnp.sqrt(squares / jnp.maximum(weight.sum() - 1.0, 1.0))
    return (advantages - mean) / (deviation + _ADVANTAGE_EPSILON)


def clipped_surrogate_loss(ratio: Array, advantages: Array, weight: Array, *, clip: float) -> Array:
    """The clipped surrogate objective (Schulman et al. 2017, eq. 7), negated.

    ``-mean(min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A))``

    Args:
      ratio: float32 ``[B]``, of the action's density under the policy that learns to that under the one that played.
      advantages: float32 ``[B]``.
      weight: float32 ``[B]``.
      clip: > 0.

    Returns:
      a scalar.
    """
    chex.assert_equal_shape([ratio, advantages, weight])
    bounded = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return -weighted_mean(jnp.minimum(ratio * advantages, bounded * advantages), weight)


def value_loss(values: Array, old_values: Array, targets: Array, weight: Array, *, clip: float | None) -> Array:
    """Half the mean squared error of values.

    With ``clip``, the larger of the errors of the value and of the value held within ``clip`` of what it was when the
    step was played, as the first implementations of PPO had it.

    Args:
      values, old_values, targets, weight: float32 ``[B]``.
      clip: > 0; None for the plain error.

    Returns:
      a scalar.
    """
    chex.assert_equal_shape([values, old_values, targets, weight])
    squares = (values - targets) ** 2
    if clip is not None:
        held = old_values + jnp.clip(values - old_values, -clip, clip)
        squares = jnp.maximum(squares, (held - targets) ** 2)
    return 0.5 * weighted_mean(squares, weight)
