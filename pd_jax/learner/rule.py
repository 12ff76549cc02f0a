"""What an update follows and goes on from: its rule, made from the settings, and the learner's state."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from pd_jax.config.sections import LearnerConfig
from pd_jax.learner.anchor import Adding, Anchor
from pd_jax.learner.balance import Balance, BalanceState, make_balance
from pd_jax.learner.drawing import Preference
from pd_jax.learner.gradients import gradient_parts
from pd_jax.learner.muon import muon
from pd_jax.learner.objective import AutoTemperature, LossFunction, WeightFunction
from pd_jax.networks.student import Student
from pd_jax.replay.sequences import Stretch, Windows
from pd_jax.system.devices import DeviceGroup
from pd_jax.system.kept import kept

Games = tuple[int, ...] | None
"""Places of the games that are learnt, in order; None is all of them."""

Metrics = dict[str, Array]
"""``loss``, ``agreement`` (the student's greedy action is the teacher's) and ``grad_norm``, float32 scalars, are of the
update, means over the games it saw, each of which counts the same; ``game_loss``, ``game_agreement``, with a divergence
``game_kl`` and with a balance ``game_weight``, float32 ``[G]``, are of each game, NaN if it was not seen."""


@flax.struct.dataclass
class LearnerState:
    """What training goes on from; identical on every device.

    Attributes:
      variables: the student's.
      optimizer_state: optax's.
      updates: int32 scalar, updates done.
      key: PRNG key of the sampling.
      temperature: of each game, float32 ``[G]``, where some are found from the play; None where all are settings.
      average: of the variables over the updates, where one is kept; otherwise None.
      balance: weights of the games, where they are learnt; otherwise None.
      anchor: what a penalty holds the student to, where games are added to it; None where there is none.
    """

    variables: Any
    optimizer_state: Any
    updates: Array
    key: Array
    temperature: Array | None = None
    average: Any = None
    balance: BalanceState | None = None
    anchor: Anchor | None = None

    @property
    def student_variables(self) -> Any:
        """The variables of the student that is scored and handed on: the average, where one is kept."""
        return self.variables if self.average is None else self.average

    def starting_from(self, variables: Any) -> LearnerState:
        """The same state, of a student with these variables. Every optimizer begins at zeros, whatever they are."""
        average = None if self.average is None else jax.tree.map(jnp.copy, variables)
        return dataclasses.replace(self, variables=variables, average=average)


@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """All that an update depends on beside state and minibatch.

    Attributes:
      student: of G games.
      loss: per example. It must not look at actions that a game does not have, where the outputs are ``-inf``.
      divergence: as ``loss``; measured and reported as ``game_kl``, not learnt from. None reports none.
      optimizer: optax's.
      alternates: whether an update sees one game after another; otherwise it sees every game.
      share: examples of each game in one device's part of a minibatch.
      gradient_parts: that the gradients of such a share are taken in, one after another; divides it.
      weigh: what examples count; the mean over each game's minibatch, of all devices together, becomes 1. None has all
        count the same.
      auto: of temperatures that are part of the state, on which then loss, divergence and weights depend.
      preference: which examples are drawn rather than others; None has all be equally likely.
      random_shift: pixels that frames are moved by at most, each stack on its own.
      average_decay: share of the old average of the variables that is kept at each update; None keeps no average.
      balance: of the games; None has the mean of their losses learnt, or that of the game whose turn it is.
      adding: of a student that games are added to; None is any other.
      windows: which sequences a student with memory learns from; None is of single examples.
    """

    student: Student
    loss: LossFunction
    divergence: LossFunction | None
    optimizer: optax.GradientTransformation
    alternates: bool
    share: int
    gradient_parts: int
    weigh: WeightFunction | None = None
    auto: AutoTemperature | None = None
    preference: Preference | None = None
    random_shift: int = 0
    average_decay: float | None = None
    balance: Balance | None = None
    adding: Adding | None = None
    windows: Windows | None = None

    @property
    def num_sequences(self) -> int:
        """Sequences of each game in one device's part of a minibatch; of single examples, these."""
        return self.share if self.windows is None else self.share // self.windows.length

    @property
    def num_games(self) -> int:
        """G."""
        return self.student.num_games

    def at(self, temperature: Array | None) -> UpdateRule:
        """The rule at the temperatures of a state, which may be traced."""
        if self.auto is None or temperature is None:
            return self
        objective = self.auto.objective_at(temperature)
        return dataclasses.replace(
            self, loss=objective.loss, divergence=objective.divergence, weigh=objective.weigh, auto=None
        )


def make_rule(
    student: Student,
    loss: LossFunction,
    config: LearnerConfig,
    devices: DeviceGroup,
    *,
    total_updates: int,
    divergence: LossFunction | None = None,
    weigh: WeightFunction | None = None,
    auto: AutoTemperature | None = None,
    adding: Adding | None = None,
    stretch: Stretch | None = None,
) -> UpdateRule:
    """The rule that a configuration asks for.

    Args:
      student, loss: the rule's.
      config: optimizer, minibatch, and whether an update sees every game or one after another. The learning rate may
        be traced.
      devices: that share each minibatch.
      total_updates: of the whole run, over which a decaying learning rate falls.
      divergence, weigh, auto, adding: the rule's. Added games that are learnt alone do not alternate.
      stretch: of play that is stored in stretches which do not follow one another; None of any other.

    Returns:
      what the functions of this module take.

    Raises:
      ValueError: the minibatch does not split evenly over the devices, or not into as many parts on each.
    """
    if config.batch_size % devices.size:
        raise ValueError(f"batch_size {config.batch_size} does not split evenly over {devices.size} devices")
    share = config.batch_size // devices.size
    if share % config.accumulate:
        raise ValueError(f"{share} examples on each device do not split into {config.accumulate} parts")
    windows = None
    if student.memory is not None:
        windows = Windows(config.sequence_length, config.burn_in, *(stretch or ()))
        if share % (config.accumulate * windows.length):
            raise ValueError(
                f"{share} steps on each device are not {config.accumulate} parts of whole sequences of {windows.length}"
            )
    alternates = config.games == "alternating" and student.num_games > 1
    return UpdateRule(
        student=student,
        loss=loss,
        divergence=divergence,
        optimizer=make_optimizer(config, total_updates),
        alternates=alternates and (adding is None or adding.replays),
        share=share,
        gradient_parts=gradient_parts(student, config, devices),
        weigh=weigh,
        auto=auto,
        preference=Preference.of(config),
        random_shift=config.random_shift if len(student.observation_shape) == 3 else 0,
        average_decay=config.average_decay,
        balance=make_balance(config, student.num_games),
        adding=adding,
        windows=windows,
    )


@kept(8)
def make_optimizer(config: LearnerConfig, total_updates: int) -> optax.GradientTransformation:
    """RMSProp as in the paper, Adam or Muon; behind a bound on the gradient's norm if one is set.

    For equal settings it is the same one, so that what was compiled with it is found again.

    Args:
      config: rates and bounds.
      total_updates: after which a decaying learning rate is 0. The state's structure does not depend on it.
    """
    # A schedule in both cases: the optimizer's state keeps its shape.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        learning_rate = optax.linear_schedule(config.learning_rate, 0.0, total_updates)
    if config.optimizer == "rmsprop":
        optimizer = optax.rmsprop(learning_rate, decay=config.rmsprop_decay, eps=config.rmsprop_epsilon)
    elif config.optimizer == "muon":
        optimizer = muon(learning_rate)
    else:
        optimizer = optax.adam(learning_rate)
    if config.max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)


def init_student(student: Student, key: Array) -> tuple[Any, Array]:
    """Fresh variables, and the key that is left. It knows nothing of how they are learnt: of the programs of a start it
    takes longest to compile, and it is the same for all that learn such a student."""
    init_key, key = jax.random.split(key)
    return student.init(init_key), key


def init_state(rule: UpdateRule, key: Array) -> LearnerState:
    """A fresh student, before its first update."""
    return before_first_update(rule, *init_student(rule.student, key))


def before_first_update(rule: UpdateRule, variables: Any, key: Array) -> LearnerState:
    """What learning starts from, given :func:`init_student`'s part of it."""
    temperature = None if rule.auto is None else jnp.asarray(rule.auto.start, jnp.float32)
    average = None if rule.average_decay is None else jax.tree.map(jnp.copy, variables)
    balance = None if rule.balance is None else rule.balance.init()
    return LearnerState(
        variables,
        rule.optimizer.init(variables),
        jnp.zeros((), jnp.int32),
        key,
        temperature=temperature,
        average=average,
        balance=balance,
        anchor=None if rule.adding is None else rule.adding.anchor_of(variables["params"]),
    )


def learnt_games(rule: UpdateRule, games: Games) -> tuple[int, ...]:
    """Places of the games that are learnt."""
    return tuple(range(rule.num_games)) if games is None else games


def games_seen(rule: UpdateRule, updates: Array, games: Games = None) -> Array:
    """Which games the update after ``updates`` others sees, of those to learn: bool ``[..., G]``."""
    places = jnp.arange(rule.num_games)
    if rule.alternates:
        return game_in_turn(rule, updates, games)[..., None] == places
    learnt = jnp.ones(rule.num_games, jnp.bool_) if games is None else jnp.isin(places, jnp.array(games))
    return jnp.broadcast_to(learnt, (*updates.shape, rule.num_games))


def game_in_turn(rule: UpdateRule, updates: Array, games: Games = None) -> Array:
    """The game whose turn it is after ``updates`` others, where they alternate."""
    return updates % rule.num_games if games is None else jnp.array(games)[updates % len(games)]
