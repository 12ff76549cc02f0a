"""The student's update, as pure functions of a rule, a state and a minibatch or the replays that it is drawn from.

They are what one device does, over its own share of each minibatch, and use the named axis ``AXIS`` of all devices.
`pd_jax.learner.learner` maps them over the devices, `pd_jax.learner.ensemble` over several students on each as well.
From the outside in:

- :func:`updates_from_replay`: several updates in one scan, which :func:`update_from_replay` makes one by one;
- :func:`update`: one update, of all games (:func:`update_on_all`) or of the one whose turn it is
  (:func:`update_on_one`);
- :func:`step`: gradients, the all-reduce, and the optimizer's step; of balances that need each game's gradients apart
  it is :func:`update_by_game`.
"""

from __future__ import annotations

import dataclasses
import functools
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
from pd_jax.learner.anchor import Adding, Anchor
from pd_jax.learner.balance import Balance, BalanceState, make_balance, surgery
from pd_jax.learner.by_game import gradients_by_game, products, shared_layers
from pd_jax.learner.drawing import SHIFT, Preference, choose, draw_shifts, group_key, shift
from pd_jax.learner.gradients import MeanLoss, gradient_parts, mean_gradients
from pd_jax.learner.muon import muon
from pd_jax.learner.objective import AutoTemperature, LossFunction, WeightFunction
from pd_jax.losses import action_gap_weights
from pd_jax.networks.student import Student
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import AXIS, DeviceGroup, mean_over_devices
from pd_jax.types import Batch

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
) -> UpdateRule:
    """The rule that a configuration asks for.

    Args:
      student, loss: the rule's.
      config: optimizer, minibatch, and whether an update sees every game or one after another. The learning rate may
        be traced.
      devices: that share each minibatch.
      total_updates: of the whole run, over which a decaying learning rate falls.
      divergence, weigh, auto, adding: the rule's. Added games that are learnt alone do not alternate.

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
    games = _games_to_learn(rule, games)
    seen = games_seen(rule, state.updates + jnp.arange(num_updates), games)
    state, metrics = lax.scan(lambda s, _: update_from_replay(rule, s, stored, games), state, length=num_updates)
    means = {
        # Only the NaN of games that an update did not see is left out; others are to be noticed.
        name: jnp.where(seen, value, 0.0).sum(0) / seen.sum(0) if value.ndim > 1 else jnp.mean(value)
        for name, value in metrics.items()
    }
    return state, means if rule.adding is None else means | look_back(rule, rule.adding, state, stored, means)


def _games_to_learn(rule: UpdateRule, games: Games) -> Games:
    """Where games are added, those of ``games`` that are learnt; of games that alternate the turns of a cycle."""
    if rule.adding is None:
        return games
    everything = tuple(range(rule.num_games)) if rule.adding.replays else rule.adding.new
    learnt = everything if games is None else tuple(game for game in games if game in everything)
    return rule.adding.turns(learnt) if rule.alternates else learnt


def look_back(
    rule: UpdateRule, adding: Adding, state: LearnerState, stored: tuple[ReplayState, ...], metrics: Metrics
) -> Metrics:
    """What is measured after the updates of a call, and not learnt: the penalty, and the old games.

    Args:
      rule: of the updates.
      adding: of the rule.
      state: after them.
      stored: as for :func:`updates_from_replay`.
      metrics: those of the updates.

    Returns:
      ``penalty``, where there is one; where there is play of the old games to look at, the metrics ``game_...`` with
      those games in them: means over as much of it as a minibatch holds.
    """
    told: Metrics = {}
    if adding.has_anchor:
        told["penalty"] = adding.penalise(state.variables["params"], state.anchor)
    if adding.samples:
        # No key of the updates: what is learnt does not depend on what is measured.
        key = jax.random.fold_in(jax.random.key(2), state.updates)
        with jax.named_scope("look_back"):
            batch = fetch_some(rule, stored, adding.old_games, [place(rule, stored, g, key) for g in adding.old_games])
            measures = mean_over_devices(measure_some(rule, state.variables, batch, adding.old_games))
        places = jnp.array(adding.old_games)
        for name, values in measures.items():
            told[f"game_{name}"] = metrics[f"game_{name}"].at[places].set(values[places])
    return told


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
        if rule.random_shift:
            batch = shifted(rule, batch, place_shifts(rule, 0, sample_key))
        return update_on_one(rule, state, batch, games)
    if rule.adding is not None and not rule.adding.replays:
        assert games is not None
        return update_on_new(rule, state, stored, games, sample_key)
    places, corrections = draw_places(rule, state.variables, stored, sample_key)

    def fetch_all(places: Any) -> Batch:
        # What an empty replay gives is not learnt from.
        batches = [fetch(rule, store, *here) for store, here in zip(stored, zip(*places, strict=True), strict=True)]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *batches)

    drawn: dict[str, Any] = {"places": jax.tree.map(lambda *parts: jnp.stack(parts), *places)}
    if rule.weigh is not None or corrections is not None:
        # All weights come before the first part of the minibatch: their mean is that of all of it.
        weights = jnp.float32(1.0) if rule.weigh is None else rule.weigh(fetch_outputs(rule, stored, places))
        drawn["weights"] = normalised(weights if corrections is None else weights * corrections)
    if rule.random_shift:
        drawn["shifts"] = jnp.stack([place_shifts(rule, game, sample_key) for game in range(rule.num_games)])

    def fetch_drawn(part: dict[str, Any]) -> Batch:
        batch = fetch_all(part["places"])
        if rule.random_shift:
            batch = jax.vmap(functools.partial(shifted, rule))(batch, part["shifts"])
        return dataclasses.replace(batch, weights=part.get("weights"))

    return update_on_all(rule, state, drawn, games, fetch_drawn)


def draw_places(
    rule: UpdateRule, variables: Any, stored: tuple[ReplayState, ...], key: Array, games: Games = None
) -> tuple[list[tuple[Array, Array]], Array | None]:
    """Where this device's share of every game's minibatch is, and what preferred examples count, ``[G, share]``.

    With ``games`` it is of these alone, in their order.

    Args:
      rule: of the update.
      variables: the student's.
      stored: of all games.
      key: of the update.
      games: places of games.
    """
    wanted = range(rule.num_games) if games is None else games
    if rule.preference is None:
        return [place(rule, stored, game, key) for game in wanted], None
    candidates = [place(rule, stored, game, key, rule.preference.candidates) for game in wanted]
    priorities = prioritise(rule, variables, stored, candidates, games)
    places, corrections = [], []
    for index, game in enumerate(wanted):
        groups = num_groups(rule, stored, game)
        keys = group_key(jax.random.fold_in(key, game), lax.axis_index(AXIS) * groups + jnp.arange(groups))
        of_groups = priorities[index].reshape(groups, -1)
        chosen, counts = choose(rule.preference, keys, of_groups, rule.share // groups)
        flat = (chosen + of_groups.shape[1] * jnp.arange(groups)[:, None]).ravel()
        lanes, slots = candidates[index]
        places.append((lanes[flat], slots[flat]))
        corrections.append(counts.ravel())
    return places, jnp.stack(corrections)


@jax.named_scope("prefer")
def prioritise(
    rule: UpdateRule,
    variables: Any,
    stored: tuple[ReplayState, ...],
    candidates: Sequence[tuple[Array, Array]],
    games: Games = None,
) -> Array:
    """The priority of each candidate of every game, or of ``games``, float32 ``[G, K]``."""
    assert rule.preference is not None
    if games is not None:
        batch, places = fetch_some(rule, stored, games, candidates), jnp.array(games)
        if rule.preference.by == "action_gap":
            return action_gap_weights(batch.teacher_q, mask=jnp.asarray(rule.student.mask[:, None])[places])
        outputs = apply_some(rule, lax.stop_gradient(variables), batch.observations, games)
        return rule.loss(outputs, spread(rule, batch.teacher_q, games))[places]
    if rule.preference.by == "action_gap":
        return action_gap_weights(fetch_outputs(rule, stored, candidates), mask=jnp.asarray(rule.student.mask[:, None]))
    batches = [fetch(rule, store, *places) for store, places in zip(stored, candidates, strict=True)]
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
    # None of it is learnt from: the gradients are those of the chosen.
    outputs = rule.student.apply(lax.stop_gradient(variables), batch.observations)
    if rule.num_games == 1:
        # A student of one game has losses without the game axis.
        return rule.loss(outputs.squeeze(0), batch.teacher_q.squeeze(0))[None]
    return rule.loss(outputs, batch.teacher_q)


def place_shifts(rule: UpdateRule, game: int, key: Array) -> Array:
    """By how much this device's share of a game's stacks is moved, int32 ``[share, 2]``: as the minibatch of all
    devices says, whichever device has an example."""
    key = jax.random.fold_in(jax.random.fold_in(key, SHIFT), game)
    num_devices = lax.psum(1, AXIS)
    shifts = draw_shifts(key, num_devices * rule.share, rule.random_shift)
    return lax.dynamic_slice_in_dim(shifts, lax.axis_index(AXIS) * rule.share, rule.share)


def shifted(rule: UpdateRule, batch: Batch, shifts: Array) -> Batch:
    """A game's examples with their stacks of frames moved."""
    return dataclasses.replace(batch, observations=shift(batch.observations, shifts, rule.random_shift))


@jax.named_scope("sample")
def place(
    rule: UpdateRule, stored: tuple[ReplayState, ...], game: int, key: Array, times: int = 1
) -> tuple[Array, Array]:
    """Where this device's share of a game's minibatch is: lanes and slots, int32 ``[times * share]`` each.

    The minibatch of all devices is the same for any number of them: lanes are drawn from in as many groups as the
    largest number of devices that lanes and minibatch could be dealt out to, each by a key of its own.

    Args:
      rule: of the update.
      stored: of all games.
      game: whose minibatch it is.
      key: of the update.
      times: as many candidates as examples, or several times as many.
    """
    # A student of one game draws what it drew before there were several.
    key = jax.random.fold_in(key, game) if rule.num_games > 1 else key
    groups = num_groups(rule, stored, game)
    first_group = lax.axis_index(AXIS) * groups
    return rings.place(stored[game], key, times * rule.share, num_groups=groups, first_group=first_group)


def num_groups(rule: UpdateRule, stored: tuple[ReplayState, ...], game: int) -> int:
    """Groups of this device's lanes of a game that are drawn from by keys of their own."""
    return math.gcd(stored[game].flags.shape[0], rule.share)


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


def normalised(weights: Array) -> Array:
    """What examples count: 1 in the mean over each game's minibatch, of all devices together.

    Args:
      weights: of this device's share, float32 ``[G, B]``.

    Returns:
      float32 ``[G, B]``; all are 1 where all weights are 0.
    """
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
        batch = dataclasses.replace(batch, weights=normalised(rule.weigh(batch.teacher_q)))
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
    if rule.balance is not None and rule.balance.is_by_game:
        # Their gradients are taken in parts, of examples that are there as a whole.
        return update_by_game(rule, state, fetch(batch), rule.balance, games)
    weights = None if rule.balance is None else rule.balance.weights(state.balance, learnt_games(rule, games))

    def mean_loss(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        outputs = rule.student.apply(variables, batch.observations)
        measures = measure(rule, outputs, batch.teacher_q, batch.weights)
        if rule.adding is not None and rule.adding.replays:
            return rule.adding.weigh_games(measures["loss"], games or range(rule.num_games)), measures
        losses = measures["loss"] if weights is None else measures["loss"] * weights
        learnt = losses if games is None else losses[jnp.array(games)]
        return learnt.mean(), measures

    return step(rule, state, mean_loss, batch, axis=1, games=games, fetch=fetch, weights=weights)


def update_by_game(
    rule: UpdateRule, state: LearnerState, batch: Batch, balance: Balance, games: Games = None
) -> tuple[LearnerState, Metrics]:
    """An update from ``[G, B, ...]``, every game, by the gradients of each apart; other arguments as before."""
    learnt = learnt_games(rule, games)
    weights = balance.weights(state.balance, learnt)
    gradients, measures = gradients_by_game(
        state.variables, lambda game: game_loss(rule, game), batch, learnt, parts=rule.gradient_parts
    )
    own, places = weights[jnp.array(learnt)], jnp.array(learnt)

    def mean_of(gradients: Any, weights: Array) -> Any:
        return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1) / len(learnt), gradients)

    learnt_from = state.balance
    if balance.kind == "gradnorm":
        assert state.balance is not None
        last = gradients["params"]["torso"][shared_layers(state.variables)[-1]]
        mean, last, measures = _all_reduce((mean_of(gradients, own), last, measures))
        norms = jnp.sqrt(jnp.diagonal(products(last)))
        learnt_from = balance.after_norms(state.balance, measures["loss"], norms, learnt)
    else:
        shared = gradients["params"]["torso"]
        mean, shared, measures = _all_reduce((mean_of(gradients, own), shared, measures))
        own = own * surgery(products(shared) * own * own[:, None], state.updates)
        mean["params"]["torso"] = mean_of(shared, own)
    everywhere = {name: jnp.zeros(rule.num_games).at[places].set(value) for name, value in measures.items()}
    everywhere["weight"] = jnp.zeros(rule.num_games).at[places].set(own)
    return take_step(rule, dataclasses.replace(state, balance=learnt_from), mean, everywhere, games)


def update_on_one(
    rule: UpdateRule, state: LearnerState, batch: Batch, games: Games = None
) -> tuple[LearnerState, Metrics]:
    """An update from ``[B, ...]`` of the game whose turn it is; other arguments as for :func:`update_on_all`."""
    game = game_in_turn(rule, state.updates, games)
    if rule.weigh is not None:
        is_game = (jnp.arange(rule.num_games) == game)[:, None, None]
        weights = normalised(rule.weigh(jnp.where(is_game, batch.teacher_q, 0.0)))
        batch = dataclasses.replace(batch, weights=weights[game])

    return step(rule, state, game_loss(rule, game), batch, axis=0, games=games)


def game_loss(rule: UpdateRule, game: Array) -> MeanLoss:
    """The loss of one game, of ``[B, ...]``; its measures are ``[G]``, and mean something at that game's place."""
    is_game = (jnp.arange(rule.num_games) == game)[:, None, None]

    def loss_of_game(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        outputs = rule.student.apply_game(variables, batch.observations, game)
        # The loss knows temperatures and masks by their places on the game axis. Zeros stand for the other games:
        # these outputs, with -inf where this game has no action, would give them infinite losses.
        outputs, teacher_q = jnp.where(is_game, outputs, 0.0), jnp.where(is_game, batch.teacher_q, 0.0)
        measures = measure(rule, outputs, teacher_q, batch.weights)
        return measures["loss"][game], measures

    return loss_of_game


def update_on_new(
    rule: UpdateRule, state: LearnerState, stored: tuple[ReplayState, ...], games: tuple[int, ...], key: Array
) -> tuple[LearnerState, Metrics]:
    """An update from fresh minibatches of the added games alone: nothing of the others is stored, or computed.

    Args:
      rule: of the update.
      state: goes on from it.
      stored: of all games; those of games that are not learnt are not looked at.
      games: those to learn.
      key: of the sampling.
    """
    adding = rule.adding
    assert adding is not None
    places, corrections = draw_places(rule, state.variables, stored, key, games)
    drawn: dict[str, Any] = {"places": jax.tree.map(lambda *parts: jnp.stack(parts), *places)}
    if rule.weigh is not None or corrections is not None:
        weights = jnp.float32(1.0)
        if rule.weigh is not None:
            teacher_q = fetch_some(rule, stored, games, places).teacher_q
            weights = rule.weigh(spread(rule, teacher_q, games))[jnp.array(games)]
        drawn["weights"] = normalised(weights if corrections is None else weights * corrections)
    if rule.random_shift:
        drawn["shifts"] = jnp.stack([place_shifts(rule, game, key) for game in games])

    def fetch_drawn(part: dict[str, Any]) -> Batch:
        batch = fetch_some(rule, stored, games, list(zip(*part["places"], strict=True)))
        if rule.random_shift:
            batch = jax.vmap(functools.partial(shifted, rule))(batch, part["shifts"])
        return dataclasses.replace(batch, weights=part.get("weights"))

    def mean_loss(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        measures = measure_some(rule, variables, batch, games)
        penalty = adding.penalise(variables["params"], state.anchor)
        return measures["loss"][jnp.array(games)].mean() + penalty, measures

    return step(rule, state, mean_loss, drawn, axis=1, games=games, fetch=fetch_drawn)


def fetch_some(
    rule: UpdateRule, stored: tuple[ReplayState, ...], games: Sequence[int], places: Sequence[tuple[Array, Array]]
) -> Batch:
    """What is stored at some places of some games, ``[K, B, ...]``, padded to what all games have in common."""
    batches = [fetch(rule, stored[game], *here) for game, here in zip(games, places, strict=True)]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *batches)


def measure_some(rule: UpdateRule, variables: Any, batch: Batch, games: Sequence[int]) -> dict[str, Array]:
    """As :func:`measure`, of examples ``[K, B, ...]`` of some games; what stands at the places of others is nothing."""
    weights = None if batch.weights is None else spread(rule, batch.weights, games)
    outputs = apply_some(rule, variables, batch.observations, games)
    return measure(rule, outputs, spread(rule, batch.teacher_q, games), weights)


def apply_some(rule: UpdateRule, variables: Any, observations: Array, games: Sequence[int]) -> Array:
    """Outputs ``[G, B, A]`` from observations ``[K, B, ...]`` of some games, zeros at the places of others."""
    each = [rule.student.apply_game(variables, observations[index], game) for index, game in enumerate(games)]
    return spread(rule, jnp.stack(each), games)


def spread(rule: UpdateRule, values: Array, games: Sequence[int]) -> Array:
    """Values ``[K, ...]`` of some games at their places in ``[G, ...]``, and zeros: as in :func:`update_on_one`."""
    return jnp.zeros((rule.num_games, *values.shape[1:]), values.dtype).at[jnp.array(games)].set(values)


def step(
    rule: UpdateRule,
    state: LearnerState,
    loss: MeanLoss,
    batch: Any,
    *,
    axis: int,
    games: Games,
    fetch: Callable[[Any], Batch] = lambda batch: batch,
    weights: Array | None = None,
) -> tuple[LearnerState, Metrics]:
    """Gradients of this device's share, averaged over all devices, then the same step on each.

    Args:
      rule: of the update.
      state: goes on from it.
      loss: whose gradients are taken.
      batch, axis, fetch: see :func:`pd_jax.learner.gradients.mean_gradients`.
      games: those that are learnt.
      weights: of the games in the loss, float32 ``[G]``, which are told of; None tells nothing.
    """
    gradients, measures = mean_gradients(
        state.variables, loss, batch, axis=axis, parts=rule.gradient_parts, fetch=fetch
    )
    gradients, measures = _all_reduce((gradients, measures))
    if weights is not None:
        measures["weight"] = weights
    if rule.balance is not None and state.balance is not None:
        seen = games_seen(rule, state.updates, games)
        state = dataclasses.replace(state, balance=rule.balance.after_losses(state.balance, measures["loss"], seen))
    return take_step(rule, state, gradients, measures, games)


def take_step(
    rule: UpdateRule, state: LearnerState, gradients: Any, measures: dict[str, Array], games: Games
) -> tuple[LearnerState, Metrics]:
    """The optimizer's step, the same on each device.

    Args:
      rule: of the update.
      state: goes on from it.
      gradients: means over all devices, as are the measures.
      measures: float32 ``[G]`` each.
      games: those that are learnt.
    """
    gradients = gradients if rule.adding is None else rule.adding.free(gradients)
    with jax.named_scope("optimizer"):
        changes, optimizer_state = rule.optimizer.update(gradients, state.optimizer_state, state.variables)
        variables = optax.apply_updates(state.variables, changes)
        variables = variables if rule.adding is None else rule.adding.keep(state.variables, variables)
        average = next_average(rule, state, variables)
        if rule.adding is not None and average is not None:
            # The average of equal numbers may be rounded.
            average = rule.adding.keep(state.average, average)
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
            average=average,
            balance=state.balance,
            anchor=state.anchor,
        ),
        metrics,
    )


def next_average(rule: UpdateRule, state: LearnerState, variables: Any) -> Any:
    """The exponential moving average of the variables after an update; None where none is kept.

    Early on it forgets faster, by ``(1 + n) / (10 + n)`` after n updates, so that it soon leaves the initial weights.
    """
    if rule.average_decay is None:
        return None
    decay = jnp.minimum(rule.average_decay, (1.0 + state.updates) / (10.0 + state.updates))
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.average, variables)


def _all_reduce(tree: Any) -> Any:
    with jax.named_scope("all_reduce"):
        return mean_over_devices(tree)


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
