"""Several policies of one game as one: a mixture, in which each counts by its credibility in the state.

Of member m in state s, ``p_m = softmax(q_m / τ_m)`` is its policy. The mixture is ``Σ_m w_m(s) p_m(a|s)``, with weights
that sum to 1 over the members that are left. Policies, and not outputs, are mixed: outputs of different teachers have
different scales and offsets, policies have none.
"""

from __future__ import annotations

import math

import chex
import jax.numpy as jnp
from jax import Array, nn

from pd_jax.losses import masked_log_softmax

_SURE_FLOOR = 0.01
_AGREEMENT_FLOOR = 1e-3
"""Where all members are undecided, or all contradict each other, they count alike."""
_LEAST = -1e30
"""A log probability that is less counts as this: its products are finite."""
_POWER = 2
"""Of the agreement: a member that most others contradict is to have almost nothing, not a little less."""


def policies(outputs: Array, temperatures: Array, alive: Array) -> tuple[Array, Array]:
    """The members' policies, and who of them has one.

    Args:
      outputs: float32 ``[M, N, A]``, Q-values or logits.
      temperatures: float32 ``[M]``, above 0.
      alive: bool ``[M]``, members that are not left out.

    Returns:
      log probabilities float32 ``[M, N, A]``, finite, and bool ``[M, N]``: those that are alive and whose outputs are
      finite in the state. Whoever is not has a uniform policy, which is not to count.
    """
    chex.assert_rank(outputs, 3)
    sound = jnp.isfinite(outputs).all(axis=-1)
    outputs = jnp.where(sound[..., None], outputs.astype(jnp.float32), 0.0)
    # The largest first: a quotient of large Q-values would lose the gaps between them.
    gaps = outputs - outputs.max(axis=-1, keepdims=True)
    log_policies = masked_log_softmax(jnp.maximum(gaps / temperatures[:, None, None], _LEAST))
    return log_policies, sound & alive[:, None]


def certainty(log_policies: Array) -> Array:
    """How decided policies are: 1 less their entropy over the logarithm of the number of actions.

    Args:
      log_policies: float32 ``[..., A]``.

    Returns:
      float32 ``[...]`` between 0 and 1; of a single action it is 1.
    """
    actions = log_policies.shape[-1]
    if actions == 1:
        return jnp.ones(log_policies.shape[:-1], jnp.float32)
    entropy = -(jnp.exp(log_policies) * log_policies).sum(axis=-1)
    return jnp.clip(1.0 - entropy / math.log(actions), 0.0, 1.0)


def overlaps(log_policies: Array) -> Array:
    """How much of two policies is common to them: ``Σ_a min(p_i, p_j)``, 1 less their total variation distance.

    Args:
      log_policies: float32 ``[M, N, A]``.

    Returns:
      float32 ``[M, M, N]`` between 0 and 1.
    """
    each = jnp.exp(log_policies)
    return jnp.minimum(each[:, None], each[None, :]).sum(axis=-1)


def agreement(common: Array, votes: Array) -> Array:
    """How far most of the others agree with each member: the upper median of its overlaps with them.

    The median, and not the mean, is what a minority of damaged members cannot move far. Of two others the upper one is
    the larger: among three, two that agree are a majority. All that count have one vote, whatever their scores: with
    more for the better, one that was damaged after it was scored could outvote two.

    Args:
      common: float32 ``[M, M, N]``, as from :func:`overlaps`.
      votes: bool ``[M, N]``, who counts as one of the others.

    Returns:
      float32 ``[M, N]`` between 0 and 1; 1 where there is no other that counts.
    """
    members = len(common)
    others = jnp.where(jnp.eye(members, dtype=bool)[..., None], 0, votes[None].astype(jnp.int32))
    order = jnp.argsort(common, axis=1)
    ranked = jnp.take_along_axis(common, order, axis=1)
    below = jnp.cumsum(jnp.take_along_axis(others, order, axis=1), axis=1)
    total = others.sum(axis=1)
    place = jnp.argmax(2 * below > total[:, None], axis=1)
    median = jnp.take_along_axis(ranked, place[:, None], axis=1)[:, 0]
    return jnp.where(total > 0, median, 1.0)


def weights(log_policies: Array, has: Array, votes: Array, *, by: str) -> Array:
    """What the members count.

    Args:
      log_policies, has: as from :func:`policies`.
      votes: float32 ``[M]``, >= 0, one above 0: the members' scores above random play over the largest.
      by: ``none``, ``score``, ``state`` or ``both``, as `pd_jax.config.credibility.CredibilityConfig` has it.

    Returns:
      float32 ``[M, N]``, >= 0, whose sum over the members is 1, or 0 where none has a policy.
    """
    own = jnp.broadcast_to(votes[:, None], has.shape) if by in ("score", "both") else jnp.ones(has.shape, jnp.float32)
    own = jnp.where(has, own, 0.0)
    # Where only those are left whose scores count nothing, they count alike.
    own = jnp.where(own.sum(axis=0) > 0.0, own, has.astype(jnp.float32))
    if by in ("state", "both"):
        agree = agreement(overlaps(log_policies), own > 0.0)
        own = own * (certainty(log_policies) + _SURE_FLOOR) * (agree + _AGREEMENT_FLOOR) ** _POWER
    total = own.sum(axis=0)
    return own / jnp.where(total > 0.0, total, 1.0)


def mix(log_policies: Array, weights: Array) -> Array:
    """The logarithm of the mixture.

    Args:
      log_policies: float32 ``[M, N, A]``.
      weights: float32 ``[M, N]``.

    Returns:
      float32 ``[N, A]``; NaN where all weights are 0.
    """
    # Log weights of -inf are what they should be; a sum of nothing but these is made NaN, as a teacher's would be.
    mixed = nn.logsumexp(log_policies + jnp.log(weights)[..., None], axis=0)
    return jnp.where((weights.sum(axis=0) > 0.0)[:, None], mixed, jnp.nan)
