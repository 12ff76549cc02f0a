"""Deep Q-learning from a replay, with a target network (Mnih et al. 2015), over vectorised environments.

Lanes play a few steps, the steps go into the replay, and minibatches drawn from it are regressed on one-step targets.
One iteration of all three is one jit. The paper's teachers were trained so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from pd_jax.actors import rollout
from pd_jax.config.algorithms import DQNConfig
from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.replay import transitions
from pd_jax.replay.transitions import Steps, Transitions, TransitionState
from pd_jax.trainers.algorithm import Iteration, Unrolled, compile_iteration, game_metrics, learning_rewards
from pd_jax.types import PolicyApply


@flax.struct.dataclass
class DQNState:
    """What training goes on from, besides the lanes and the replay.

    Attributes:
      variables: the network's.
      target_variables: those of some updates ago, which the targets are computed with.
      optimizer_state: optax's.
      env_steps: int32 scalar, control steps taken in all lanes together.
      updates: int32 scalar, minibatch updates done.
      key: PRNG key of the sampling.
    """

    variables: Any
    target_variables: Any
    optimizer_state: Any
    env_steps: Array
    updates: Array
    key: Array


@flax.struct.dataclass
class DQNPlay:
    """What a resumed run begins afresh: the lanes, and the replay of what they did."""

    lanes: rollout.LaneState
    stored: TransitionState


def td_targets(
    rewards: Array, is_terminal: Array, target_q: Array, *, gamma: float, online_q: Array | None = None
) -> Array:
    """One-step targets ``r + gamma * Q_target(s', a')``, and ``r`` where ``s'`` is terminal.

    ``a'`` is the target network's own best action (Mnih et al. 2015) or, given ``online_q``, the learning network's:
    it then takes the noise of two networks to be overestimated (double Q-learning, van Hasselt et al. 2016, eq. 4).

    Args:
      rewards: float32 ``[..., B]``.
      is_terminal: bool ``[..., B]``.
      target_q: float32 ``[..., B, A]``, the target network's values of ``s'``; ``-inf`` where there is no action.
      gamma: discount per step.
      online_q: float32 ``[..., B, A]``, the learning network's.

    Returns:
      float32 ``[..., B]``.
    """
    chooser = target_q if online_q is None else online_q
    value = value_of(target_q, chooser.argmax(axis=-1))
    return rewards + gamma * jnp.where(is_terminal, 0.0, value)


def value_of(q_values: Array, actions: Array) -> Array:
    """The values ``[..., B]`` of the actions ``[..., B]`` in ``[..., B, A]``."""
    return jnp.take_along_axis(q_values, actions[..., None], axis=-1)[..., 0]


def make_optimizer(config: DQNConfig, num_games: int = 1) -> optax.GradientTransformation:
    """Centred RMSProp or Adam; behind a bound on the gradient's norm if one is set."""
    # A schedule in both cases: the optimizer's state keeps its shape when a resumed run changes its mind.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        learning_steps = max(0, config.total_steps - num_games * config.learning_starts)
        updates = max(1, learning_steps // config.steps_per_update)
        learning_rate = optax.linear_schedule(config.learning_rate, 0.0, updates)
    if config.optimizer == "rmsprop":
        optimizer = optax.rmsprop(
            learning_rate, decay=config.rmsprop_decay, eps=config.rmsprop_epsilon, centered=True, eps_in_sqrt=True
        )
    else:
        optimizer = optax.adam(learning_rate, eps=config.adam_epsilon)
    if config.max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)


def init(network: Any, observations: Array, config: DQNConfig, key: Array) -> DQNState:
    """A fresh learner for ``observations`` of the network's kind, ``[L, ...]``."""

    @jax.jit
    def init_state(key: Array, observations: Array) -> DQNState:
        init_key, key = jax.random.split(key)
        variables = network.init(init_key, observations)
        zero = jnp.zeros((), jnp.int32)
        return DQNState(variables, variables, make_optimizer(config).init(variables), zero, zero, key)

    state: DQNState = init_state(key, observations)
    return state


def warm_start(state: DQNState, variables: Any) -> DQNState:
    """A fresh state with another network's weights, in both networks."""
    # Two buffers each: an iteration may write into one and not yet the other.
    return dataclasses.replace(state, variables=variables, target_variables=jax.tree.map(jnp.copy, variables))


def start(environment: Environment, config: DQNConfig, key: Array) -> DQNPlay:
    """Resets every lane, with nothing in the replay."""
    task = environment.task
    stored = transitions.init(
        config.num_lanes, config.capacity_per_lane, task.frame_shape, jnp.dtype(task.observation_dtype)
    )
    return DQNPlay(rollout.start(environment, key), stored)


def updates_done(state: DQNState, config: DQNConfig, num_games: int = 1) -> int:
    """Updates behind a state."""
    return int(state.updates)


def resume_note(config: DQNConfig) -> str:
    """What a run that is resumed begins afresh."""
    return (
        "with fresh episodes and an empty replay: a live emulator cannot be saved; "
        f"updates go on once there are {config.learning_starts:,} steps in it"
    )


def make_iteration(network: Any, environment: Environment, config: DQNConfig) -> Iteration:
    """Builds one compiled iteration: play ``rollout_length`` steps, store them, run the updates they are worth.

    Returns:
      ``iteration(state, play) -> (state, play, metrics)``; ``state`` and ``play`` are donated, and the replay is
      written in place. Until it holds ``learning_starts`` steps, there are no updates.
    """
    learn = make_learn(network, config)

    def finish(
        state: DQNState, stored: TransitionState, unrolled: tuple[Unrolled, ...], epsilon: Array
    ) -> tuple[DQNState, DQNPlay, dict[str, Array]]:
        ((lanes, steps, finished),) = unrolled
        after = DQNPlay(lanes, transitions.insert(stored, steps))
        state = dataclasses.replace(state, env_steps=state.env_steps + config.steps_per_rollout)
        state, metrics = learn(state, after.stored)
        return state, after, metrics | game_metrics(finished) | {"epsilon": epsilon}

    unroll = make_play(network.apply, environment, config)
    return compile_iteration((environment,), (unroll,), finish, lambda play: ((play.lanes,), play.stored), config)


def make_play(apply: PolicyApply, environment: Environment, config: DQNConfig) -> rollout.Unroll:
    """Builds the play of an iteration, whose records are the `pd_jax.replay.transitions.Steps` to be stored."""

    def record(before: rollout.LaneState, actions: Array, q_values: Array, after: TimeStep) -> Steps:
        seen = before.timestep
        return Steps(
            observations=seen.observations[..., -1] if seen.observations.ndim == 4 else seen.observations,
            # Not `is_first`, which also opens an episode within a game.
            opens_game=before.statistics.lengths == 0,
            is_last=seen.is_last,
            is_terminal=seen.terminated,
            actions=actions,
            rewards=learning_rewards(after.rewards, config),
        )

    return rollout.make_unroll(environment, apply, config.rollout_length, record)


@dataclasses.dataclass(frozen=True)
class LearningProblem:
    """What the updates learn from, and how they see it.

    Attributes:
      draw: ``(stored, key, updates) -> (minibatch, game)``. A minibatch may have a game axis before its own.
      apply: ``(variables, observations, game) -> float32 [..., B, A]`` for its observations.
      describe: ``(losses [..., B], q_values [..., B, A], game) -> metrics`` of one update, arrays by name.
      is_ready: whether enough is stored, a bool scalar.
    """

    draw: Callable[[Any, Array, Array], tuple[Transitions, Any]]
    apply: Callable[[Any, Array, Any], Array]
    describe: Callable[[Array, Array, Any], dict[str, Array]]
    is_ready: Callable[[Any], Array]


def is_ready(stored: TransitionState, config: DQNConfig) -> Array:
    """Whether the replay holds ``learning_starts`` steps, and a transition, which takes two steps of a lane."""
    return (stored.size >= 2) & (stored.size * config.num_lanes >= config.learning_starts)


def make_learn(
    network: Any, config: DQNConfig
) -> Callable[[DQNState, TransitionState], tuple[DQNState, dict[str, Array]]]:
    """Builds the updates of one iteration, ``learn(state, stored) -> (state, metrics)``."""
    problem = LearningProblem(
        draw=lambda stored, key, _: (transitions.sample(stored, key, config.batch_size), None),
        apply=lambda variables, observations, _: network.apply(variables, observations),
        describe=lambda losses, q_values, _: {"loss": losses.mean(), "mean_q": q_values.mean()},
        is_ready=lambda stored: is_ready(stored, config),
    )
    return make_updates(problem, config, make_optimizer(config), config.updates_per_rollout)


def make_updates(
    problem: LearningProblem, config: DQNConfig, optimizer: optax.GradientTransformation, num_updates: int
) -> Callable[[DQNState, Any], tuple[DQNState, dict[str, Array]]]:
    """Builds ``learn(state, stored) -> (state, metrics)``: ``num_updates`` updates, or none while too little is stored.

    The metrics are the sums of the updates' own over their number, which is ``updates``.
    """

    @jax.named_scope("targets")
    def targets(state: DQNState, batch: Transitions, game: Any) -> Array:
        online_q = problem.apply(state.variables, batch.next_observations, game) if config.double else None
        target_q = problem.apply(state.target_variables, batch.next_observations, game)
        return td_targets(batch.rewards, batch.is_terminal, target_q, gamma=config.gamma, online_q=online_q)

    def update(state: DQNState, stored: Any) -> tuple[DQNState, dict[str, Array]]:
        key, sample_key = jax.random.split(state.key)
        with jax.named_scope("sample"):
            batch, game = problem.draw(stored, sample_key, state.updates)
        wanted = targets(state, batch, game)

        def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
            q_values = problem.apply(variables, batch.observations, game)
            # The paper clips the error to [-1, 1] in the gradient, which is the Huber loss.
            losses = optax.huber_loss(value_of(q_values, batch.actions), wanted, delta=1.0)
            return losses.mean(), problem.describe(losses, q_values, game)

        with jax.named_scope("loss"):
            gradients, metrics = jax.grad(loss, has_aux=True)(state.variables)
        with jax.named_scope("optimizer"):
            changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.variables)
            variables = optax.apply_updates(state.variables, changes)
        updates = state.updates + 1
        target_variables = optax.periodic_update(variables, state.target_variables, updates, config.target_every)
        return DQNState(variables, target_variables, optimizer_state, state.env_steps, updates, key), metrics

    def learn(state: DQNState, stored: Any) -> tuple[DQNState, dict[str, Array]]:
        # A loop of no updates rather than a branch around them, which could make XLA copy the replay.
        count = jnp.where(problem.is_ready(stored), num_updates, 0)

        def body(_: Array, carry: tuple[DQNState, dict[str, Array]]) -> tuple[DQNState, dict[str, Array]]:
            state, sums = carry
            state, metrics = update(state, stored)
            return state, jax.tree.map(jnp.add, sums, metrics)

        _, shapes = jax.eval_shape(update, state, stored)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        state, sums = lax.fori_loop(0, count, body, (state, zeros))
        means = jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)
        return state, means | {"updates": count}

    return learn
