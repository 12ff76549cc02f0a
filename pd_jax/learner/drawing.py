"""What is drawn from the replays for an update, beyond equal chances: preferred examples, and frames that are shifted.

Preferred examples are chosen among candidates, which are drawn uniformly (Loshchilov and Hutter 2015, arXiv 1511.06343,
call it online batch selection): nothing has to be kept for each stored step, and what is preferred is what the student
of this very update finds hard. The chances and their correction are those of prioritised replay (Schaul et al. 2016,
section 3.3 and 3.4).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.config.sections import LearnerConfig

# Of a uniform draw these stay what they are: what is drawn in addition has keys of its own.
CHOICE, SHIFT = 1, 2
# A candidate without any priority can still be chosen, where there are too few others.
_LEAST_PRIORITY = 1e-6


@dataclasses.dataclass(frozen=True)
class Preference:
    """Which examples are drawn rather than others.

    Attributes:
      by: ``"loss"``, the student's on the example as it is now, or ``"action_gap"``, between the teacher's outputs for
        its best action and its second best.
      candidates: drawn uniformly for each example that is kept.
      exponent: of the priority: 0 prefers none.
      correction: 1 undoes in the mean of the gradients what the preference changed, 0 leaves it.
    """

    by: str
    candidates: int
    exponent: float
    correction: float

    @classmethod
    def of(cls, config: LearnerConfig) -> Preference | None:
        """What a configuration asks for."""
        if config.sampling == "uniform":
            return None
        return cls(config.sampling, config.sampling_candidates, config.sampling_exponent, config.sampling_correction)


def choose(preference: Preference, keys: Array, priorities: Array, share: int) -> tuple[Array, Array]:
    """Chooses examples among candidates, without replacement, by chances that are proportional to priorities' powers.

    The largest of ``log(priority^exponent) + Gumbel noise`` are such a choice (Vieira 2014; Kool et al. 2019).

    Args:
      preference: exponent and correction.
      keys: PRNG keys ``[N]``, of each group of candidates.
      priorities: float32 ``[N, K]``, >= 0.
      share: kept of each group.

    Returns:
      places among the K, int32 ``[N, share]``, and what each counts, float32 ``[N, share]``, > 0, before the mean over
      the minibatch becomes 1: ``priority^(-exponent * correction)``.
    """
    # Scale-free: a loss that falls in the course of the training must not run into the bound.
    mean = priorities.mean(axis=-1, keepdims=True)
    relative = jnp.where(mean > 0.0, priorities / jnp.where(mean > 0.0, mean, 1.0), 1.0)
    log_chances = preference.exponent * jnp.log(jnp.maximum(relative, _LEAST_PRIORITY))
    noise = jax.vmap(lambda key: jax.random.gumbel(key, priorities.shape[1:]))(keys)
    _, chosen = lax.top_k(log_chances + noise, share)
    return chosen, jnp.exp(-preference.correction * jnp.take_along_axis(log_chances, chosen, axis=-1))


def draw_shifts(key: Array, batch_size: int, most: int) -> Array:
    """By how many pixels each of a minibatch's stacks is moved, down and to the right: int32 ``[B, 2]``.

    Args:
      key: of the minibatch.
      batch_size: B, of all devices together.
      most: pixels, either way.
    """
    return jax.random.randint(key, (batch_size, 2), -most, most + 1)


@jax.named_scope("augment")
def shift(observations: Array, shifts: Array, most: int) -> Array:
    """Moves each stack of frames; what moves in at an edge repeats it (random shift of Kostrikov et al. 2020, DrQ).

    Args:
      observations: ``[B, H, W, C]``.
      shifts: int32 ``[B, 2]`` in ``[-most, most]``, down and to the right.
      most: pixels, either way.
    """
    height, width = observations.shape[1:3]
    padded = jnp.pad(observations, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")

    def cut(frames: Array, shift: Array) -> Array:
        start = (most - shift[0], most - shift[1], 0)
        return lax.dynamic_slice(frames, start, (height, width, frames.shape[-1]))

    return jax.vmap(cut)(padded, shifts)


@functools.partial(jax.vmap, in_axes=(None, 0))
def group_key(key: Array, group: Array) -> Array:
    """The key of a group of lanes, whichever device holds it."""
    return jax.random.fold_in(jax.random.fold_in(key, CHOICE), group)
