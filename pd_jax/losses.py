"""The three distillation losses of Rusu et al. (2016): one value per example, float32, differentiable in the student.

Each takes the student's outputs and the teacher's Q-values, ``[..., actions]``, and reduces the last axis only, so the
same function serves one game (``[batch, actions]``) and several (``[games, batch, actions]``, padded to the widest
action set and masked).
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import Array, lax, nn

__all__ = ["kl_loss", "masked_log_softmax", "mse_loss", "nll_loss"]


def nll_loss(student_logits: Array, teacher_q: Array, *, mask: Array | None = None) -> Array:
    """Negative log-likelihood of the teacher's best action under the student's policy.

    Computes ``-log softmax(s)[argmax_a q]`` over the last axis (Rusu et al. 2016, eq. 1). Equal best Q-values count
    as the first of them.

    Args:
      student_logits: ``[..., actions]``, any float dtype.
      teacher_q: ``[..., actions]`` Q-values or logits; no gradient flows into them.
      mask: bool, broadcastable to ``[..., actions]``, True where the action exists; at least one per row. What the
        other entries of both inputs hold, NaN included, is never used.

    Returns:
      ``[...]`` float32 nats, >= 0.

    Raises:
      AssertionError: the shapes differ, or ``mask`` is not bool or does not broadcast.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    best_action = jnp.argmax(jnp.where(mask, teacher_q, -jnp.inf), axis=-1)
    is_best = nn.one_hot(best_action, teacher_q.shape[-1], dtype=jnp.bool_)
    # Selecting beats multiplying by a one-hot vector: 0 * -inf of an absent action would be NaN.
    return -jnp.sum(jnp.where(is_best, masked_log_softmax(student_logits, mask), 0.0), axis=-1)


def mse_loss(student_logits: Array, teacher_q: Array, *, mask: Array | None = None) -> Array:
    """Squared distance between the student's outputs and the teacher's Q-values.

    Computes ``‖q - s‖²``, the sum (not the mean) over the last axis (Rusu et al. 2016, eq. 2). The student's outputs
    are Q-values here, not logits.

    Args:
      student_logits: ``[..., actions]``, any float dtype.
      teacher_q: ``[..., actions]`` Q-values; no gradient flows into them.
      mask: bool, broadcastable to ``[..., actions]``, True where the action exists. Absent actions contribute 0.

    Returns:
      ``[...]`` float32 in squared units of Q. A difference above 1.8e19 has no float32 square: the value is then
      ``inf``, while the gradient, ``2 (s - q)``, stays exact.

    Raises:
      AssertionError: the shapes differ, or ``mask`` is not bool or does not broadcast.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    return jnp.sum(jnp.square(jnp.where(mask, student_logits - teacher_q, 0.0)), axis=-1)


def kl_loss(student_logits: Array, teacher_q: Array, *, temperature: float | Array, mask: Array | None = None) -> Array:
    """KL divergence from the sharpened teacher policy to the student policy.

    Computes ``KL(softmax(q / τ) ‖ softmax(s))`` over the last axis (Rusu et al. 2016, eq. 3). Only the teacher is
    divided by τ: Q-values are flat where class logits are peaked, so the paper's τ = 0.01 sharpens where usual
    distillation softens.

    Args:
      student_logits: ``[..., actions]``, any float dtype.
      teacher_q: ``[..., actions]`` Q-values or logits; no gradient flows into them.
      temperature: τ > 0, in units of Q; a number, or an array broadcastable to ``[..., actions]``.
      mask: bool, broadcastable to ``[..., actions]``, True where the action exists; at least one per row. Absent
        actions have probability 0 on both sides.

    Returns:
      ``[...]`` float32 nats, >= 0.

    Raises:
      AssertionError: the shapes differ, or ``mask`` is not bool or does not broadcast.
      ValueError: ``temperature`` is a number that is not above 0.
    """
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    # The best action goes to 0 before the division: 1e37 / 0.01 is inf, and inf - inf is NaN.
    best_q = jnp.max(jnp.where(mask, teacher_q, -jnp.inf), axis=-1, keepdims=True)
    sharpened = (teacher_q - best_q) / temperature
    teacher_log_probs = lax.stop_gradient(masked_log_softmax(sharpened, mask))
    teacher_probs = jnp.exp(teacher_log_probs)
    log_ratio = teacher_log_probs - masked_log_softmax(student_logits, mask)
    # 0 log 0 is 0, also where the logarithm is -inf. A NaN of the teacher still gets through its probability.
    log_ratio = jnp.where(teacher_probs > 0.0, log_ratio, 0.0)
    divergence = jnp.sum(teacher_probs * log_ratio, axis=-1)
    # Rounding leaves about -1e-8 where the two agree. Only the value is clipped: a clipped gradient would vanish there.
    return divergence - lax.stop_gradient(jnp.minimum(divergence, 0.0))


def masked_log_softmax(logits: Array, mask: Array | None = None) -> Array:
    """Log-probabilities of the actions that exist.

    Args:
      logits: ``[..., actions]``, any float dtype.
      mask: bool, broadcastable to ``[..., actions]``, True where the action exists; at least one per row.

    Returns:
      ``[..., actions]`` float32, ``-inf`` where the action does not exist. Neither values nor gradients depend on
      what ``logits`` holds there, and the gradient there is 0.

    Raises:
      AssertionError: ``mask`` is not bool or does not broadcast.
    """
    logits = logits.astype(jnp.float32)
    mask = _full_mask(mask, logits)
    present = jnp.where(mask, logits, -jnp.inf)
    shifted = present - lax.stop_gradient(jnp.max(present, axis=-1, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))


def _prepare(student_logits: Array, teacher_q: Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """Checks the contract shared by the losses; returns both inputs in float32, the teacher's without gradient."""
    chex.assert_equal_shape([student_logits, teacher_q])
    chex.assert_type(student_logits, jnp.floating)
    # Before any arithmetic: bfloat16 Q-values over τ = 0.01 would lose the action gap.
    teacher_q = lax.stop_gradient(teacher_q).astype(jnp.float32)
    return student_logits.astype(jnp.float32), teacher_q, _full_mask(mask, student_logits)


def _full_mask(mask: Array | None, like: Array) -> Array:
    """Broadcasts ``mask`` to the shape of ``like``; no mask means that every action exists."""
    if mask is None:
        return jnp.ones(like.shape, dtype=jnp.bool_)
    chex.assert_type(mask, jnp.bool_)
    chex.assert_is_broadcastable(mask.shape, like.shape)
    return jnp.broadcast_to(mask, like.shape)
