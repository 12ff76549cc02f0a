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
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from pd_jax.learner.anchor import Adding
from pd_jax.learner.balance import Balance, surgery
from pd_jax.learner.by_game import gradients_by_game, products, shared_layers
from pd_jax.learner.continuous import agreement
from pd_jax.learner.gradients import MeanLoss, mean_gradients
from pd_jax.learner.minibatch import (
    apply_some,
    draw_minibatch,
    fetch,
    fetch_some,
    normalised,
    place,
    place_shifts,
    shifted,
    spread,
)
from pd_jax.learner.objective import LossFunction
from pd_jax.learner.rule import Games, LearnerState, Metrics, UpdateRule, game_in_turn, games_seen, learnt_games
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import mean_over_devices
from pd_jax.types import Batch


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
            lambda key, game=game: fetch(rule, stored[game], *place(rule, stored, game, key), game)
            for game in range(rule.num_games)
        ]
        batch = lax.switch(game_in_turn(rule, state.updates, games), samplers, sample_key)
        if rule.random_shift:
            batch = shifted(rule, batch, place_shifts(rule, 0, sample_key))
        return update_on_one(rule, state, batch, games)
    if rule.adding is not None and not rule.adding.replays:
        assert games is not None
        return update_on_new(rule, state, stored, games, sample_key)
    drawn, fetch_drawn = draw_minibatch(rule, state.variables, stored, sample_key)
    return update_on_all(rule, state, drawn, games, fetch_drawn)


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
        outputs, batch = answer(rule, variables, batch)
        measures = measure(rule, outputs, batch.teacher_q, batch.weights, batch.counts)
        if rule.adding is not None and rule.adding.replays:
            return rule.adding.weigh_games(measures["loss"], games or range(rule.num_games)), measures
        losses = measures["loss"] if weights is None else measures["loss"] * weights
        learnt = losses if games is None else losses[jnp.array(games)]
        return learnt.mean(), measures

    return step(rule, state, mean_loss, batch, axis=1, games=games, fetch=fetch, weights=weights)


def answer(rule: UpdateRule, variables: Any, batch: Batch, game: Array | None = None) -> tuple[Array, Batch]:
    """The student's outputs for a minibatch, and what else there is of its examples; of sequences, step by step.

    A student with memory goes through the steps before each sequence first, without a gradient: it is truncated there
    (Williams and Peng 1990). Where there are none, its memory is empty.

    Args:
      rule: of the update.
      variables: the student's.
      batch: ``[G, B, ...]``, or ``[G, B, T, ...]`` of sequences.
      game: a place, of ``[B, ...]`` of that game; None is every game.

    Returns:
      float32 ``[G, B, A]``, or ``[G, B T, A]``, and the minibatch without observations, as long.
    """
    student = rule.student
    if rule.windows is None:
        if game is None:
            return student.apply(variables, batch.observations), batch
        return student.apply_game(variables, batch.observations, game), batch
    assert batch.is_first is not None
    axis = 1 if game is None else 0

    def remember(variables: Any, observations: Array, is_first: Array, state: Array) -> tuple[Array, Array]:
        if game is None:
            return student.remember(variables, observations, is_first, state)
        return student.remember_game(variables, observations, is_first, state, game)

    state = jnp.zeros((*batch.is_first.shape[:-1], student.state_size))
    if batch.before is not None:
        _, state = remember(lax.stop_gradient(variables), *batch.before, state)
    outputs, _ = remember(variables, batch.observations, batch.is_first, lax.stop_gradient(state))

    def flat(steps: Array | None) -> Any:
        return None if steps is None else steps.reshape(*steps.shape[:axis], -1, *steps.shape[axis + 2 :])

    others = Batch(batch.is_first, flat(batch.teacher_q), flat(batch.weights), counts=flat(batch.counts))
    return flat(outputs), others


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
        outputs, batch = answer(rule, variables, batch, game)
        # The loss knows temperatures and masks by their places on the game axis. Zeros stand for the other games:
        # these outputs, with -inf where this game has no action, would give them infinite losses.
        outputs, teacher_q = jnp.where(is_game, outputs, 0.0), jnp.where(is_game, batch.teacher_q, 0.0)
        measures = measure(rule, outputs, teacher_q, batch.weights, batch.counts)
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
    drawn, fetch_drawn = draw_minibatch(rule, state.variables, stored, key, games)

    def mean_loss(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        measures = measure_some(rule, variables, batch, games)
        penalty = adding.penalise(variables["params"], state.anchor)
        return measures["loss"][jnp.array(games)].mean() + penalty, measures

    return step(rule, state, mean_loss, drawn, axis=1, games=games, fetch=fetch_drawn)


def measure_some(rule: UpdateRule, variables: Any, batch: Batch, games: Sequence[int]) -> dict[str, Array]:
    """As :func:`measure`, of examples ``[K, B, ...]`` of some games; what stands at the places of others is nothing."""
    weights = None if batch.weights is None else spread(rule, batch.weights, games)
    outputs = apply_some(rule, variables, batch.observations, games)
    return measure(rule, outputs, spread(rule, batch.teacher_q, games), weights)


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


def measure(
    rule: UpdateRule, outputs: Array, teacher_q: Array, weights: Array | None = None, counts: Array | None = None
) -> dict[str, Array]:
    """``loss``, ``agreement`` and, with a divergence, ``kl``: means over the examples, float32 ``[G]`` each.

    Of a continuous task the agreement is `pd_jax.learner.continuous.agreement`.

    Args:
      rule: of the update.
      outputs: the student's, float32 ``[G, B, A]``.
      teacher_q: float32 ``[G, B, A]``.
      weights: of the examples in the loss, float32 ``[G, B]``, or ``[B]`` for all games; None is 1.
      counts: of the examples in what is measured beside it, likewise.
    """
    if rule.student.is_continuous:
        agrees = agreement(outputs, teacher_q, rule.student.tasks[0])
    else:
        best = jnp.argmax(jnp.where(rule.student.mask[:, None], teacher_q, -jnp.inf), axis=-1)
        agrees = jnp.argmax(outputs, axis=-1) == best
    measures = {
        "loss": _mean_by_game(rule.loss, outputs, teacher_q, weights),
        "agreement": (agrees if counts is None else agrees * counts).mean(axis=1, dtype=jnp.float32),
    }
    if rule.divergence is not None:
        measures["kl"] = _mean_by_game(rule.divergence, outputs, teacher_q, counts)
    return measures


def _mean_by_game(loss: LossFunction, outputs: Array, teacher_q: Array, weights: Array | None = None) -> Array:
    """Means over the examples, float32 ``[G]``."""
    if len(outputs) == 1:
        each = loss(outputs.squeeze(0), teacher_q.squeeze(0))
        return (each if weights is None else each * weights.reshape(each.shape)).mean()[None]
    losses = loss(outputs, teacher_q)
    chex.assert_shape(losses, teacher_q.shape[:2])
    return (losses if weights is None else losses * weights).mean(axis=1)
