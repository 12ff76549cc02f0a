"""The student's update, as pure functions of a rule, a state and a minibatch or the replays that it is drawn from.

They are what one device does, over its own share of each minibatch, and use the named axis ``AXIS`` of all devices.
`pd_jax.learner.learner` maps them over the devices, `pd_jax.learner.ensemble` over several students on each as well.
From the outside in:

- :func:`updates_from_replay`: several updates in one scan, which :func:`update_from_replay` makes one by one;
- :func:`update`: one update, of all games (:func:`update_on_all`) or of the one whose turn it is
  (:func:`update_on_one`);
- :func:`step`: gradients, the all-reduce, and the optimizer's step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from pd_jax.config.sections import LearnerConfig
from pd_jax.learner.gradients import MeanLoss, gradient_parts, mean_gradients
from pd_jax.learner.muon import muon
from pd_jax.learner.objective import AutoTemperature, LossFunction, WeightFunction
from pd_jax.networks.student import Student
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import AXIS, DeviceGroup, mean_over_devices
from pd_jax.types import Batch

Games = tuple[int, ...] | None
"""Places of the games that are learnt, in order; None is all of them."""

Metrics = dict[str, Array]
"""``loss``, ``agreement`` (the student's greedy action is the teacher's) and ``grad_norm``, float32 scalars, are of the
update, means over the games it saw; ``game_loss``, ``game_agreement`` and, with a divergence, ``game_kl``, float32
``[G]``, are of each game, NaN if it was not seen."""


@flax.struct.dataclass
class LearnerState:
    """What training goes on from; identical on every device.

    Attributes:
      variables: the student's.
      optimizer_state: optax's.
      updates: int32 scalar, updates done.
      key: PRNG key of the sampling.
      temperature: of each game, float32 ``[G]``, where some are found from the play; None where all are settings.
    """

    variables: Any
    optimizer_state: Any
    updates: Array
    key: Array
    temperature: Array | None = None


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
) -> UpdateRule:
    """The rule that a configuration asks for.

    Args:
      student, loss: the rule's.
      config: optimizer, minibatch, and whether an update sees every game or one after another. The learning rate may
        be traced.
      devices: that share each minibatch.
      total_updates: of the whole run, over which a decaying learning rate falls.
      divergence, weigh, auto: the rule's.

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
    return UpdateRule(
        student=student,
        loss=loss,
        divergence=divergence,
        optimizer=make_optimizer(config, total_updates),
        alternates=config.games == "alternating" and student.num_games > 1,
        share=share,
        gradient_parts=gradient_parts(student, config, devices),
        weigh=weigh,
        auto=auto,
    )


def make_optimizer(config: LearnerConfig, total_updates: int) -> optax.GradientTransformation:
    """RMSProp as in the paper, Adam or Muon; behind a bound on the gradient's norm if one is set.

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


def init_state(rule: UpdateRule, key: Array) -> LearnerState:
    """A fresh student, before its first update."""
    init_key, key = jax.random.split(key)
    variables = rule.student.init(init_key)
    temperature = None if rule.auto is None else jnp.asarray(rule.auto.start, jnp.float32)
    return LearnerState(variables, rule.optimizer.init(variables), jnp.zeros((), jnp.int32), key, temperature)


def updates_from_replay(
    rule: UpdateRule,
    state: LearnerState,
    stored: tuple[ReplayState, ...],
    *,
    num_updates: int,
    games: Games = None,
) -> tuple[LearnerState, Metrics]:
    """Several updates, each from fresh minibatches.

    Args:
      rule: of each update.
      state: goes on from it.
      stored: a replay for each game. Lanes, capacity, length of vectors and number of actions may differ.
      num_updates: of them.
      games: those to learn; the replays of others may be empty.

    Returns:
      the next state and the metrics, means over those updates that saw the game.
    """
    rule = rule.at(state.temperature)
    seen = games_seen(rule, state.updates + jnp.arange(num_updates), games)
    state, metrics = lax.scan(lambda s, _: update_from_replay(rule, s, stored, games), state, length=num_updates)
    return state, {
        # Only the NaN of games that an update did not see is left out; others are to be noticed.
        name: jnp.where(seen, value, 0.0).sum(0) / seen.sum(0) if value.ndim > 1 else jnp.mean(value)
        for name, value in metrics.items()
    }


def update_from_replay(
    rule: UpdateRule, state: LearnerState, stored: tuple[ReplayState, ...], games: Games = None
) -> tuple[LearnerState, Metrics]:
    """One update from a fresh minibatch; arguments as for :func:`updates_from_replay`."""
    key, sample_key = jax.random.split(state.key)
    state = dataclasses.replace(state, key=key)
    if rule.alternates:
        # Replays differ in shape, so which of them is drawn from is a branch; what follows is the same for all.
        samplers = [
            lambda key, game=game: fetch(rule, stored[game], *place(rule, stored, game, key))
            for game in range(rule.num_games)
        ]
        batch = lax.switch(game_in_turn(rule, state.updates, games), samplers, sample_key)
        return update_on_one(rule, state, batch, games)
    places = [place(rule, stored, game, sample_key) for game in range(rule.num_games)]

    def fetch_all(places: Any) -> Batch:
        # What an empty replay gives is not learnt from.
        batches = [fetch(rule, store, *here) for store, here in zip(stored, zip(*places, strict=True), strict=True)]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *batches)

    drawn = jax.tree.map(lambda *parts: jnp.stack(parts), *places)
    if rule.weigh is None:
        return update_on_all(rule, state, drawn, games, fetch_all)
    # All weights come before the first part of the minibatch: their mean is that of all of it.
    weights = normalised_weights(rule.weigh, fetch_outputs(rule, stored, places))

    def fetch_weighed(part: Any) -> Batch:
        places, weights = part
        return dataclasses.replace(fetch_all(places), weights=weights)

    return update_on_all(rule, state, (drawn, weights), games, fetch_weighed)


@jax.named_scope("sample")
def place(rule: UpdateRule, stored: tuple[ReplayState, ...], game: int, key: Array) -> tuple[Array, Array]:
    """Where this device's share of a game's minibatch is: lanes and slots, int32 ``[share]`` each.

    The minibatch of all devices is the same for any number of them: lanes are drawn from in as many groups as the
    largest number of devices that lanes and minibatch could be dealt out to, each by a key of its own.

    Args:
      rule: of the update.
      stored: of all games.
      game: whose minibatch it is.
      key: of the update.
    """
    # A student of one game draws what it drew before there were several.
    key = jax.random.fold_in(key, game) if rule.num_games > 1 else key
    groups = math.gcd(stored[game].flags.shape[0], rule.share)
    first_group = lax.axis_index(AXIS) * groups
    return rings.place(stored[game], key, rule.share, num_groups=groups, first_group=first_group)


@jax.named_scope("sample")
def fetch(rule: UpdateRule, stored: ReplayState, lanes: Array, slots: Array) -> Batch:
    """What is stored at some places of a game, ``[B, ...]``, padded to what the games have in common."""
    batch = rings.fetch(stored, lanes, slots)
    missing = rule.student.num_actions - batch.teacher_q.shape[-1]
    return Batch(rule.student.pad(batch.observations), jnp.pad(batch.teacher_q, ((0, 0), (0, missing))))


@jax.named_scope("sample")
def fetch_outputs(rule: UpdateRule, stored: tuple[ReplayState, ...], places: Sequence[tuple[Array, Array]]) -> Array:
    """The teachers' outputs alone of what :func:`fetch` gives, ``[G, B, A]``."""
    each = []
    for store, (lanes, slots) in zip(stored, places, strict=True):
        outputs = rings.take(store, "teacher_q", lanes, slots)
        each.append(jnp.pad(outputs, ((0, 0), (0, rule.student.num_actions - outputs.shape[-1]))))
    return jnp.stack(each)


def normalised_weights(weigh: WeightFunction, teacher_q: Array) -> Array:
    """What examples count: 1 in the mean over each game's minibatch, of all devices together.

    Args:
      weigh: gives the weights as they are.
      teacher_q: of this device's share, float32 ``[G, B, A]``.

    Returns:
      float32 ``[G, B]``; all are 1 where all weights are 0.
    """
    weights = weigh(teacher_q)
    mean = mean_over_devices(weights.mean(axis=1, keepdims=True))
    return jnp.where(mean > 0.0, weights / jnp.where(mean > 0.0, mean, 1.0), 1.0)


def update(rule: UpdateRule, state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
    """One update from a given minibatch.

    Args:
      rule: of the update.
      state: goes on from it.
      batch: this device's share, ``[G, B, ...]``. Where games alternate, only that of game ``state.updates`` mod G is
        used.
    """
    rule = rule.at(state.temperature)
    if rule.alternates:
        return update_on_one(rule, state, jax.tree.map(lambda leaf: leaf[state.updates % rule.num_games], batch))
    if rule.weigh is not None:
        batch = dataclasses.replace(batch, weights=normalised_weights(rule.weigh, batch.teacher_q))
    return update_on_all(rule, state, batch)


def update_on_all(
    rule: UpdateRule,
    state: LearnerState,
    batch: Any,
    games: Games = None,
    fetch: Callable[[Any], Batch] = lambda batch: batch,
) -> tuple[LearnerState, Metrics]:
    """An update from examples of every game.

    Args:
      rule: of the update.
      state: goes on from it.
      batch: ``[G, B, ...]``: the examples, or what ``fetch`` makes into them.
      games: those to learn.
      fetch: see :func:`pd_jax.learner.gradients.mean_gradients`.
    """

    def mean_loss(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        outputs = rule.student.apply(variables, batch.observations)
        measures = measure(rule, outputs, batch.teacher_q, batch.weights)
        learnt = measures["loss"] if games is None else measures["loss"][jnp.array(games)]
        return learnt.mean(), measures

    return step(rule, state, mean_loss, batch, axis=1, games=games, fetch=fetch)


def update_on_one(
    rule: UpdateRule, state: LearnerState, batch: Batch, games: Games = None
) -> tuple[LearnerState, Metrics]:
    """An update from ``[B, ...]`` of the game whose turn it is; other arguments as for :func:`update_on_all`."""
    game = game_in_turn(rule, state.updates, games)
    is_game = (jnp.arange(rule.num_games) == game)[:, None, None]
    if rule.weigh is not None:
        weights = normalised_weights(rule.weigh, jnp.where(is_game, batch.teacher_q, 0.0))
        batch = dataclasses.replace(batch, weights=weights[game])

    def loss_of_game(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        outputs = rule.student.apply_game(variables, batch.observations, game)
        # The loss knows temperatures and masks by their places on the game axis. Zeros stand for the other games:
        # these outputs, with -inf where this game has no action, would give them infinite losses.
        outputs, teacher_q = jnp.where(is_game, outputs, 0.0), jnp.where(is_game, batch.teacher_q, 0.0)
        measures = measure(rule, outputs, teacher_q, batch.weights)
        return measures["loss"][game], measures

    return step(rule, state, loss_of_game, batch, axis=0, games=games)


def step(
    rule: UpdateRule,
    state: LearnerState,
    loss: MeanLoss,
    batch: Any,
    *,
    axis: int,
    games: Games,
    fetch: Callable[[Any], Batch] = lambda batch: batch,
) -> tuple[LearnerState, Metrics]:
    """Gradients of this device's share, averaged over all devices, then the same step on each.

    Args:
      rule: of the update.
      state: goes on from it.
      loss: whose gradients are taken.
      batch, axis, fetch: see :func:`pd_jax.learner.gradients.mean_gradients`.
      games: those that are learnt.
    """
    gradients, measures = mean_gradients(
        state.variables, loss, batch, axis=axis, parts=rule.gradient_parts, fetch=fetch
    )
    with jax.named_scope("all_reduce"):
        gradients, measures = mean_over_devices((gradients, measures))
    with jax.named_scope("optimizer"):
        changes, optimizer_state = rule.optimizer.update(gradients, state.optimizer_state, state.variables)
        variables = optax.apply_updates(state.variables, changes)
    seen = games_seen(rule, state.updates, games)
    metrics = {name: jnp.where(seen, measures[name], 0.0).sum() / seen.sum() for name in ("loss", "agreement")}
    metrics["grad_norm"] = optax.tree.norm(gradients)
    metrics |= {f"game_{name}": jnp.where(seen, value, jnp.nan) for name, value in measures.items()}
    return (
        LearnerState(
            variables=variables,
            optimizer_state=optimizer_state,
            updates=state.updates + 1,
            key=state.key,
            temperature=state.temperature,
        ),
        metrics,
    )


def measure(rule: UpdateRule, outputs: Array, teacher_q: Array, weights: Array | None = None) -> dict[str, Array]:
    """``loss``, ``agreement`` and, with a divergence, ``kl``: means over the examples, float32 ``[G]`` each.

    Args:
      rule: of the update.
      outputs: the student's, float32 ``[G, B, A]``.
      teacher_q: float32 ``[G, B, A]``.
      weights: of the examples in the loss, float32 ``[G, B]``, or ``[B]`` for all games; None is 1.
    """
    best = jnp.argmax(jnp.where(rule.student.mask[:, None], teacher_q, -jnp.inf), axis=-1)
    agrees = jnp.argmax(outputs, axis=-1) == best
    measures = {
        "loss": _mean_by_game(rule.loss, outputs, teacher_q, weights),
        "agreement": agrees.mean(axis=1, dtype=jnp.float32),
    }
    if rule.divergence is not None:
        measures["kl"] = _mean_by_game(rule.divergence, outputs, teacher_q)
    return measures


def _mean_by_game(loss: LossFunction, outputs: Array, teacher_q: Array, weights: Array | None = None) -> Array:
    """Means over the examples, float32 ``[G]``."""
    if len(outputs) == 1:
        each = loss(outputs.squeeze(0), teacher_q.squeeze(0))
        return (each if weights is None else each * weights.reshape(each.shape)).mean()[None]
    losses = loss(outputs, teacher_q)
    chex.assert_shape(losses, teacher_q.shape[:2])
    return (losses if weights is None else losses * weights).mean(axis=1)


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
