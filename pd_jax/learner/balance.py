"""What each game counts where one update sees several: by hand, or found from losses or gradients.

Everything here is over games alone, and knows neither networks nor devices; `pd_jax.learner.update` calls it between
the gradients and the optimizer's step. Where an update sees one game there is nothing to balance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from pd_jax.config.sections import BY_GAME, LearnerConfig

# Of log-variances: e^30 is a float32, and no sane loss is beyond.
_FARTHEST = 30.0
# A weight of GradNorm that became 0 or negative would have its game unlearnt.
_LEAST_WEIGHT = 1e-3
_TINY = 1e-30
_ORDER_SEED = 0


@flax.struct.dataclass
class BalanceState:
    """What is learnt of the games' weights; part of the learner's state.

    Attributes:
      values: float32 ``[G]``: log-variances (uncertainty), or weights whose mean is 1 (gradnorm).
      optimizer_state: optax's, of ``values``.
      first_loss: float32 ``[G]``, of each game's first update, NaN before it (gradnorm); otherwise None.
    """

    values: Array
    optimizer_state: Any
    first_loss: Array | None = None


@dataclasses.dataclass(frozen=True)
class Balance:
    """How the losses or the gradients of G games become one.

    Attributes:
      kind: as the setting ``learner.balance``.
      num_games: G, at least 2.
      given: weights by hand, not all 0; None has all count the same.
      rate: of the Adam that learns weights.
      alpha: of GradNorm.
    """

    kind: Literal["none", "uncertainty", "gradnorm", "pcgrad"]
    num_games: int
    given: tuple[float, ...] | None = None
    rate: float = 0.025
    alpha: float = 1.5

    @property
    def is_by_game(self) -> bool:
        """Whether an update needs the gradients of each game, and not of their sum alone."""
        return self.kind in BY_GAME

    def init(self) -> BalanceState | None:
        """Before the first update; None where nothing is learnt."""
        if self.kind == "uncertainty":
            values, first_loss = jnp.zeros(self.num_games), None
        elif self.kind == "gradnorm":
            values, first_loss = jnp.ones(self.num_games), jnp.full(self.num_games, jnp.nan)
        else:
            return None
        return BalanceState(values, optax.adam(self.rate).init(values), first_loss)

    def weights(self, state: BalanceState | None, games: Sequence[int]) -> Array:
        """What the loss of each game is multiplied by before the mean over those that are learnt.

        Args:
          state: of what is learnt.
          games: places of those that are learnt.

        Returns:
          float32 ``[G]``, >= 0. Of weights by hand and of GradNorm's the mean over ``games`` is 1, so that a learning
          rate means what it means without them (all are 0 where those by hand are); of uncertainty these are
          ``exp(-s)``, whose mean is free.
        """
        places = np.array(games)
        if state is None:
            given = np.ones(self.num_games) if self.given is None else np.array(self.given)
            mean = given[places].mean()
            return jnp.asarray(given / mean if mean > 0 else np.zeros_like(given), jnp.float32)
        if self.kind == "uncertainty":
            return jnp.exp(-state.values)
        return state.values / state.values[places].mean()

    def after_losses(self, state: BalanceState, losses: Array, seen: Array) -> BalanceState:
        """One step of the log-variances ``s = log σ²`` of Kendall, Gal and Cipolla (2018).

        The games' loss is the sum of ``exp(-s) L + s / 2`` (their equation 10, of classification; with regression's
        ``exp(-s) L / 2`` all weights are half as large). It is least in s where ``exp(-s) = 1 / (2 L)``.

        Args:
          state: of the update that is done.
          losses: float32 ``[G]``, means over the minibatch of all devices.
          seen: bool ``[G]``, the games that were learnt; others keep what they have.
        """
        gradient = jnp.where(seen, 0.5 - jnp.exp(-state.values) * jnp.where(seen, losses, 0.0), 0.0)
        values, optimizer_state = self._step(state, gradient)
        bounded = jnp.clip(values, -_FARTHEST, _FARTHEST)
        return BalanceState(jnp.where(seen, bounded, state.values), optimizer_state)

    def after_norms(self, state: BalanceState, losses: Array, norms: Array, games: Sequence[int]) -> BalanceState:
        """One step of GradNorm (Chen et al. 2018, algorithm 1).

        With the norms ``G_i = w_i |∇L_i|`` on the last shared layer and the rates ``r_i``, each game's loss over its
        first one, divided by their mean, the weights descend on the sum of ``|G_i - mean(G) r_i^α|``, in which
        ``mean(G) r_i^α`` is a constant. Then their mean is made 1. A weight does not fall below 0.001, which the paper
        leaves open.

        Args:
          state: of the update that is done.
          losses, norms: float32 ``[n]``, of the games that are learnt; ``norms`` are without weights.
          games: their places, n of them.
        """
        chex.assert_shape((losses, norms), (len(games),))
        places = np.array(games)
        assert state.first_loss is not None
        first = state.first_loss[places]
        first = jnp.where(jnp.isnan(first), losses, first)
        ratios = losses / jnp.maximum(first, _TINY)
        relative = ratios / jnp.maximum(ratios.mean(), _TINY)
        weighted = self.weights(state, games)[places] * norms
        target = weighted.mean() * relative**self.alpha
        gradient = jnp.zeros(self.num_games).at[places].set(jnp.sign(weighted - target) * norms)
        values, optimizer_state = self._step(state, gradient)
        values = jnp.maximum(values[places], _LEAST_WEIGHT)
        return BalanceState(
            state.values.at[places].set(values / values.mean()),
            optimizer_state,
            state.first_loss.at[places].set(first),
        )

    def _step(self, state: BalanceState, gradient: Array) -> tuple[Array, Any]:
        changes, optimizer_state = optax.adam(self.rate).update(gradient, state.optimizer_state)
        return state.values + changes, optimizer_state


def make_balance(config: LearnerConfig, num_games: int) -> Balance | None:
    """The balance that a configuration asks for; None is the plain mean, and where an update sees one game."""
    if num_games == 1 or config.games == "alternating" or (config.balance, config.game_weights) == ("none", None):
        return None
    assert config.game_weights is None or isinstance(config.game_weights, tuple)
    return Balance(config.balance, num_games, config.game_weights, config.balance_rate, config.gradnorm_alpha)


def surgery(products: Array, updates: Array) -> Array:
    """What of each game's gradient is in their sum once conflicts are projected away: PCGrad (Yu et al. 2020).

    Of each game's gradient, the others are gone through in an order drawn anew: where its product with one of them (as
    that was) is negative, its part along that one is taken away. All of this is of vectors in the span of the games'
    gradients, so it needs their products alone.

    Args:
      products: float32 ``[n, n]``, inner products of the gradients of n games.
      updates: int32 scalar, which the orders are drawn by: the same in every run, and on all devices.

    Returns:
      float32 ``[n]``: the sum of the projected gradients is the sum of the gradients, each times this. All are 1 where
      no product is negative.
    """
    count = len(products)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(_ORDER_SEED), updates), count)

    def project(own: Array, key: Array) -> Array:
        def along(parts: Array, other: Array) -> tuple[Array, None]:
            product = jnp.vdot(parts, products[:, other], precision=lax.Precision.HIGHEST)
            is_conflict = (product < 0.0) & (other != own)
            size = jnp.where(is_conflict, products[other, other], 1.0)
            return parts.at[other].add(jnp.where(is_conflict, -product / jnp.maximum(size, _TINY), 0.0)), None

        parts, _ = lax.scan(along, jax.nn.one_hot(own, count), jax.random.permutation(key, count))
        return parts

    return jax.vmap(project)(jnp.arange(count), keys).sum(0)
