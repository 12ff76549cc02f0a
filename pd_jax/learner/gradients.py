"""Gradients of a minibatch, whole or in parts one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.config.sections import LearnerConfig
from pd_jax.networks import partition
from pd_jax.networks.student import Student
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Batch

MeanLoss = Callable[[Any, Batch], tuple[Array, dict[str, Array]]]
"""``(variables, examples) -> (loss, measures)``: float32 means over the examples."""


def gradient_parts(student: Student, config: LearnerConfig, devices: DeviceGroup) -> int:
    """Parts that each device takes its gradients in: as many as are asked for, and those in what suits its platform."""
    share = config.batch_size // devices.size // config.accumulate
    seen = 1 if config.games == "alternating" or config.is_by_game else student.num_games
    if student.memory is not None:
        # Sequences are never divided; each is as many examples as it has steps.
        share, seen = share // config.sequence_length, seen * config.sequence_length
    return config.accumulate * partition.gradient_parts(student.network, share, seen, platform=devices.platform)


def mean_gradients(
    variables: Any, loss: MeanLoss, batch: Any, *, axis: int, parts: int, fetch: Callable[[Any], Batch]
) -> tuple[Any, dict[str, Array]]:
    """Gradients and measures, float32 means over a minibatch.

    Parts of it are of one size: the mean of their means is that of all. Each is fetched when it is its turn, so that a
    large minibatch is never there as a whole.

    Args:
      variables: the gradients are with respect to.
      loss: of a part.
      batch: a pytree of arrays: the examples, or where they are.
      axis: of all of its arrays, along which the examples lie.
      parts: divides their number.
      fetch: makes the examples of a part of ``batch``.
    """

    def of_part(part: Any) -> tuple[Any, dict[str, Array]]:
        examples = fetch(part)
        with jax.named_scope("loss"):
            (_, measures), gradients = jax.value_and_grad(loss, has_aux=True)(variables, examples)
        return gradients, measures

    if parts == 1:
        return of_part(batch)

    def deal(leaf: Array) -> Array:
        shape = (*leaf.shape[:axis], parts, leaf.shape[axis] // parts, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis, 0)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    dealt = jax.tree.map(deal, batch)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(of_part, jax.tree.map(lambda leaf: leaf[0], dealt)),
    )
    total, _ = lax.scan(add, zeros, dealt)
    mean: tuple[Any, dict[str, Array]] = jax.tree.map(lambda leaf: leaf / parts, total)
    return mean
