"""What each parameter matters to the games that a student plays: the diagonal of its policies' Fisher information.

For a policy π of a state x it is ``F = E_{a ~ π(x)} [(∂ log π(a | x) / ∂θ)²]``, here summed over all actions and not
drawn, in the mean over states of the old games' play, and in the sum over these games (Kirkpatrick et al. 2017). The
actions are the student's own: what its teachers would choose plays no part. A student that gives Q-values is taken for
the mean of a Gaussian of variance 1, whose information is ``Σ_a (∂q_a / ∂θ)²``.

How large F is depends on how sure the policies are, by orders of magnitude. It is divided by its mean over the old
student's parameters, so that one weight of the penalty means about the same for any student.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.learner.anchor import Adding
from pd_jax.learner.minibatch import fetch, place
from pd_jax.learner.rule import LearnerState, UpdateRule
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import mean_over_devices

SAMPLES = 1024
"""Stored steps of each old game, drawn with replacement, over which the mean is taken; by all devices together."""


def fisher_of(outputs: Array, jacobian: Any, *, gives_q: bool) -> Any:
    """The diagonal for one state.

    Args:
      outputs: float32 ``[A]``, logits or Q-values of the actions that the game has.
      jacobian: their derivatives, a pytree of ``[A, ...]``.
      gives_q: whether they are Q-values.

    Returns:
      a pytree of ``[...]``.
    """
    if gives_q:
        return jax.tree.map(lambda leaf: jnp.square(leaf).sum(0), jacobian)
    policy = jax.nn.softmax(outputs)

    def diagonal(leaf: Array) -> Array:
        score = leaf - jnp.tensordot(policy, leaf, 1)
        return jnp.tensordot(policy, jnp.square(score), 1)

    return jax.tree.map(diagonal, jacobian)


def estimate(
    rule: UpdateRule, adding: Adding, share: int, state: LearnerState, stored: tuple[ReplayState | None, ...]
) -> tuple[LearnerState, Array]:
    """Finds the importances from what the replays of the old games hold; what one device does.

    Args:
      rule: of the updates.
      adding: of the rule.
      share: states of each old game that this device draws.
      state: whose student is the old one still.
      stored: a replay for each old game.

    Returns:
      the state with them in its anchor, and the mean that they were divided by, a float32 scalar.
    """
    params = state.variables["params"]
    total = jax.tree.map(jnp.zeros_like, params)
    drawing = dataclasses.replace(rule, share=share)
    for game in adding.old_games:
        store = stored[game]
        assert store is not None
        # Keys of their own: no draw of the updates depends on whether this was done.
        lanes, slots = place(drawing, cast(Any, stored), game, jax.random.key(1))
        observations = fetch(drawing, store, lanes, slots).observations
        actions = rule.student.tasks[game].num_actions

        def add(total: Any, observation: Array, game: int = game, actions: int = actions) -> tuple[Any, None]:
            def outputs_of(params: Any) -> Array:
                outputs = rule.student.apply_game({**state.variables, "params": params}, observation[None], game)
                return outputs[0, :actions]

            outputs, pull_back = jax.vjp(outputs_of, params)
            jacobian = jax.vmap(lambda seed: pull_back(seed)[0])(jnp.eye(actions))
            fisher = fisher_of(outputs, jacobian, gives_q=adding.gives_q)
            return jax.tree.map(lambda t, f: t + f / share, total, fisher), None

        total, _ = lax.scan(add, total, observations)
    total = mean_over_devices(total)
    total = jax.tree.map(lambda leaf, old: jnp.where(old, leaf, 0.0), total, adding.old)
    sizes = jax.tree.map(lambda leaf, old: jnp.sum(jnp.broadcast_to(jnp.asarray(old), leaf.shape)), total, adding.old)
    summed = jnp.stack([leaf.sum() for leaf in jax.tree.leaves(total)]).sum()
    mean = summed / jnp.stack(jax.tree.leaves(sizes)).sum()
    importance = jax.tree.map(lambda leaf: leaf / jnp.where(mean > 0.0, mean, 1.0), total)
    assert state.anchor is not None
    return dataclasses.replace(state, anchor=dataclasses.replace(state.anchor, importance=importance)), mean
