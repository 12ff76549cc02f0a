"""What a student is asked to match: which of the paper's losses, at which temperature, over which actions.

The losses themselves are `pd_jax.losses`. Here the settings of a run become functions of two arrays, which is all that
an update needs to know of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from pd_jax import losses
from pd_jax.config.sections import LossConfig
from pd_jax.networks.student import Student

LossFunction = Callable[[Array, Array], Array]
"""``(student_outputs [G, B, A], teacher_q [G, B, A]) -> float32 [G, B]``; knows the mask and the temperatures.

A student of one game calls it without the game axis, which would change how XLA rounds the sums over a minibatch.
"""


def make_loss(config: LossConfig, student: Student, gives_logits: Sequence[bool]) -> LossFunction:
    """The loss that a configuration asks for, of student outputs and teacher outputs alone.

    Args:
      config: which loss, and its temperatures.
      student: its games are told apart by their places on the game axis.
      gives_logits: of each game's teacher, whether it gives logits; otherwise it gives Q-values.

    Returns:
      a ``LossFunction``.
    """
    return loss_at(config, student, _temperature(config, gives_logits))


def loss_at(config: LossConfig, student: Student, temperature: Any) -> LossFunction:
    """As :func:`make_loss`, at another temperature than the configured one.

    Args:
      config: which loss.
      student: as for :func:`make_loss`.
      temperature: a number, or an array that broadcasts to ``[G, B, A]``, which may be traced. Only KL has one.

    Returns:
      a ``LossFunction``.
    """
    mask = _mask(student)
    if config.kind == "nll":
        return functools.partial(losses.nll_loss, mask=mask)
    if config.kind == "mse":
        return functools.partial(losses.mse_loss, mask=mask)
    return functools.partial(losses.kl_loss, temperature=temperature, mask=mask)


def make_divergence(config: LossConfig, student: Student, gives_logits: Sequence[bool]) -> LossFunction:
    """KL from the teachers' policies to the student's, whatever the loss: the measure that all students share.

    A student of MSE gives Q-values, whose policy is sharpened as the teacher's is.

    Args:
      config, student, gives_logits: as for :func:`make_loss`.

    Returns:
      a ``LossFunction``.
    """
    temperature = _temperature(config, gives_logits)
    divergence = functools.partial(losses.kl_loss, temperature=temperature, mask=_mask(student))
    if config.kind != "mse":
        return divergence
    return lambda outputs, teacher_q: divergence(outputs / temperature, teacher_q)


def temperatures(config: LossConfig, gives_logits: Sequence[bool]) -> list[float]:
    """What KL divides the outputs of each game's teacher by.

    Args:
      config, gives_logits: as for :func:`make_loss`.
    """
    return [config.temperature_for(game, teacher_gives_logits=logits) for game, logits in enumerate(gives_logits)]


def student_temperature(config: LossConfig, game: int, *, gives_logits: bool) -> float:
    """What a student's outputs are divided by to be its policy's logits: a student of MSE gives Q-values.

    Args:
      config: the run's.
      game: its place.
      gives_logits: whether its teacher gives logits.
    """
    return config.temperature_for(game, teacher_gives_logits=gives_logits) if config.kind == "mse" else 1.0


def _temperature(config: LossConfig, gives_logits: Sequence[bool]) -> float | Array:
    """One for all games, or float32 ``[G, 1, 1]``."""
    each = temperatures(config, gives_logits)
    if len(set(each)) == 1:
        return each[0]
    return jnp.asarray(each, jnp.float32)[:, None, None]


def _mask(student: Student) -> Array | None:
    """bool ``[G, 1, A]``; None where there is no padding: one game's arithmetic is then what it would be alone."""
    return None if student.mask.all() else jnp.asarray(student.mask[:, None, :])
