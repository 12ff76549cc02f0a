"""What a student is asked to match: which loss, at which temperature, over which actions, and what examples count.

The losses themselves are `pd_jax.losses`. Here the settings of a run become functions of two arrays, which is all that
an update needs to know of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from pd_jax import losses
from pd_jax.config.sections import LossConfig
from pd_jax.learner import continuous
from pd_jax.networks.student import Student

LossFunction = Callable[[Array, Array], Array]
"""``(student_outputs [G, B, A], teacher_q [G, B, A]) -> float32 [G, B]``; knows the mask and the temperatures.

A student of one game calls it without the game axis, which would change how XLA rounds the sums over a minibatch.
"""
WeightFunction = Callable[[Array], Array]
"""``teacher_q [G, B, A] -> float32 [G, B]``, >= 0: what examples count, before their mean becomes 1."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The functions of examples that an update calls.

    Attributes:
      loss: learnt from.
      divergence: measured, not learnt from; None measures none.
      weigh: None has all examples count the same.
    """

    loss: LossFunction
    divergence: LossFunction | None = None
    weigh: WeightFunction | None = None


@dataclasses.dataclass(frozen=True)
class AutoTemperature:
    """Temperatures that are found from the play, and are part of the learner's state.

    Attributes:
      start: of each game, what it is until it is found; of games that have a number of their own, this.
      games: places of those whose temperature is found.
      target: of each game, the mean entropy of the teacher's policy that it is to give, in nats.
      objective_at: the objective at temperatures that may be traced, float32 ``[G]``.
    """

    start: tuple[float, ...]
    games: tuple[int, ...]
    target: tuple[float, ...]
    objective_at: Callable[[Array], Objective]


def make_objective(
    config: LossConfig, student: Student, gives_logits: Sequence[bool], temperature: Any = None
) -> Objective:
    """All that a configuration asks for; of several games the divergence of each is measured as well.

    Args:
      config, student, gives_logits: as for :func:`make_loss`.
      temperature: as for :func:`loss_at`; None is what the configuration says.
    """
    if temperature is None:
        temperature = _temperature(config, gives_logits)
    return Objective(
        loss_at(config, student, temperature),
        _divergence_at(config, student, temperature) if student.num_games > 1 else None,
        weigh_at(config, student, temperature),
    )


def make_auto(config: LossConfig, student: Student, gives_logits: Sequence[bool]) -> AutoTemperature | None:
    """The temperatures that a configuration leaves to the play; None if it leaves none.

    Args:
      config, student, gives_logits: as for :func:`make_loss`.
    """
    if not config.is_auto:
        return None

    def objective_at(temperature: Array) -> Objective:
        # A student of one game has losses without the game axis.
        each = temperature[0] if student.num_games == 1 else temperature[:, None, None]
        return make_objective(config, student, gives_logits, each)

    return AutoTemperature(
        start=tuple(temperatures(config, gives_logits)),
        games=tuple(filter(config.is_auto_for, range(student.num_games))),
        target=tuple(config.target_entropy * math.log(task.num_actions) for task in student.tasks),
        objective_at=objective_at,
    )


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
      temperature: a number, or an array that broadcasts to ``[G, B, A]``, which may be traced. A loss without one
        does not look at it.

    Returns:
      a ``LossFunction``.
    """
    if student.is_continuous:
        return functools.partial(continuous.loss_of, config, student.tasks[0], temperature)
    mask, policies = _mask(student), {"temperature": temperature}
    functions: dict[str, tuple[Callable[..., Array], dict[str, Any]]] = {
        "kl": (losses.kl_loss, policies),
        "nll": (losses.nll_loss, {}),
        "mse": (losses.mse_loss, {}),
        "reverse_kl": (losses.reverse_kl_loss, policies),
        "jsd": (losses.jsd_loss, policies | {"beta": config.beta}),
        "expected_entropy": (losses.expected_entropy_loss, policies),
        "huber": (losses.huber_loss, {"delta": config.delta}),
        "advantage_mse": (losses.advantage_mse_loss, policies),
        "advantage_huber": (losses.advantage_huber_loss, policies | {"delta": config.delta}),
    }
    loss, settings = functions[config.kind]
    return functools.partial(loss, mask=mask, **settings)


def weigh_at(config: LossConfig, student: Student, temperature: Any) -> WeightFunction | None:
    """What examples count, at a temperature.

    Args:
      config, student, temperature: as for :func:`loss_at`.

    Returns:
      a ``WeightFunction``; None where all count the same.
    """
    mask = _mask(student)
    if config.weights == "action_gap":
        return functools.partial(losses.action_gap_weights, mask=mask)
    if config.weights == "entropy":
        return functools.partial(losses.entropy_weights, temperature=temperature, mask=mask)
    return None


def make_divergence(config: LossConfig, student: Student, gives_logits: Sequence[bool]) -> LossFunction:
    """KL from the teachers' policies to the student's, whatever the loss: the measure that all students share.

    A student that gives Q-values (MSE, Huber) has a policy that is sharpened as the teacher's is.

    Args:
      config, student, gives_logits: as for :func:`make_loss`.

    Returns:
      a ``LossFunction``.
    """
    return _divergence_at(config, student, _temperature(config, gives_logits))


def _divergence_at(config: LossConfig, student: Student, temperature: Any) -> LossFunction:
    divergence = functools.partial(losses.kl_loss, temperature=temperature, mask=_mask(student))
    if not config.gives_q:
        return divergence
    return lambda outputs, teacher_q: divergence(outputs / temperature, teacher_q)


def temperatures(config: LossConfig, gives_logits: Sequence[bool]) -> list[float]:
    """What the outputs of each game's teacher are divided by, where it is not found from the play: until then.

    Args:
      config, gives_logits: as for :func:`make_loss`.
    """
    return [config.temperature_for(game, teacher_gives_logits=logits) for game, logits in enumerate(gives_logits)]


def student_temperature(config: LossConfig, game: int, *, gives_logits: bool) -> float:
    """What a student's outputs are divided by to be its policy's logits: a student of MSE or Huber gives Q-values.

    Args:
      config: the run's.
      game: its place.
      gives_logits: whether its teacher gives logits.
    """
    return config.temperature_for(game, teacher_gives_logits=gives_logits) if config.gives_q else 1.0


def _temperature(config: LossConfig, gives_logits: Sequence[bool]) -> float | Array:
    """One for all games, or float32 ``[G, 1, 1]``."""
    each = temperatures(config, gives_logits)
    if len(set(each)) == 1:
        return each[0]
    return jnp.asarray(each, jnp.float32)[:, None, None]


def _mask(student: Student) -> Array | None:
    """bool ``[G, 1, A]``; None where there is no padding: one game's arithmetic is then what it would be alone."""
    return None if student.mask.all() else jnp.asarray(student.mask[:, None, :])
