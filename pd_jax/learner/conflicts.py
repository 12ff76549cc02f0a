"""Which games pull against each other: the cosines between their gradients, layer by layer, measured on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.learner.by_game import cosines, gradients_by_game, products, shared_layers
from pd_jax.learner.minibatch import fetch, normalised, place, weigh_steps
from pd_jax.learner.rule import Games, LearnerState, UpdateRule, learnt_games
from pd_jax.learner.update import game_loss
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import mean_over_devices

ALL_LAYERS = "torso"
"""What all shared layers together are called."""
_SEED = 1


def gradient_cosines(
    rule: UpdateRule, state: LearnerState, stored: tuple[ReplayState, ...], *, games: Games = None
) -> dict[str, tuple[Array, Array]]:
    """Cosines between the gradients of games, of a minibatch of each; what one device does.

    The minibatch depends on the number of updates alone: it takes nothing from the run's keys, and students of one
    recording that differ in their seeds are looked at on the same states. It is drawn uniformly, and frames are not
    shifted. Weights of games do not matter to it, but weights of examples do.

    Args:
      rule: of the updates.
      state: whose variables are looked at.
      stored: a replay for each game.
      games: places of those that are looked at, whose replays are not empty; None is all.

    Returns:
      by layer, and ``ALL_LAYERS``: float32 ``[G, G]`` and their norms ``[G]``, NaN where there is nothing to be said.
    """
    rule = rule.at(state.temperature)
    learnt = learnt_games(rule, games)
    key = jax.random.fold_in(jax.random.key(_SEED), state.updates)
    places = [place(rule, stored, game, key) for game in range(rule.num_games)]
    batches = [fetch(rule, store, *here) for store, here in zip(stored, places, strict=True)]
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
    if rule.windows is not None:
        counts, weights = weigh_steps(rule, stored, places)
        batch = dataclasses.replace(batch, counts=counts, weights=weights)
    elif rule.weigh is not None:
        batch = dataclasses.replace(batch, weights=normalised(rule.weigh(batch.teacher_q)))
    gradients, _ = gradients_by_game(
        state.variables, lambda game: game_loss(rule, game), batch, learnt, parts=rule.gradient_parts
    )
    shared: dict[str, Any] = mean_over_devices(gradients["params"]["torso"])
    inner = {layer: products(shared[layer]) for layer in shared_layers(state.variables)}
    inner[ALL_LAYERS] = products(shared)
    at = jnp.array(learnt)

    def everywhere(inner: Array) -> tuple[Array, Array]:
        own, norms = cosines(inner)
        matrix = jnp.full((rule.num_games, rule.num_games), jnp.nan)
        return (
            matrix.at[at[:, None], at].set(own),
            jnp.full(rule.num_games, jnp.nan).at[at].set(norms),
        )

    return {layer: everywhere(own) for layer, own in inner.items()}
