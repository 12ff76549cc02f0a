"""PQN: parallelised Q-learning with lambda-returns and LayerNorm (Gallici et al. 2024, arXiv 2407.04811).

No replay and no target network: lanes play for a while, targets are computed once from what they saw, and a few
epochs of minibatch regression follow. One iteration is one jit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from pd_jax.actors import rollout
from pd_jax.config.algorithms import PQNConfig
from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.learner.muon import muon
from pd_jax.system.kept import kept
from pd_jax.trainers.algorithm import Iteration, Unrolled, compile_iteration, game_metrics, learning_rewards
from pd_jax.types import PolicyApply


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


@jax.named_scope("targets")
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


def make_optimizer(config: PQNConfig, num_games: int = 1) -> optax.GradientTransformation:
    """RAdam or Muon behind a bound on the gradient's norm."""
    # A schedule in both cases: the optimizer's state keeps its shape when a resumed run changes its mind.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        iterations = config.total_steps / (num_games * config.steps_per_rollout)
        updates = max(1, int(iterations * config.updates_per_rollout))
        learning_rate = optax.linear_schedule(config.learning_rate, 0.0, updates)
    optimizer = muon(learning_rate, vectors=0.1) if config.optimizer == "muon" else optax.radam(learning_rate)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)


def init(network: Any, observations: Array, config: PQNConfig, key: Array) -> PQNState:
    """A fresh learner for ``observations`` of the network's kind, ``[L, ...]``."""
    state: PQNState = _initialiser(network, config)(key, observations)
    return state


@kept(8)
def _initialiser(network: Any, config: PQNConfig) -> Any:
    @jax.jit
    def init_state(key: Array, observations: Array) -> PQNState:
        init_key, key = jax.random.split(key)
        variables = network.init(init_key, observations)
        return PQNState(variables, make_optimizer(config).init(variables), jnp.zeros((), jnp.int32), key)

    return init_state


def warm_start(state: PQNState, variables: Any) -> PQNState:
    """A fresh state with another network's weights."""
    return dataclasses.replace(state, variables=variables)


def start(environment: Environment, config: PQNConfig, key: Array) -> rollout.LaneState:
    """Resets every lane; that is all there is to play."""
    return rollout.start(environment, key)


def updates_done(state: PQNState, config: PQNConfig, num_games: int = 1) -> int:
    """Updates behind a state."""
    return int(state.env_steps) // (num_games * config.steps_per_rollout) * config.updates_per_rollout


def resume_note(config: PQNConfig) -> str:
    """What a run that is resumed begins afresh."""
    return "with fresh episodes"


def make_iteration(network: Any, environment: Environment, config: PQNConfig) -> Iteration:
    """Builds one compiled iteration: play ``rollout_length`` steps, compute targets, run the epochs.

    Returns:
      ``iteration(state, lanes) -> (state, lanes, metrics)``; ``state`` and ``lanes`` are donated.
    """
    learn = make_learn(network, config)

    def finish(
        state: PQNState, kept: None, unrolled: tuple[Unrolled, ...], epsilon: Array
    ) -> tuple[PQNState, rollout.LaneState, dict[str, Array]]:
        ((after, records, finished),) = unrolled
        state, metrics = learn(state, transitions_of(network, state.variables, after, records, config))
        return state, after, game_metrics(finished) | {"epsilon": epsilon} | metrics

    unroll = make_play(network.apply, environment, config)
    return compile_iteration((environment,), (unroll,), finish, lambda lanes: ((lanes,), None), config)


@flax.struct.dataclass
class PlayedStep:
    """What a step of play leaves: observations ``[L, ...]``, the action, its state's value, and what came of it."""

    observations: Array
    actions: Array
    value: Array
    rewards: Array
    terminated: Array
    is_last: Array
    is_first: Array


def make_play(
    apply: PolicyApply, environment: Environment, config: PQNConfig, other: PolicyApply | None = None
) -> rollout.Unroll:
    """Builds the play of an iteration, whose records are :class:`PlayedStep`; ``other`` may act in the learner's place,
    as the unroll's `pd_jax.actors.rollout.ActingStudent` says."""

    def record(before: rollout.LaneState, actions: Array, q_values: Array, after: TimeStep) -> PlayedStep:
        return PlayedStep(
            observations=before.timestep.observations,
            actions=actions,
            value=q_values.max(axis=-1),
            rewards=learning_rewards(after.rewards, config),
            terminated=after.terminated,
            is_last=after.is_last,
            is_first=after.is_first,
        )

    return rollout.make_unroll(environment, apply, config.rollout_length, record, student=other)


def transitions_of(
    network: Any, variables: Any, lanes: rollout.LaneState, played: PlayedStep, config: PQNConfig
) -> Transitions:
    """A rollout, and where it left the lanes, as Q-learning sees it."""
    last_value = network.apply(variables, lanes.timestep.observations).max(axis=-1)
    return Transitions(
        observations=played.observations,
        actions=played.actions,
        rewards=played.rewards,
        next_value=jnp.concatenate([played.value[1:], last_value[None]]),
        terminated=played.terminated,
        is_last=played.is_last,
        weight=(~played.is_first).astype(jnp.float32),
    )


def make_learn(network: Any, config: PQNConfig) -> Callable[[PQNState, Transitions], tuple[PQNState, dict[str, Array]]]:
    """Builds the second half, ``learn(state, transitions) -> (state, metrics)``: the targets and the epochs."""
    fit = make_fit(
        network.apply, lambda losses, q_values: {"loss": losses, "mean_q": q_values.mean()}, make_optimizer(config)
    )

    def learn(state: PQNState, transitions: Transitions) -> tuple[PQNState, dict[str, Array]]:
        samples = labelled(transitions, config)
        key, *epoch_keys = jax.random.split(state.key, config.epochs + 1)
        order = shuffled(epoch_keys, config)
        (variables, optimizer_state), metrics = fit(
            (state.variables, state.optimizer_state),
            order,
            lambda rows: jax.tree.map(lambda leaf: leaf[rows], samples),
        )
        state = PQNState(variables, optimizer_state, state.env_steps + config.steps_per_rollout, key)
        return state, metrics | {"updates": jnp.int32(config.updates_per_rollout)}

    return learn


@flax.struct.dataclass
class Samples:
    """What is regressed on what, ``[..., B]`` each; the weight is 0 for what is no transition."""

    observations: Array
    actions: Array
    targets: Array
    weight: Array


def labelled(transitions: Transitions, config: PQNConfig) -> Samples:
    """The ``T x L`` steps of a rollout with their targets, in one row."""
    targets = lambda_returns(
        transitions.rewards,
        transitions.next_value,
        transitions.terminated,
        transitions.is_last,
        gamma=config.gamma,
        td_lambda=config.td_lambda,
    )
    samples = Samples(transitions.observations, transitions.actions, targets, transitions.weight)
    rows: Samples = jax.tree.map(lambda leaf: leaf.reshape(config.steps_per_rollout, *leaf.shape[2:]), samples)
    return rows


def shuffled(keys: Sequence[Array], config: PQNConfig) -> Array:
    """The rows of every minibatch of every epoch, int32 ``[updates, B]``; ``keys`` are the epochs'."""
    minibatch = config.steps_per_rollout // config.minibatches
    order = jnp.stack([jax.random.permutation(key, config.steps_per_rollout) for key in keys])
    return order[:, : minibatch * config.minibatches].reshape(-1, minibatch)


def make_fit(
    apply: PolicyApply,
    describe: Callable[[Array, Array], dict[str, Array]],
    optimizer: optax.GradientTransformation,
) -> Callable[[tuple[Any, Any], Any, Callable[[Any], Samples]], tuple[tuple[Any, Any], dict[str, Array]]]:
    """Builds ``fit((variables, optimizer_state), order, take) -> ((variables, optimizer_state), metrics)``.

    There is an update for each item of ``order``, on the samples that ``take`` gives for it; if these have a game axis
    before their own, the loss is the mean over the games. The metrics are means over the updates.

    Args:
      apply: ``(variables, observations) -> float32 [..., B, A]``.
      describe: ``(losses [...], q_values [..., B, A]) -> metrics`` of one update, arrays by name.
      optimizer: optax's.
    """

    def loss(variables: Any, samples: Samples) -> tuple[Array, dict[str, Array]]:
        q_values = apply(variables, samples.observations)
        losses = regression_losses(q_values, samples)
        return losses.mean(), describe(losses, q_values)

    return make_epochs(loss, optimizer)


def regression_losses(q_values: Array, samples: Samples) -> Array:
    """Half the mean squared error of the chosen actions' values, ``[...]``; reset steps weigh nothing.

    Args:
      q_values: ``[..., B, A]``, of the observations.
      samples: of the same leading axes.
    """
    chosen = jnp.take_along_axis(q_values, samples.actions[..., None], axis=-1)[..., 0]
    squares = jnp.sum(samples.weight * (chosen - samples.targets) ** 2, axis=-1)
    return 0.5 * squares / jnp.maximum(samples.weight.sum(axis=-1), 1.0)


def make_epochs(
    loss: Callable[[Any, Any], tuple[Array, dict[str, Array]]], optimizer: optax.GradientTransformation
) -> Callable[[tuple[Any, Any], Any, Callable[[Any], Any]], tuple[tuple[Any, Any], dict[str, Array]]]:
    """As :func:`make_fit`, of any ``loss(variables, samples) -> (loss, metrics)``."""

    def update(carry: tuple[Any, Any], samples: Any) -> tuple[tuple[Any, Any], dict[str, Array]]:
        variables, optimizer_state = carry
        with jax.named_scope("loss"):
            gradients, metrics = jax.grad(loss, has_aux=True)(variables, samples)
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, variables)
            return (optax.apply_updates(variables, updates), optimizer_state), metrics

    def fit(carry: tuple[Any, Any], order: Any, take: Callable[[Any], Any]) -> tuple[tuple[Any, Any], dict[str, Array]]:
        carry, metrics = lax.scan(lambda carry, rows: update(carry, take(rows)), carry, order)
        return carry, jax.tree.map(lambda values: values.mean(axis=0), metrics)

    return fit
