"""Where a minibatch is in the replays, and how it is fetched: this device's share of it, by a rule.

The minibatch of all devices is the same for any number of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.learner.drawing import SHIFT, choose, draw_shifts, group_key, shift
from pd_jax.learner.rule import Games, UpdateRule
from pd_jax.losses import action_gap_weights
from pd_jax.networks.recent import encode_all
from pd_jax.replay import rings, sequences
from pd_jax.replay.rings import ReplayState
from pd_jax.replay.sequences import Windows
from pd_jax.system.devices import AXIS, mean_over_devices
from pd_jax.types import Batch


def draw_minibatch(
    rule: UpdateRule, variables: Any, stored: tuple[ReplayState, ...], key: Array, games: Games = None
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Batch]]:
    """This device's share of a minibatch: where its examples are, what they count, and how its frames are shifted.

    Args:
      rule: of the update.
      variables: the student's.
      stored: of all games.
      key: of the update.
      games: places of those to draw from, in order; None is all.

    Returns:
      arrays ``[K, share, ...]`` for each of K games, and what fetches the examples of any part of them along the second
      axis. What an empty replay gives is not to be learnt from.
    """
    wanted = tuple(range(rule.num_games)) if games is None else games
    places, corrections = draw_places(rule, variables, stored, key, games)
    drawn: dict[str, Any] = {"places": jax.tree.map(lambda *parts: jnp.stack(parts), *places)}
    if rule.windows is not None:
        drawn["counts"], drawn["weights"] = weigh_steps(rule, [stored[game] for game in wanted], places)
    elif rule.weigh is not None or corrections is not None:
        # All weights come before the first part of the minibatch: their mean is that of all of it.
        weights = jnp.float32(1.0)
        if rule.weigh is not None:
            teacher_q = fetch_outputs(rule, [stored[game] for game in wanted], places)
            weights = (
                rule.weigh(teacher_q) if games is None else rule.weigh(spread(rule, teacher_q, games))[jnp.array(games)]
            )
        drawn["weights"] = normalised(weights if corrections is None else weights * corrections)
    if rule.random_shift:
        drawn["shifts"] = jnp.stack([place_shifts(rule, game, key) for game in wanted])

    def fetch_drawn(part: dict[str, Any]) -> Batch:
        batch = fetch_some(rule, stored, wanted, list(zip(*part["places"], strict=True)))
        if rule.random_shift:
            batch = jax.vmap(functools.partial(shifted, rule))(batch, part["shifts"])
        return dataclasses.replace(batch, weights=part.get("weights"), counts=part.get("counts"))

    return drawn, fetch_drawn


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
    batch = fetch_some(rule, stored, range(rule.num_games), candidates)
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
    """Where this device's share of a game's minibatch is: lanes and slots, int32 ``[times * share]`` each; of
    sequences, those of their first steps.

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
    if rule.windows is not None:
        count = times * rule.num_sequences
        return sequences.place(stored[game], rule.windows, key, count, num_groups=groups, first_group=first_group)
    return rings.place(stored[game], key, times * rule.share, num_groups=groups, first_group=first_group)


def num_groups(rule: UpdateRule, stored: tuple[ReplayState, ...], game: int) -> int:
    """Groups of this device's lanes of a game that are drawn from by keys of their own."""
    return math.gcd(stored[game].flags.shape[0], rule.num_sequences)


@jax.named_scope("sample")
def fetch(rule: UpdateRule, stored: ReplayState, lanes: Array, slots: Array, game: int = 0) -> Batch:
    """What is stored at some places of a game, ``[B, ...]``, padded to what the games have in common."""
    if rule.windows is not None:
        return fetch_sequences(rule, rule.windows, stored, lanes, slots, game)
    batch = rings.fetch(stored, lanes, slots)
    # Of a continuous task the teacher's outputs may be more than the components of an action.
    missing = max(rule.student.num_actions - batch.teacher_q.shape[-1], 0)
    seen = rule.student.pad(batch.observations, game, fetch_recent(rule, stored, lanes, slots, game))
    return Batch(seen, jnp.pad(batch.teacher_q, ((0, 0), (0, missing))))


def fetch_recent(rule: UpdateRule, stored: ReplayState, lanes: Array, slots: Array, game: int) -> Array | None:
    """What was played before the steps at some places, float32 ``[..., n]``; None for a student that does not see it.

    Args:
      rule: of the update.
      stored: of the game.
      lanes, slots: int32 of any one shape ``[...]``.
      game: its place.
    """
    if not rule.student.last_actions:
        return None
    actions, is_there = rings.last_actions(stored, lanes.ravel(), slots.ravel())
    recent = encode_all(rule.student.tasks[game], actions, is_there)
    return recent.reshape(*slots.shape, -1)


def fetch_sequences(
    rule: UpdateRule, windows: Windows, stored: ReplayState, lanes: Array, starts: Array, game: int
) -> Batch:
    """The sequences that begin at some places of a game, ``[B, T, ...]``, without what their steps count."""
    slots = sequences.slots_of(stored, starts, 0, windows.length)
    observations, is_first = sequences.observe(stored, lanes, slots)
    of_steps = jnp.broadcast_to(lanes[:, None], slots.shape)
    outputs = rings.take(stored, "teacher_q", of_steps, slots)
    before = None
    if windows.burn_in:
        earlier = sequences.slots_of(stored, starts, -windows.burn_in, windows.burn_in)
        shown, opens = sequences.observe(stored, lanes, earlier)
        of_earlier = jnp.broadcast_to(lanes[:, None], earlier.shape)
        before = rule.student.pad(shown, game, fetch_recent(rule, stored, of_earlier, earlier, game)), opens
    # Of a continuous task the teacher's outputs may be more than the components of an action.
    missing = max(rule.student.num_actions - outputs.shape[-1], 0)
    return Batch(
        rule.student.pad(observations, game, fetch_recent(rule, stored, of_steps, slots, game)),
        jnp.pad(outputs, ((0, 0), (0, 0), (0, missing))),
        is_first=is_first,
        before=before,
    )


@jax.named_scope("sample")
def weigh_steps(
    rule: UpdateRule, stored: Sequence[ReplayState], places: Sequence[tuple[Array, Array]]
) -> tuple[Array, Array]:
    """What the steps of sequences count in what is measured, and in the loss: float32 ``[G, B, T]`` each.

    Where an observation ended an episode, nothing was decided, and it counts nothing.

    Args:
      rule: of the update.
      stored: of each game.
      places: of each game, as from :func:`place`.
    """
    windows = rule.windows
    assert windows is not None
    decided = jnp.stack(
        [
            sequences.is_learnt(store, lanes, starts, windows.length)
            for store, (lanes, starts) in zip(stored, places, strict=True)
        ]
    ).astype(jnp.float32)
    flat = decided.reshape(len(decided), -1)
    counts = normalised(flat)
    if rule.weigh is None:
        return counts.reshape(decided.shape), counts.reshape(decided.shape)
    steps = []
    for store, (lanes, starts) in zip(stored, places, strict=True):
        slots = sequences.slots_of(store, starts, 0, windows.length)
        steps.append((jnp.broadcast_to(lanes[:, None], slots.shape).ravel(), slots.ravel()))
    weights = normalised(flat * rule.weigh(fetch_outputs(rule, stored, steps)))
    return counts.reshape(decided.shape), weights.reshape(decided.shape)


@jax.named_scope("sample")
def fetch_outputs(rule: UpdateRule, stored: Sequence[ReplayState], places: Sequence[tuple[Array, Array]]) -> Array:
    """The teachers' outputs alone of what :func:`fetch` gives, ``[G, B, A]``."""
    each = []
    for store, (lanes, slots) in zip(stored, places, strict=True):
        outputs = rings.take(store, "teacher_q", lanes, slots)
        missing = max(rule.student.num_actions - outputs.shape[-1], 0)
        each.append(jnp.pad(outputs, ((0, 0), (0, missing))))
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


def fetch_some(
    rule: UpdateRule, stored: tuple[ReplayState, ...], games: Sequence[int], places: Sequence[tuple[Array, Array]]
) -> Batch:
    """What is stored at some places of some games, ``[K, B, ...]``, padded to what all games have in common."""
    batches = [fetch(rule, stored[game], *here, game) for game, here in zip(games, places, strict=True)]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *batches)


def apply_some(rule: UpdateRule, variables: Any, observations: Array, games: Sequence[int]) -> Array:
    """Outputs ``[G, B, A]`` from observations ``[K, B, ...]`` of some games, zeros at the places of others."""
    each = [rule.student.apply_game(variables, observations[index], game) for index, game in enumerate(games)]
    return spread(rule, jnp.stack(each), games)


def spread(rule: UpdateRule, values: Array, games: Sequence[int]) -> Array:
    """Values ``[K, ...]`` of some games at their places in ``[G, ...]``, and zeros: as in :func:`update_on_one`."""
    return jnp.zeros((rule.num_games, *values.shape[1:]), values.dtype).at[jnp.array(games)].set(values)
