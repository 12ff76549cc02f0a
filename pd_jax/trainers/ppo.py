"""PPO: proximal policy optimisation of a Gaussian policy (Schulman et al. 2017, arXiv 1707.06347).

Lanes play for a while with the policy's own noise, advantages are estimated once from what they saw, and a few epochs
of minibatches follow. Observations and rewards are normalised by running statistics; those of the observations are
frozen into the teacher file. One iteration is one jit.

The details that decide how well it learns are those of Huang et al. 2022 ("The 37 implementation details of proximal
policy optimization"): orthogonal layers with a small last one, a standard deviation that does not depend on the
observation, Adam with an epsilon of 1e-5, a rate that falls to 0, a bound on the gradient's norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from pd_jax.actors import rollout
from pd_jax.config.algorithms import PPOConfig
from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.registry import make_network
from pd_jax.trainers.algorithm import Iteration, game_metrics
from pd_jax.trainers.pqn import make_epochs
from pd_jax.trainers.running_statistics import RunningStatistics, normalise
from pd_jax.trainers.surrogate import (
    clipped_surrogate_loss,
    gaussian_entropy,
    gaussian_log_probability,
    generalised_advantages,
    standardised,
    value_loss,
    weighted_mean,
)

REWARD_CLIP = 10.0
"""Of normalised rewards, in standard deviations of the discounted return (VecNormalize's)."""
_ADAM_EPSILON = 1e-5
_HIDDEN_SCALE, _POLICY_SCALE, _VALUE_SCALE = 2.0**0.5, 0.01, 1.0
STATISTICS = "statistics"
"""Those of the observations among a policy's variables."""


@dataclasses.dataclass(frozen=True)
class GaussianPolicy:
    """The network that plays, with a critic beside it; hashable, for ``jax.jit``.

    Its ``variables`` are ``params`` as a teacher file has them, whose output layer gives D means and D log standard
    deviations, and the ``statistics`` of observations. The log standard deviations are biases: their weights are 0 and
    stay it.

    Attributes:
      network: from normalised observations to ``[N, 2 * D]``.
      critic: from normalised observations to ``[N, 1]``.
      observation_clip: of normalised observations; None clips nothing.
      normalises: whether observations are normalised at all.
    """

    network: Any
    critic: Any
    observation_clip: float | None
    normalises: bool

    def init(self, key: Array, observations: Array, initial_std: float) -> tuple[Any, Any]:
        """Fresh variables of the policy, and the critic's."""
        policy_key, critic_key = jax.random.split(key)
        params = _orthogonal(policy_key, self.network.init(policy_key, observations)["params"], _POLICY_SCALE)
        output = params["head"]["output"]
        half = output["bias"].shape[0] // 2
        bias = output["bias"].at[half:].set(jnp.log(initial_std))
        params["head"]["output"] = {"kernel": output["kernel"].at[:, half:].set(0.0), "bias": bias}
        statistics = RunningStatistics.fresh(observations.shape[1:])
        critic = _orthogonal(critic_key, self.critic.init(critic_key, observations)["params"], _VALUE_SCALE)
        return {"params": params, STATISTICS: statistics}, critic

    def apply(self, variables: Any, observations: Array) -> Array:
        """``[N, D]`` to float32 ``[N, 2 * D]``, means first and then log standard deviations."""
        return self.outputs(variables["params"], self.seen(variables, observations))

    def seen(self, variables: Any, observations: Array) -> Array:
        """Observations as the networks see them."""
        if not self.normalises:
            return observations.astype(jnp.float32)
        return normalise(observations.astype(jnp.float32), variables[STATISTICS], self.observation_clip)

    def outputs(self, params: Any, seen: Array) -> Array:
        """As :meth:`apply`, of observations that are normalised."""
        output = params["head"]["output"]
        means_only = jnp.arange(output["bias"].shape[0]) < output["bias"].shape[0] // 2
        # A product, so that the weights of the standard deviations have no gradient.
        held = {"kernel": output["kernel"] * means_only, "bias": output["bias"]}
        outputs: Array = self.network.apply({"params": {**params, "head": {"output": held}}}, seen)
        return outputs

    def value(self, critic: Any, seen: Array) -> Array:
        """Values ``[N]`` of normalised observations."""
        values: Array = self.critic.apply({"params": critic}, seen)
        return values[:, 0]

    def normalisation(self, variables: Any) -> dict[str, Any]:
        """As the metadata of a teacher has it."""
        if not self.normalises:
            return {}
        statistics: RunningStatistics = variables[STATISTICS]
        return {"observation": statistics.to_metadata(self.observation_clip)}

    def statistics_of(self, normalisation: Mapping[str, Any], task: Task) -> dict[str, Any]:
        """Undoes :meth:`normalisation`; what of the variables is no parameter."""
        if not self.normalises:
            return {STATISTICS: RunningStatistics.fresh(task.observation_shape)}
        return {STATISTICS: RunningStatistics.from_metadata(normalisation["observation"])}


def make_policy(task: Task, config: PPOConfig, hidden_sizes: tuple[int, ...]) -> GaussianPolicy:
    """The policy and the critic, two networks with hidden layers of the same widths."""
    options: dict[str, Any] = {"hidden_sizes": hidden_sizes, "activation": config.activation}
    return GaussianPolicy(
        make_network("mlp", 2 * task.num_actions, **options),
        make_network("mlp", 1, **options),
        config.observation_clip,
        config.normalise_observations,
    )


@flax.struct.dataclass
class PPOState:
    """What training goes on from, besides the lanes.

    Attributes:
      variables: the policy's.
      critic: the critic's parameters.
      optimizer_state: optax's, of both.
      returns: statistics of the lanes' discounted returns, by whose deviation rewards are divided.
      env_steps: int32 scalar, control steps taken in all lanes together.
      key: PRNG key.
    """

    variables: Any
    critic: Any
    optimizer_state: Any
    returns: RunningStatistics
    env_steps: Array
    key: Array


@flax.struct.dataclass
class Play:
    """Lanes, and of each the discounted sum of rewards since its episode began, float32 ``[L]``."""

    lanes: rollout.LaneState
    returns: Array


@flax.struct.dataclass
class PlayedStep:
    """A step of play: what was seen and done, ``[L, ...]``, and what came of it.

    Attributes:
      observations: as they were seen, not normalised.
      actions: float32 ``[L, D]``, before they are held to the task's range.
      outputs: float32 ``[L, 2 * D]``, of the policy that played.
      rewards, terminated, is_last, is_first: of the step that followed.
    """

    observations: Array
    actions: Array
    outputs: Array
    rewards: Array
    terminated: Array
    is_last: Array
    is_first: Array


@flax.struct.dataclass
class Samples:
    """What minibatches are made of, ``[B, ...]`` each; the weight is 0 for what is no transition."""

    seen: Array
    actions: Array
    log_probability: Array
    values: Array
    advantages: Array
    targets: Array
    weight: Array


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Adam behind a bound on the gradient's norm."""
    # A schedule in both cases: the optimizer's state keeps its shape when a resumed run changes its mind.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        updates = max(1, int(config.total_steps / config.steps_per_rollout * config.updates_per_rollout))
        learning_rate = optax.linear_schedule(config.learning_rate, 0.0, updates)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(learning_rate, eps=_ADAM_EPSILON))


def init(network: GaussianPolicy, observations: Array, config: PPOConfig, key: Array) -> PPOState:
    """A fresh learner for ``observations`` of the network's kind, ``[L, ...]``."""

    @jax.jit
    def init_state(key: Array, observations: Array) -> PPOState:
        init_key, key = jax.random.split(key)
        variables, critic = network.init(init_key, observations, config.initial_std)
        optimizer_state = make_optimizer(config).init((variables["params"], critic))
        zero = jnp.zeros((), jnp.int32)
        return PPOState(variables, critic, optimizer_state, RunningStatistics.fresh(()), zero, key)

    state: PPOState = init_state(key, observations)
    return state


def warm_start(state: PPOState, variables: Any) -> PPOState:
    """Refused: a teacher's file has no critic, from which the next update would be estimated."""
    raise UserError("init_from: ppo begins from nothing, as a teacher's file has no critic")


def start(environment: Environment, config: PPOConfig, key: Array) -> Play:
    """Resets every lane; that is all there is to play."""
    # Only the number of components matters to the state of the policy.
    policy = SamplingPolicy(GaussianPolicy(None, None, None, False), environment.task.num_actions)
    lanes = rollout.start(environment, key, policy)
    return Play(lanes, jnp.zeros(environment.num_lanes, jnp.float32))


def updates_done(state: PPOState, config: PPOConfig, num_games: int = 1) -> int:
    """Updates behind a state."""
    return int(state.env_steps) // config.steps_per_rollout * config.updates_per_rollout


def resume_note(config: PPOConfig) -> str:
    """What a run that is resumed begins afresh."""
    return "with fresh episodes"


@flax.struct.dataclass
class Drawn:
    """What a lane has decided: the number of the lane, its actions ``[L, D]`` as they were drawn, before they are held
    to the task's range, and the Gaussian's ``outputs [L, 2 * D]`` that they were drawn from."""

    lane: Array
    actions: Array
    outputs: Array


@dataclasses.dataclass(frozen=True)
class SamplingPolicy:
    """Plays a Gaussian policy's own samples: a `pd_jax.networks.lane_policy.LanePolicy`.

    What it gives to be played is a Gaussian around what was drawn; without further noise that is what is played.

    Attributes:
      network: the policy.
      num_components: D.
    """

    network: GaussianPolicy
    num_components: int

    def start(self, num_lanes: int) -> Drawn:
        """Nothing has been decided yet."""
        # Made by NumPy: JAX would compile each of them.
        none: Any = np.zeros((num_lanes, 2 * self.num_components), np.float32)
        lane: Any = np.arange(num_lanes, dtype=np.int32)
        return Drawn(lane, none[:, : self.num_components], none)

    def decide(self, variables: Any, timestep: TimeStep, state: Drawn, key: Array) -> tuple[Array, Drawn]:
        """Draws an action for every lane, with a key of its own: what is drawn does not depend on the other lanes."""
        outputs = self.network.apply(variables, timestep.observations)
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        noise = jax.vmap(lambda lane: jax.random.normal(jax.random.fold_in(key, lane), (self.num_components,)))
        actions = mean + jnp.exp(log_std) * noise(state.lane)
        return jnp.concatenate([actions, log_std], axis=-1), Drawn(state.lane, actions, outputs)


def record(before: rollout.LaneState, actions: Array, outputs: Array, after: TimeStep) -> PlayedStep:
    """What is kept of a step of play."""
    drawn: Drawn = before.policy_state
    return PlayedStep(
        observations=before.timestep.observations,
        actions=drawn.actions,
        outputs=drawn.outputs,
        rewards=after.rewards,
        terminated=after.terminated,
        is_last=after.is_last,
        is_first=after.is_first,
    )


def discounted_returns(start: Array, played: PlayedStep, gamma: float) -> tuple[Array, Array]:
    """Every lane's discounted sum of rewards since its episode began, after each step.

    Args:
      start: float32 ``[L]``, before the first step.
      played: ``[T, L, ...]``.
      gamma: discount per step.

    Returns:
      what the next rollout starts from, ``[L]``, and the sums ``[T, L]``.
    """

    def forward(before: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, first, last = step
        total = jnp.where(first, 0.0, gamma * before + reward)
        return jnp.where(last, 0.0, total), total

    return lax.scan(forward, start, (played.rewards, played.is_first, played.is_last))


def make_iteration(network: GaussianPolicy, environment: Environment, config: PPOConfig) -> Iteration:
    """Builds one iteration: play ``rollout_length`` steps, estimate advantages, run the epochs.

    Returns:
      ``iteration(state, play) -> (state, play, metrics)``; ``state`` and ``play`` are donated. One compiled call where
      EnvPool steps inside jit.
    """
    policy = SamplingPolicy(network, environment.task.num_actions)
    unroll = rollout.make_unroll(environment, policy, config.rollout_length, record)
    learn = make_learn(network, config)

    def finish(
        state: PPOState, returns: Array, lanes: rollout.LaneState, played: PlayedStep, ended: rollout.FinishedEpisodes
    ) -> tuple[PPOState, Play, dict[str, Array]]:
        state, returns, metrics = learn(state, returns, played, lanes.timestep.observations)
        return state, Play(lanes, returns), game_metrics(ended) | metrics

    def iteration(state: PPOState, play: Play) -> tuple[PPOState, Play, dict[str, Array]]:
        lanes, played, ended = unroll(state.variables, play.lanes, 0.0)
        return finish(state, play.returns, lanes, played, ended)

    if environment.stepping == "jit":
        return jax.jit(iteration, donate_argnums=(0, 1))
    finish = jax.jit(finish, donate_argnums=(0, 1))
    return iteration


def make_learn(
    network: GaussianPolicy, config: PPOConfig
) -> Callable[[PPOState, Array, PlayedStep, Array], tuple[PPOState, Array, dict[str, Array]]]:
    """Builds ``learn(state, returns, played, final) -> (state, returns, metrics)``: the second half of an iteration.

    ``returns`` are those of :class:`Play`, and ``final [L, ...]`` is what the lanes show after the rollout.
    """
    fit = make_epochs(make_loss(network, config), make_optimizer(config))
    batch = config.steps_per_rollout // config.minibatches

    def learn(
        state: PPOState, returns: Array, played: PlayedStep, final: Array
    ) -> tuple[PPOState, Array, dict[str, Array]]:
        weight = (~played.is_first).astype(jnp.float32)
        returns, sums = discounted_returns(returns, played, config.gamma)
        return_statistics = state.returns.update(sums.reshape(-1), weight.reshape(-1))
        rewards = played.rewards
        if config.normalise_rewards:
            deviation = jnp.sqrt(return_statistics.variance + 1e-8)
            rewards = jnp.clip(rewards / deviation, -REWARD_CLIP, REWARD_CLIP)
        samples, explained = make_samples(network, config, state, played, rewards, final)
        key, *epoch_keys = jax.random.split(state.key, config.epochs + 1)
        order = jnp.stack([jax.random.permutation(each, config.steps_per_rollout) for each in epoch_keys])
        order = order[:, : batch * config.minibatches].reshape(-1, batch)
        carry = ((state.variables["params"], state.critic), state.optimizer_state)
        ((params, critic), optimizer_state), metrics = fit(
            carry, order, lambda rows: jax.tree.map(lambda leaf: leaf[rows], samples)
        )
        # After the epochs: the policy that learns is to see what the policy that played did.
        seen = played.observations.reshape(-1, *played.observations.shape[2:]).astype(jnp.float32)
        statistics = state.variables[STATISTICS].update(seen, weight.reshape(-1))
        metrics = metrics | {"explained_variance": explained, "updates": jnp.int32(config.updates_per_rollout)}
        variables = {"params": params, STATISTICS: statistics}
        steps = state.env_steps + config.steps_per_rollout
        return PPOState(variables, critic, optimizer_state, return_statistics, steps, key), returns, metrics

    return learn


def make_samples(
    network: GaussianPolicy, config: PPOConfig, state: PPOState, played: PlayedStep, rewards: Array, final: Array
) -> tuple[Samples, Array]:
    """The steps of a rollout with their advantages and targets, in one row, and the share of the targets' variance that
    the critic explained beforehand."""
    observations = jnp.concatenate([played.observations, final[None]])
    seen = network.seen(state.variables, observations)
    values = lax.map(lambda each: network.value(state.critic, each), seen)
    advantages = generalised_advantages(
        rewards,
        values[:-1],
        values[1:],
        played.terminated,
        played.is_last,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    mean, log_std = jnp.split(played.outputs, 2, axis=-1)
    samples = Samples(
        seen=seen[:-1],
        actions=played.actions,
        log_probability=gaussian_log_probability(played.actions, mean, log_std),
        values=values[:-1],
        advantages=advantages,
        targets=advantages + values[:-1],
        weight=(~played.is_first).astype(jnp.float32),
    )
    rows: Samples = jax.tree.map(lambda leaf: leaf.reshape(config.steps_per_rollout, *leaf.shape[2:]), samples)
    spread = weighted_mean((rows.targets - weighted_mean(rows.targets, rows.weight)) ** 2, rows.weight)
    error = weighted_mean((rows.advantages - weighted_mean(rows.advantages, rows.weight)) ** 2, rows.weight)
    return rows, 1.0 - error / jnp.maximum(spread, 1e-8)


def make_loss(network: GaussianPolicy, config: PPOConfig) -> Callable[[Any, Samples], tuple[Array, dict[str, Array]]]:
    """Builds ``loss((params, critic), samples) -> (loss, metrics)``."""

    def loss(parameters: tuple[Any, Any], samples: Samples) -> tuple[Array, dict[str, Array]]:
        params, critic = parameters
        mean, log_std = jnp.split(network.outputs(params, samples.seen), 2, axis=-1)
        log_ratio = gaussian_log_probability(samples.actions, mean, log_std) - samples.log_probability
        ratio = jnp.exp(log_ratio)
        advantages = samples.advantages
        if config.normalise_advantages:
            advantages = standardised(advantages, samples.weight)
        policy = clipped_surrogate_loss(ratio, advantages, samples.weight, clip=config.clip)
        values = network.value(critic, samples.seen)
        clip = config.clip if config.clip_values else None
        value = value_loss(values, samples.values, samples.targets, samples.weight, clip=clip)
        entropy = weighted_mean(gaussian_entropy(log_std), samples.weight)
        total = policy - config.entropy_weight * entropy + config.value_weight * value
        return total, {
            "loss": total,
            "policy_loss": policy,
            "value_loss": value,
            "entropy": entropy,
            # Schulman's estimator, which is never below 0.
            "approximate_kl": weighted_mean(ratio - 1.0 - log_ratio, samples.weight),
            "clipped": weighted_mean((jnp.abs(ratio - 1.0) > config.clip).astype(jnp.float32), samples.weight),
        }

    return loss


def _orthogonal(key: Array, params: Any, output_scale: float) -> Any:
    """The parameters with orthogonal kernels, and biases of 0."""

    def fresh(path: tuple[Any, ...], leaf: Array) -> Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        scale = output_scale if path[-2].key == "output" else _HIDDEN_SCALE
        own = jax.random.fold_in(key, sum(map(ord, jax.tree_util.keystr(path))))
        return nn.initializers.orthogonal(scale)(own, leaf.shape, leaf.dtype)

    drawn: Any = jax.tree_util.tree_map_with_path(fresh, params)
    return drawn
