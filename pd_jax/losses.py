"""The distillation losses: one value per example, float32, differentiable in the student; and what examples weigh.

NLL, MSE and KL are those of Rusu et al. (2016); the others are named with their sources. Each takes the student's
outputs and the teacher's Q-values, ``[..., actions]``, and reduces the last axis only, so the same function serves one
game (``[batch, actions]``) and several (``[games, batch, actions]``, padded to the widest action set and masked).

Of policies, τ is the teacher's temperature: ``p = softmax(q / τ)`` is the teacher's policy, ``π = softmax(s)`` the
student's. All of them are computed in float32, whatever the inputs' type. Differences between outputs, and their
quotients by τ, have the relative accuracy of float32; where a difference of two large numbers is all that a gradient
is made of, it is as exact as these are.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax, nn

__all__ = [
    "action_gap_weights",
    "advantage_huber_loss",
    "advantage_mse_loss",
    "entropy_weights",
    "expected_entropy_loss",
    "gaussian_kl_loss",
    "gaussian_reverse_kl_loss",
    "huber_loss",
    "jsd_loss",
    "kl_loss",
    "masked_log_softmax",
    "mse_loss",
    "nll_loss",
    "policy_entropy",
    "reverse_kl_loss",
]

_LARGEST = 1e30
"""A gap of the teacher's that is larger counts as this, in units of τ: its products with probabilities are finite."""
_ENTROPY_FLOOR = 0.1
""":func:`entropy_weights` would otherwise be infinite where the teacher is certain."""


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
    is_best = _is_best(teacher_q, mask)
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
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    teacher_log_probs = masked_log_softmax(_sharpen(teacher_q, temperature, mask), mask)
    teacher_probs = jnp.exp(teacher_log_probs)
    log_ratio = teacher_log_probs - masked_log_softmax(student_logits, mask)
    # 0 log 0 is 0, also where the logarithm is -inf. A NaN of the teacher still gets through its probability.
    log_ratio = jnp.where(teacher_probs > 0.0, log_ratio, 0.0)
    return _at_least_zero(jnp.sum(teacher_probs * log_ratio, axis=-1))


def reverse_kl_loss(
    student_logits: Array, teacher_q: Array, *, temperature: float | Array, mask: Array | None = None
) -> Array:
    """KL divergence from the student policy to the sharpened teacher policy.

    Computes ``KL(π ‖ p) = Σ π (log π - log p)`` over the last axis: the direction of :func:`kl_loss` turned round, as
    MiniLLM (Gu et al. 2024, eq. 2) has it. The student pays for what it does and the teacher would not, and may leave
    out what the teacher would do as well (mode seeking), where KL makes it cover all that the teacher does.

    Args:
      student_logits, teacher_q, temperature, mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 nats, >= 0. It has no bound: what the student does that is worse by a gap costs up to
      ``gap / τ``. The gradient is that of the formula by pairs of actions, ``π_i Σ_j π_j (log π_i / p_i - log π_j /
      p_j)``, which loses no digits where both logarithms are large.

    Raises:
      AssertionError, ValueError: as for :func:`kl_loss`.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    log_probs = masked_log_softmax(student_logits, mask)
    probs = jnp.exp(log_probs)
    costs = log_probs - _teacher_log_probs(teacher_q, temperature, mask)
    value = _at_least_zero(jnp.sum(jnp.where(probs != 0.0, probs * costs, 0.0), axis=-1))
    differences = _differences(student_logits, mask) - _sharpened_differences(teacher_q, temperature, mask)
    return _with_gradient(value, _expected_cost_gradient(probs, differences), student_logits, mask)


def expected_entropy_loss(
    student_logits: Array, teacher_q: Array, *, temperature: float | Array, mask: Array | None = None
) -> Array:
    """Cross-entropy of the sharpened teacher policy under the student's: the loss of expected entropy regularisation.

    Computes ``H(π, p) = -Σ π log p`` over the last axis: the term of one step, ``ℓ``, of "expected entropy regularised
    distillation" (Czarnecki et al. 2019, table 1). It is :func:`reverse_kl_loss` without the student's own entropy, so
    the best answer to it in a state is the teacher's best action alone, and there the value is ``-log max p``, not 0.

    What is theirs and is not here: they take the expectation over trajectories of the student, and add the policy
    gradient of ``Σ log p(a | s)`` over the steps to come as a reward, which makes the whole the gradient of a function
    and proves that it converges. Here is no reward, and the states are those of the play: the student's where
    ``behaviour`` lets it act, up to the age of the replay, and the teacher's otherwise, or where they are recorded.

    Args:
      student_logits, teacher_q, temperature, mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 nats, >= 0; without a bound, and with the gradient by pairs of actions, as the reverse KL.

    Raises:
      AssertionError, ValueError: as for :func:`kl_loss`.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    probs = jnp.exp(masked_log_softmax(student_logits, mask))
    costs = -_teacher_log_probs(teacher_q, temperature, mask)
    value = jnp.sum(jnp.where(probs != 0.0, probs * costs, 0.0), axis=-1)
    differences = -_sharpened_differences(teacher_q, temperature, mask)
    return _with_gradient(value, _expected_cost_gradient(probs, differences), student_logits, mask)


def jsd_loss(
    student_logits: Array, teacher_q: Array, *, temperature: float | Array, beta: float, mask: Array | None = None
) -> Array:
    """Generalised Jensen-Shannon divergence between the sharpened teacher policy and the student policy.

    Computes ``β KL(p ‖ m) + (1 - β) KL(π ‖ m)`` with the mixture ``m = β p + (1 - β) π`` over the last axis, as GKD
    (Agarwal et al. 2024, eq. 1) and TRL's GKDTrainer do: β is the teacher's share of the mixture. Divided by β it
    becomes :func:`kl_loss` as β goes to 0; divided by ``1 - β`` it becomes :func:`reverse_kl_loss` as β goes to 1
    (Huszár 2015). At 0.5 it is symmetric. Its gradient is about ``1 - β`` and β times theirs, near these ends.

    Args:
      student_logits, teacher_q, temperature: as for :func:`kl_loss`.
      beta: β, between 0 and 1, both excluded.
      mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 nats, from 0 to ``-β log β - (1 - β) log(1 - β)``, 0.69 at the most: no state costs much.

    Raises:
      AssertionError: as for :func:`kl_loss`.
      ValueError: ``temperature`` is a number that is not above 0, or ``beta`` is out of range.
    """
    if not 0.0 < beta < 1.0:
        raise ValueError(f"beta is {beta}; it must be between 0 and 1")
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    teacher_log_probs = masked_log_softmax(_sharpen(teacher_q, temperature, mask), mask)
    log_probs = masked_log_softmax(student_logits, mask)
    teacher_probs, probs = jnp.exp(teacher_log_probs), jnp.exp(log_probs)
    # Where neither has any probability their ratio does not matter, and -inf less -inf would be NaN.
    is_played = (teacher_probs != 0.0) | (probs != 0.0)
    log_ratio = jnp.where(is_played, log_probs - teacher_log_probs, 0.0)
    # The mixture over the larger of the two, in logarithms: it never overflows, and is 0 where the two agree.
    log_mixture = jnp.log1p(jnp.where(log_ratio > 0.0, beta, 1.0 - beta) * jnp.expm1(-jnp.abs(log_ratio)))
    costs = jnp.where(probs != 0.0, jnp.minimum(log_ratio, 0.0) - log_mixture, 0.0)
    teacher_costs = -(jnp.maximum(log_ratio, 0.0) + log_mixture)
    of_teacher = jnp.where(teacher_probs != 0.0, teacher_probs * teacher_costs, 0.0)
    value = _at_least_zero(jnp.sum(beta * of_teacher + (1.0 - beta) * probs * costs, axis=-1))
    gradient = (1.0 - beta) * probs * (costs - jnp.sum(probs * costs, axis=-1, keepdims=True))
    return _with_gradient(value, gradient, student_logits, mask)


def huber_loss(student_logits: Array, teacher_q: Array, *, delta: float, mask: Array | None = None) -> Array:
    """Huber's distance between the student's outputs and the teacher's Q-values.

    Computes ``Σ h(s - q)`` over the last axis (the sum, as :func:`mse_loss`), where ``h(d)`` is ``d² / 2`` up to
    ``|d| = δ`` and ``δ (|d| - δ / 2)`` beyond (Huber 1964); DQN clips its errors so at δ = 1 (Mnih et al. 2015). The
    student's outputs are Q-values here, not logits.

    Args:
      student_logits, teacher_q: as for :func:`mse_loss`.
      delta: δ > 0, in units of Q.
      mask: as for :func:`mse_loss`.

    Returns:
      ``[...]`` float32 in squared units of Q: half of :func:`mse_loss` where no difference is above δ. The gradient is
      ``s - q``, cut off at ±δ.

    Raises:
      AssertionError: as for :func:`mse_loss`.
      ValueError: ``delta`` is not above 0.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    return jnp.sum(_huber(jnp.where(mask, student_logits - teacher_q, 0.0), delta), axis=-1)


def gaussian_kl_loss(
    student_means: Array,
    student_log_stds: Array,
    teacher_means: Array,
    teacher_log_stds: Array,
    *,
    temperature: float | Array = 1.0,
) -> Array:
    """KL divergence from the teacher's Gaussian policy to the student's, both with independent components.

    Computes ``Σ log(σ_s / σ_t) + (σ_t² + (μ_t - μ_s)²) / (2 σ_s²) - 1/2`` over the last axis, the components of an
    action, with ``σ_t² = τ exp(2 log σ_t)``: of the teacher's density to the power of ``1 / τ``. It is the same for
    both policies' samples after tanh, or any other one-to-one map.

    Args:
      student_means, student_log_stds: ``[..., D]`` each, any float dtype.
      teacher_means, teacher_log_stds: likewise; no gradient flows into them.
      temperature: τ > 0; a number, or an array that broadcasts to ``[..., D]``.

    Returns:
      ``[...]`` float32 nats, >= 0.

    Raises:
      AssertionError: the shapes differ.
      ValueError: ``temperature`` is a number that is not above 0.
    """
    student, teacher = _gaussians(student_means, student_log_stds, teacher_means, teacher_log_stds, temperature)
    return _kl_of_gaussians(teacher, student)


def gaussian_reverse_kl_loss(
    student_means: Array,
    student_log_stds: Array,
    teacher_means: Array,
    teacher_log_stds: Array,
    *,
    temperature: float | Array = 1.0,
) -> Array:
    """KL divergence from the student's Gaussian policy to the teacher's: :func:`gaussian_kl_loss` turned round.

    Args:
      student_means, student_log_stds, teacher_means, teacher_log_stds, temperature: as there.

    Returns:
      ``[...]`` float32 nats, >= 0.

    Raises:
      AssertionError, ValueError: as there.
    """
    student, teacher = _gaussians(student_means, student_log_stds, teacher_means, teacher_log_stds, temperature)
    return _kl_of_gaussians(student, teacher)


def _gaussians(
    student_means: Array, student_log_stds: Array, teacher_means: Array, teacher_log_stds: Array, temperature: Any
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Means and logarithms of deviations of student and teacher, in float32, the teacher's at the temperature."""
    chex.assert_equal_shape([student_means, student_log_stds, teacher_means, teacher_log_stds])
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    arrays = (student_means, student_log_stds, lax.stop_gradient(teacher_means), lax.stop_gradient(teacher_log_stds))
    means, log_stds, their_means, their_log_stds = (array.astype(jnp.float32) for array in arrays)
    return (means, log_stds), (their_means, their_log_stds + 0.5 * jnp.log(jnp.asarray(temperature, jnp.float32)))


def _kl_of_gaussians(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """From the first to the second, each means and logarithms of deviations: summed over components, ``[...]``."""
    (means, log_stds), (other_means, other_log_stds) = first, second
    log_ratio = log_stds - other_log_stds
    distance = (means - other_means) * jnp.exp(-other_log_stds)
    # The first two terms are exp(x) - 1 - x at x = 2 log_ratio, halved: together they lose no digits near 0.
    excess = 0.5 * (jnp.expm1(2.0 * log_ratio) - 2.0 * log_ratio)
    return _at_least_zero(jnp.sum(excess + 0.5 * jnp.square(distance), axis=-1))


def advantage_mse_loss(
    student_logits: Array, teacher_q: Array, *, temperature: float | Array, mask: Array | None = None
) -> Array:
    """Squared distance between the student's and the teacher's advantages, these in units of τ.

    Computes ``Σ ((s_a - s_b) - (q_a - q_b) / τ)²`` over the last axis, b being the teacher's best action (the first of
    several). ``q_a - q_b`` is the advantage of an action, ``Q(a) - max Q``: what a state is worth in itself is taken
    away on both sides, and the student need not tell it. It is 0 exactly where ``softmax(s)`` is the teacher's policy
    at τ, so that the outputs are logits, and this is the regression on logits of Ba and Caruana (2014), up to a
    constant of each state. Multiplied Q-values, with τ multiplied alike (``--loss.temperature auto`` does that), are
    the same to it.

    Args:
      student_logits, teacher_q, temperature, mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 without a unit, >= 0.

    Raises:
      AssertionError, ValueError: as for :func:`kl_loss`.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    return jnp.sum(jnp.square(_advantage_error(student_logits, teacher_q, temperature, mask)), axis=-1)


def advantage_huber_loss(
    student_logits: Array, teacher_q: Array, *, temperature: float | Array, delta: float, mask: Array | None = None
) -> Array:
    """Huber's distance between the student's and the teacher's advantages, these in units of τ.

    Computes ``Σ h((s_a - s_b) - (q_a - q_b) / τ)`` over the last axis: the advantages of :func:`advantage_mse_loss`,
    the ``h`` of :func:`huber_loss`. An action that is worse than the best by many τ pulls no harder than one that is
    off by δ, and pulls at itself and the best action alone.

    Args:
      student_logits, teacher_q, temperature: as for :func:`kl_loss`.
      delta: δ > 0, in units of τ.
      mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 without a unit, >= 0.

    Raises:
      AssertionError: as for :func:`kl_loss`.
      ValueError: ``temperature`` is a number that is not above 0, or ``delta`` is not.
    """
    student_logits, teacher_q, mask = _prepare(student_logits, teacher_q, mask)
    return jnp.sum(_huber(_advantage_error(student_logits, teacher_q, temperature, mask), delta), axis=-1)


def action_gap_weights(teacher_q: Array, *, mask: Array | None = None) -> Array:
    """How much the choice matters in each state: the teacher's best Q-value less the second best.

    That is the action gap (Farahmand 2011; Bellemare et al. 2016). Equal best Q-values have none, nor has a single
    action.

    Args:
      teacher_q: ``[..., actions]`` Q-values or logits, any float dtype.
      mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 >= 0, in units of Q; not normalised.

    Raises:
      AssertionError: ``mask`` is not bool or does not broadcast.
    """
    teacher_q, mask = lax.stop_gradient(teacher_q).astype(jnp.float32), _full_mask(mask, teacher_q)
    present = jnp.where(mask, teacher_q, -jnp.inf)
    is_best = _is_best(teacher_q, mask)
    second = jnp.max(jnp.where(is_best, -jnp.inf, present), axis=-1)
    gap = jnp.minimum(jnp.max(present, axis=-1) - second, _LARGEST)
    return jnp.where(mask.sum(axis=-1) > 1, gap, 0.0)


def entropy_weights(teacher_q: Array, *, temperature: float | Array, mask: Array | None = None) -> Array:
    """How sure the teacher is in each state: the reciprocal of its policy's entropy, kept finite.

    Computes ``1 / (H(p) / log(actions) + 0.1)``. That states count by the reciprocal of the teacher's entropy is from
    Importance Prioritised Policy Distillation (Qu et al. 2022), which weighs the entropy in its own way; that it is a
    share of the largest possible one, and that 0.1 is added, is ours: a state in which the teacher is certain counts
    eleven times as much as one in which all is the same to it, and not infinitely more.

    Args:
      teacher_q, temperature, mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 from 1 / 1.1 to 10; not normalised.

    Raises:
      AssertionError: ``mask`` is not bool or does not broadcast.
      ValueError: ``temperature`` is a number that is not above 0.
    """
    num_actions = _full_mask(mask, teacher_q).sum(axis=-1)
    entropy = policy_entropy(teacher_q, temperature=temperature, mask=mask)
    # A single action has no entropy to be a share of.
    share = entropy / jnp.where(num_actions > 1, jnp.log(num_actions.astype(jnp.float32)), 1.0)
    return 1.0 / (share + _ENTROPY_FLOOR)


def policy_entropy(teacher_q: Array, *, temperature: float | Array, mask: Array | None = None) -> Array:
    """Entropy of the sharpened teacher policy, ``-Σ p log p``.

    Args:
      teacher_q, temperature, mask: as for :func:`kl_loss`.

    Returns:
      ``[...]`` float32 nats, from 0 to the logarithm of the number of actions. No gradient flows through it.

    Raises:
      AssertionError: ``mask`` is not bool or does not broadcast.
      ValueError: ``temperature`` is a number that is not above 0.
    """
    teacher_q, mask = lax.stop_gradient(teacher_q).astype(jnp.float32), _full_mask(mask, teacher_q)
    log_probs = masked_log_softmax(_sharpen(teacher_q, temperature, mask), mask)
    probs = jnp.exp(log_probs)
    return -jnp.sum(jnp.where(probs != 0.0, probs * log_probs, 0.0), axis=-1)


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
    mask = _full_mask(mask, student_logits)
    # Before any arithmetic: bfloat16 Q-values over τ = 0.01 would lose the action gap.
    teacher_q = lax.stop_gradient(teacher_q).astype(jnp.float32)
    if student_logits.dtype == jnp.float16:
        return _from_float16(student_logits), teacher_q, mask
    return student_logits.astype(jnp.float32), teacher_q, mask


@jax.custom_vjp
def _from_float16(values: Array) -> Array:
    """As float32. A gradient that is beyond float16, 65504, becomes its largest number rather than infinite."""
    return values.astype(jnp.float32)


def _from_float16_forward(values: Array) -> tuple[Array, None]:
    return values.astype(jnp.float32), None


def _from_float16_backward(_: None, gradient: Array) -> tuple[Array]:
    largest = float(jnp.finfo(jnp.float16).max)
    return (jnp.clip(gradient, -largest, largest).astype(jnp.float16),)


_from_float16.defvjp(_from_float16_forward, _from_float16_backward)


def _sharpen(teacher_q: Array, temperature: float | Array, mask: Array) -> Array:
    """``(q - max q) / τ`` of the actions that exist, <= 0, ``-inf`` where a gap over τ has no float32."""
    _check_positive("temperature", temperature)
    # The best action goes to 0 before the division: 1e37 / 0.01 is inf, and inf - inf is NaN.
    best_q = jnp.max(jnp.where(mask, teacher_q, -jnp.inf), axis=-1, keepdims=True)
    return (teacher_q - best_q) / temperature


def _teacher_log_probs(teacher_q: Array, temperature: float | Array, mask: Array) -> Array:
    """``log p``, no less than ``-1e30``; 0 where the action does not exist."""
    log_probs = masked_log_softmax(_sharpen(teacher_q, temperature, mask), mask)
    return jnp.where(mask, jnp.maximum(log_probs, -_LARGEST), 0.0)


def _differences(values: Array, mask: Array) -> Array:
    """``[..., i, j]``: the value of action i less that of j; 0 where one of the two does not exist."""
    both = mask[..., :, None] & mask[..., None, :]
    return jnp.where(both, values[..., :, None] - values[..., None, :], 0.0)


def _sharpened_differences(teacher_q: Array, temperature: float | Array, mask: Array) -> Array:
    """``(q_i - q_j) / τ``, ``[..., i, j]``, no larger than 1e30."""
    each = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), teacher_q.shape)
    return jnp.clip(_differences(teacher_q, mask) / each[..., None], -_LARGEST, _LARGEST)


def _expected_cost_gradient(probs: Array, differences: Array) -> Array:
    """Gradient in the logits of ``Σ π c``, with c constant: ``π_i Σ_j π_j (c_i - c_j)``.

    The usual ``π_i (c_i - Σ_j π_j c_j)`` is a difference of two numbers that may be 1e8 and alike.
    """
    # Not a product of matrices: on a GPU those round float32 to fewer digits.
    pairs = probs[..., :, None] * probs[..., None, :]
    return jnp.sum(jnp.where(pairs != 0.0, pairs * differences, 0.0), axis=-1)


def _with_gradient(value: Array, gradient: Array, student_logits: Array, mask: Array) -> Array:
    """``value`` as a function of the logits that has this gradient."""
    nothing = jnp.where(mask, student_logits - lax.stop_gradient(student_logits), 0.0)
    return lax.stop_gradient(value) + jnp.sum(lax.stop_gradient(gradient) * nothing, axis=-1)


def _at_least_zero(divergence: Array) -> Array:
    """Rounding leaves about -1e-8 where two policies agree. Only the value is clipped: a clipped gradient would vanish
    there."""
    return divergence - lax.stop_gradient(jnp.minimum(divergence, 0.0))


def _advantage_error(student_logits: Array, teacher_q: Array, temperature: float | Array, mask: Array) -> Array:
    """``(s_a - s_b) - (q_a - q_b) / τ``, b being the teacher's best action; 0 where the action does not exist."""
    own_best = jnp.sum(jnp.where(_is_best(teacher_q, mask), student_logits, 0.0), axis=-1, keepdims=True)
    advantages = jnp.maximum(_sharpen(teacher_q, temperature, mask), -_LARGEST)
    return jnp.where(mask, student_logits - own_best - advantages, 0.0)


def _huber(differences: Array, delta: float) -> Array:
    _check_positive("delta", delta)
    size = jnp.abs(differences)
    # Not a choice between two formulas: the one that is not chosen may be infinite, and its gradient then NaN.
    quadratic = jnp.minimum(size, delta)
    return 0.5 * jnp.square(quadratic) + delta * (size - quadratic)


def _is_best(teacher_q: Array, mask: Array) -> Array:
    """bool ``[..., actions]``: the teacher's best action, of equal ones the first."""
    best_action = jnp.argmax(jnp.where(mask, teacher_q, -jnp.inf), axis=-1)
    return nn.one_hot(best_action, teacher_q.shape[-1], dtype=jnp.bool_)


def _check_positive(name: str, value: float | Array) -> None:
    """Raises a ValueError unless it is above 0; what is traced is not looked at."""
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} is {value}; it must be above 0")


def _full_mask(mask: Array | None, like: Array) -> Array:
    """Broadcasts ``mask`` to the shape of ``like``; no mask means that every action exists."""
    if mask is None:
        return jnp.ones(like.shape, dtype=jnp.bool_)
    chex.assert_type(mask, jnp.bool_)
    chex.assert_is_broadcastable(mask.shape, like.shape)
    return jnp.broadcast_to(mask, like.shape)
