"""PQN: parallelised Q-learning with lambda-returns and LayerNorm (Gallici et al. 2024, arXiv 2407.04811).

No replay and no target network: lanes play for a while, targets are computed once from what they saw, and a few
epochs of minibatch regression follow. One iteration is one jit.
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
from pd_jax.config import PQNConfig
from pd_jax.envs import Environment, TimeStep
from pd_jax.tasks import Task
from pd_jax.teachers.algorithm import Iteration, epsilon_at, game_metrics, learning_rewards


@flax.struct.dataclass
class PQNState:
    """What training goes on from, besides the lanes.

    Attributes:
      variables: the network's.
      optimizer_state: optax's.
      env_steps: int32 scalar, control steps taken in all lanes together.
      key: PRNG key.
    """

    variables: Any
    optimizer_state: Any
    env_steps: Array
    key: Array


@flax.struct.dataclass
class Transitions:
    """``T`` steps of ``L`` lanes as Q-learning sees them.

    Attributes:
      observations: ``[T, L, ...]``.
      actions: int32 ``[T, L]``.
      rewards: float32 ``[T, L]``, clipped if so configured.
      next_value: float32 ``[T, L]``, ``max_a Q(s', a)``.
      terminated: bool ``[T, L]``, nothing follows.
      is_last: bool ``[T, L]``, the episode ended or was cut off: the return must not run on.
      weight: float32 ``[T, L]``, 0 for EnvPool's reset steps, which are no transitions.
    """

    observations: Array
    actions: Array
    rewards: Array
    next_value: Array
    terminated: Array
    is_last: Array
    weight: Array


def lambda_returns(
    rewards: Array, next_value: Array, terminated: Array, is_last: Array, *, gamma: float, td_lambda: float
) -> Array:
    """Q(lambda) targets, computed backwards over time (Gallici et al. 2024, section 3.2; Peng & Williams 1994).

    ``G_t = r_t + gamma * (1 - terminated_t) * ((1 - lambda_t) * next_value_t + lambda_t * G_{t+1})`` with
    ``lambda_t = 0`` where the episode ends or the rollout does.

    Args:
      rewards, next_value: float32 ``[T, L]``.
      terminated, is_last: bool ``[T, L]``.
      gamma: discount per step.
      td_lambda: in [0, 1]; 0 is one-step Q-learning.

    Returns:
      float32 ``[T, L]``.
    """

    def backward(later: Array, step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        reward, value, end, last = step
        bootstrap = jnp.where(last, value, (1.0 - td_lambda) * value + td_lambda * later)
        target = reward + gamma * jnp.where(end, 0.0, bootstrap)
        return target, target

    _, targets = lax.scan(backward, next_value[-1], (rewards, next_value, terminated, is_last), reverse=True)
    return targets


def make_optimizer(config: PQNConfig) -> optax.GradientTransformation:
    """RAdam behind a bound on the gradient's norm."""
    # A schedule in both cases: the optimizer's state keeps its shape when a resumed run changes its mind.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        iterations = config.total_steps / config.steps_per_rollout
        updates = max(1, int(iterations * config.updates_per_rollout))
        learning_rate = optax.linear_schedule(config.learning_rate, 0.0, updates)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.radam(learning_rate))


def init(network: Any, observations: Array, config: PQNConfig, key: Array) -> PQNState:
    """A fresh learner for ``observations`` of the network's kind, ``[L, ...]``."""

    @jax.jit
    def init_state(key: Array, observations: Array) -> PQNState:
        init_key, key = jax.random.split(key)
        variables = network.init(init_key, observations)
        return PQNState(variables, make_optimizer(config).init(variables), jnp.zeros((), jnp.int32), key)

    state: PQNState = init_state(key, observations)
    return state


def check(config: PQNConfig, task: Task) -> None:
    """There is nothing here that a machine could lack."""


def warm_start(state: PQNState, variables: Any) -> PQNState:
    """A fresh state with another network's weights."""
    return dataclasses.replace(state, variables=variables)


def start(environment: Environment, config: PQNConfig, key: Array) -> rollout.LaneState:
    """Resets every lane; that is all there is to play."""
    return rollout.start(environment, key)


def updates_done(state: PQNState, config: PQNConfig) -> int:
    """Updates behind a state."""
    return int(state.env_steps) // config.steps_per_rollout * config.updates_per_rollout


def resume_note(config: PQNConfig) -> str:
    """What a run that is resumed begins afresh."""
    return "with fresh episodes"


def make_iteration(network: Any, environment: Environment, config: PQNConfig) -> Iteration:
    """Builds one compiled iteration: play ``rollout_length`` steps, compute targets, run the epochs.

    Returns:
      ``iteration(state, lanes) -> (state, lanes, metrics)``; ``state`` and ``lanes`` are donated.
    """
    play, learn = make_play(network, environment, config), make_learn(network, config)

    def iteration(state: PQNState, lanes: rollout.LaneState) -> tuple[PQNState, rollout.LaneState, dict[str, Array]]:
        lanes, transitions, play_metrics = play(state.variables, lanes, epsilon_at(state.env_steps, config))
        state, metrics = learn(state, transitions)
        return state, lanes, play_metrics | metrics

    return jax.jit(iteration, donate_argnums=(0, 1))


def make_play(
    network: Any, environment: Environment, config: PQNConfig
) -> Callable[[Any, rollout.LaneState, Array], tuple[rollout.LaneState, Transitions, dict[str, Array]]]:
    """Builds the first half of an iteration, ``play(variables, lanes, epsilon) -> (lanes, transitions, metrics)``."""

    def play_step(
        variables: Any, epsilon: Array, lanes: rollout.LaneState
    ) -> tuple[rollout.LaneState, tuple[TimeStep, Array, Array, TimeStep, rollout.FinishedEpisodes]]:
        actions, q_values, key = rollout.act(network.apply, variables, lanes, epsilon)
        handle, timestep = environment.step(lanes.handle, actions, lanes.timestep)
        next_lanes, finished = rollout.advance(lanes, handle, timestep, key)
        outcome = dataclasses.replace(timestep, observations=jnp.zeros(()))
        return next_lanes, (lanes.timestep, actions, q_values.max(axis=-1), outcome, finished)

    def play(
        variables: Any, lanes: rollout.LaneState, epsilon: Array
    ) -> tuple[rollout.LaneState, Transitions, dict[str, Array]]:
        lanes, (before, actions, value, outcome, finished) = lax.scan(
            lambda s, _: play_step(variables, epsilon, s), lanes, length=config.rollout_length
        )
        last_value = network.apply(variables, lanes.timestep.observations).max(axis=-1)
        transitions = Transitions(
            observations=before.observations,
            actions=actions,
            rewards=learning_rewards(outcome.rewards, config),
            next_value=jnp.concatenate([value[1:], last_value[None]]),
            terminated=outcome.terminated,
            is_last=outcome.is_last,
            weight=(~outcome.is_first).astype(jnp.float32),
        )
        return lanes, transitions, game_metrics(finished) | {"epsilon": epsilon}

    return play


def make_learn(network: Any, config: PQNConfig) -> Callable[[PQNState, Transitions], tuple[PQNState, dict[str, Array]]]:
    """Builds the second half, ``learn(state, transitions) -> (state, metrics)``: the targets and the epochs."""
    optimizer = make_optimizer(config)
    num_samples = config.steps_per_rollout
    minibatch = num_samples // config.minibatches

    def loss(variables: Any, batch: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        observations, actions, targets, weight = batch
        q_values = network.apply(variables, observations)
        chosen = jnp.take_along_axis(q_values, actions[:, None], axis=-1)[:, 0]
        # Half the mean squared error; reset steps weigh nothing.
        return 0.5 * jnp.sum(weight * (chosen - targets) ** 2) / jnp.maximum(weight.sum(), 1.0), q_values.mean()

    def update(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
        variables, optimizer_state = carry
        (value, mean_q), gradients = jax.value_and_grad(loss, has_aux=True)(variables, batch)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, variables)
        return (optax.apply_updates(variables, updates), optimizer_state), (value, mean_q)

    def learn(state: PQNState, transitions: Transitions) -> tuple[PQNState, dict[str, Array]]:
        targets = lambda_returns(
            transitions.rewards,
            transitions.next_value,
            transitions.terminated,
            transitions.is_last,
            gamma=config.gamma,
            td_lambda=config.td_lambda,
        )
        flat = jax.tree.map(
            lambda leaf: leaf.reshape(num_samples, *leaf.shape[2:]),
            (transitions.observations, transitions.actions, targets, transitions.weight),
        )
        key, *epoch_keys = jax.random.split(state.key, config.epochs + 1)
        order = jnp.stack([jax.random.permutation(epoch_key, num_samples) for epoch_key in epoch_keys])
        order = order[:, : minibatch * config.minibatches].reshape(-1, minibatch)
        (variables, optimizer_state), (losses, mean_q) = lax.scan(
            lambda carry, rows: update(carry, jax.tree.map(lambda leaf: leaf[rows], flat)),
            (state.variables, state.optimizer_state),
            order,
        )
        state = PQNState(variables, optimizer_state, state.env_steps + num_samples, key)
        metrics = {"loss": losses.mean(), "mean_q": mean_q.mean(), "updates": jnp.int32(config.updates_per_rollout)}
        return state, metrics

    return learn
