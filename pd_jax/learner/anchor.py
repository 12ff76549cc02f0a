"""What holds a student to what it was while it learns games that are added: weights that stay, and a penalty.

The old student's parameters θ* are kept beside the student's. With an importance F for each, the penalty is that of
elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3)::

    λ / 2 · Σ_i F_i (θ_i − θ*_i)²

summed over the parameters that the old student has; those of the added heads are free. For ``ewc``, F is the diagonal
of the Fisher information of the old games' policies, see `pd_jax.learner.importance`; for ``distance`` it is 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array


@flax.struct.dataclass
class Anchor:
    """What a penalty needs; part of the learner's state, and so of its checkpoints.

    Attributes:
      weights: the old student's parameters, and those that the added heads began with.
      importance: of each parameter, float32 of the same shapes; None where all of the old ones matter alike.
    """

    weights: Any
    importance: Any = None


@dataclasses.dataclass(frozen=True)
class Adding:
    """How an update of a student with added games differs from that of another.

    Attributes:
      new: places of the games that are added.
      num_games: of the student.
      old: which parameters are the old student's, as `pd_jax.networks.added.old_elements` has them.
      replays: whether the old games are learnt on.
      head_alone: whether the old student's parameters stay as they are.
      penalty: ``none``, ``ewc`` or ``distance``.
      weight: of the penalty.
      new_share: of the added games in the loss, or of the turns, where the old ones are learnt on.
      samples: whether there is play of the old games that is looked at, and not learnt from.
      gives_q: whether the student gives Q-values.
    """

    new: tuple[int, ...]
    num_games: int
    old: Any
    replays: bool
    head_alone: bool
    penalty: str
    weight: float
    new_share: float
    samples: bool
    gives_q: bool

    @property
    def old_games(self) -> tuple[int, ...]:
        """Places of the games that are not added."""
        return tuple(game for game in range(self.num_games) if game not in self.new)

    @property
    def has_anchor(self) -> bool:
        """Whether the old student's parameters are kept."""
        return not self.head_alone and self.penalty != "none"

    def anchor_of(self, params: Any, importance: Any = None) -> Anchor | None:
        """The anchor at some parameters; where importances are wanted and not given, they are 0."""
        if not self.has_anchor:
            return None
        # Copies: what an update takes over may not be in its arguments twice.
        weights = jax.tree.map(jnp.array, params)
        if self.penalty == "ewc" and importance is None:
            importance = jax.tree.map(jnp.zeros_like, params)
        return Anchor(weights, importance)

    def penalise(self, params: Any, anchor: Anchor | None) -> Array:
        """The penalty on parameters, a float32 scalar; 0 where there is no anchor."""
        if anchor is None:
            return jnp.zeros(())
        changes = jax.tree.map(lambda now, then: jnp.square(now - then), params, anchor.weights)
        # Importances are 0 where the old student has no parameter.
        shares = self.old if anchor.importance is None else anchor.importance
        each = jax.tree.map(lambda change, share: jnp.sum(change * share), changes, shares)
        return 0.5 * self.weight * jnp.sum(jnp.stack(jax.tree.leaves(each)))

    def free(self, gradients: Any) -> Any:
        """Gradients of variables, without those of parameters that stay."""
        if not self.head_alone:
            return gradients
        params = jax.tree.map(lambda own, old: jnp.where(old, 0.0, own), gradients["params"], self.old)
        return {**gradients, "params": params}

    def keep(self, before: Any, after: Any) -> Any:
        """Variables after an update, but for parameters that stay, whose bits are those from before."""
        if not self.head_alone:
            return after
        params = jax.tree.map(lambda b, a, old: jnp.where(old, b, a), before["params"], after["params"], self.old)
        return {**after, "params": params}

    def weigh_games(self, losses: Array, games: Sequence[int]) -> Array:
        """The loss of an update that sees old and new games: each side has its share, whatever the number of its games.

        Args:
          losses: float32 ``[G]``.
          games: places of those that count.
        """
        new = [game for game in games if game in self.new]
        old = [game for game in games if game not in self.new]
        if not new or not old:
            return losses[jnp.array(games)].mean()
        share = self.new_share
        return share * losses[jnp.array(new)].mean() + (1.0 - share) * losses[jnp.array(old)].mean()

    def turns(self, games: Sequence[int]) -> tuple[int, ...]:
        """The games of one cycle where they alternate: the new ones have their share of the turns, spread evenly.

        Args:
          games: places of those that are learnt.
        """
        new = [game for game in games if game in self.new]
        old = [game for game in games if game not in self.new]
        if not new or not old:
            return tuple(games)
        share = Fraction(self.new_share).limit_denominator(100)
        length = share.denominator
        while (length * share) % len(new) or (length - length * share) % len(old):
            length += share.denominator
        turns: list[int] = []
        taken = 0
        for turn in range(length):
            # One of the new, whenever their share of the turns so far has come to a whole number more.
            if (turn + 1) * share >= taken + 1:
                turns.append(new[taken % len(new)])
                taken += 1
            else:
                turns.append(old[(turn - taken) % len(old)])
        return tuple(turns)
