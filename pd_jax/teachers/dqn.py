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

from pd_jax import rollout
from pd_jax.config import DQNConfig
from pd_jax.distributed import DeviceGroup
from pd_jax.envs import Environment
from pd_jax.memory import check_replay_memory
from pd_jax.tasks import Task
from pd_jax.teachers import transitions
from pd_jax.teachers.algorithm import Iteration, epsilon_at, game_metrics, learning_rewards
from pd_jax.teachers.transitions import Steps, Transitions, TransitionState


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
      rewards: float32 ``[B]``.
      is_terminal: bool ``[B]``.
      target_q: float32 ``[B, A]``, the target network's values of ``s'``.
      gamma: discount per step.
      online_q: float32 ``[B, A]``, the learning network's.

    Returns:
      float32 ``[B]``.
    """
    chooser = target_q if online_q is None else online_q
    value = jnp.take_along_axis(target_q, chooser.argmax(axis=-1)[:, None], axis=-1)[:, 0]
    return rewards + gamma * jnp.where(is_terminal, 0.0, value)


def make_optimizer(config: DQNConfig) -> optax.GradientTransformation:
    """Centred RMSProp or Adam; behind a bound on the gradient's norm if one is set."""
    # A schedule in both cases: the optimizer's state keeps its shape when a resumed run changes its mind.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        learning_steps = max(0, config.total_steps - config.learning_starts)
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


def check(config: DQNConfig, task: Task) -> None:
    """Raises a UserError if the replay is larger than the memory of the device."""
    step_bytes = transitions.bytes_per_step(task.frame_shape, task.observation_dtype)
    check_replay_memory("dqn.replay_capacity", config.replay_capacity, step_bytes, task, DeviceGroup.local(1))


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


def updates_done(state: DQNState, config: DQNConfig) -> int:
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

    def play_step(
        variables: Any, epsilon: Array, lanes: rollout.LaneState
    ) -> tuple[rollout.LaneState, tuple[Steps, rollout.FinishedEpisodes]]:
        actions, _, key = rollout.act(network.apply, variables, lanes, epsilon)
        handle, timestep = environment.step(lanes.handle, actions, lanes.timestep)
        next_lanes, finished = rollout.advance(lanes, handle, timestep, key)
        seen = lanes.timestep
        step = Steps(
            observations=seen.observations[..., -1] if seen.observations.ndim == 4 else seen.observations,
            # Not `is_first`, which also opens an episode within a game.
            opens_game=lanes.statistics.lengths == 0,
            is_last=seen.is_last,
            is_terminal=seen.terminated,
            actions=actions,
            rewards=learning_rewards(timestep.rewards, config),
        )
        return next_lanes, (step, finished)

    def iteration(state: DQNState, play: DQNPlay) -> tuple[DQNState, DQNPlay, dict[str, Array]]:
        epsilon = epsilon_at(state.env_steps, config)
        lanes, (steps, finished) = lax.scan(
            lambda s, _: play_step(state.variables, epsilon, s), play.lanes, length=config.rollout_length
        )
        stored = transitions.insert(play.stored, steps)
        state = dataclasses.replace(state, env_steps=state.env_steps + config.steps_per_rollout)
        state, metrics = learn(state, stored)
        return state, DQNPlay(lanes, stored), metrics | game_metrics(finished) | {"epsilon": epsilon}

    return jax.jit(iteration, donate_argnums=(0, 1))


def make_learn(
    network: Any, config: DQNConfig
) -> Callable[[DQNState, TransitionState], tuple[DQNState, dict[str, Array]]]:
    """Builds the updates of one iteration, ``learn(state, stored) -> (state, metrics)``."""
    optimizer = make_optimizer(config)

    def targets(state: DQNState, batch: Transitions) -> Array:
        online_q = network.apply(state.variables, batch.next_observations) if config.double else None
        target_q = network.apply(state.target_variables, batch.next_observations)
        return td_targets(batch.rewards, batch.is_terminal, target_q, gamma=config.gamma, online_q=online_q)

    def update(state: DQNState, stored: TransitionState) -> tuple[DQNState, dict[str, Array]]:
        key, sample_key = jax.random.split(state.key)
        batch = transitions.sample(stored, sample_key, config.batch_size)
        wanted = targets(state, batch)

        def loss(variables: Any) -> tuple[Array, Array]:
            q_values = network.apply(variables, batch.observations)
            chosen = jnp.take_along_axis(q_values, batch.actions[:, None], axis=-1)[:, 0]
            # The paper clips the error to [-1, 1] in the gradient, which is the Huber loss.
            return optax.huber_loss(chosen, wanted, delta=1.0).mean(), q_values.mean()

        (value, mean_q), gradients = jax.value_and_grad(loss, has_aux=True)(state.variables)
        changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.variables)
        variables = optax.apply_updates(state.variables, changes)
        updates = state.updates + 1
        target_variables = optax.periodic_update(variables, state.target_variables, updates, config.target_every)
        state = DQNState(variables, target_variables, optimizer_state, state.env_steps, updates, key)
        return state, {"loss": value, "mean_q": mean_q}

    def learn(state: DQNState, stored: TransitionState) -> tuple[DQNState, dict[str, Array]]:
        # Two steps of each lane make the first transition.
        is_ready = (stored.size >= 2) & (stored.size * config.num_lanes >= config.learning_starts)
        # A loop of no updates rather than a branch around them, which could make XLA copy the replay.
        count = jnp.where(is_ready, config.updates_per_rollout, 0)

        def body(_: Array, carry: tuple[DQNState, dict[str, Array]]) -> tuple[DQNState, dict[str, Array]]:
            state, sums = carry
            state, metrics = update(state, stored)
            return state, jax.tree.map(jnp.add, sums, metrics)

        zero = jnp.zeros((), jnp.float32)
        state, sums = lax.fori_loop(0, count, body, (state, {"loss": zero, "mean_q": zero}))
        means = jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)
        return state, means | {"updates": count}

    return learn
