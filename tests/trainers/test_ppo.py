"""PPO: an update against PyTorch's, its bookkeeping against loops, and a point on a line that learns to stand still."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from pd_jax.actors import rollout
from pd_jax.config.algorithms import PPOConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.registered import register_jax
from pd_jax.environments.tasks import get_task
from pd_jax.trainers import ppo
from pd_jax.trainers.running_statistics import RunningStatistics
from support.jax_environments import Params, Walk

STEPS, LANES, SIZE = 6, 4, 3
CONFIG = PPOConfig(num_lanes=LANES, rollout_length=STEPS, epochs=1, minibatches=1, activation="tanh")


@pytest.fixture(scope="module")
def walk() -> Any:
    return register_jax("walk", lambda: (Walk(), Params()))


def pendulum_policy(config: PPOConfig = CONFIG) -> ppo.GaussianPolicy:
    return ppo.make_policy(get_task("Pendulum-v1"), config, (8, 5))


@functools.cache
def learner(config: PPOConfig = CONFIG) -> Any:
    """Compiled once for all tests of these settings."""
    return jax.jit(ppo.make_learn(pendulum_policy(config), config))


def fresh(config: PPOConfig = CONFIG, seed: int = 0) -> tuple[ppo.GaussianPolicy, ppo.PPOState]:
    policy = pendulum_policy(config)
    return policy, ppo.init(policy, jnp.zeros((1, SIZE)), config, jax.random.key(seed))


def made_play(policy: ppo.GaussianPolicy, state: ppo.PPOState, seed: int = 0) -> tuple[ppo.PlayedStep, np.ndarray]:
    """Play that nobody played: random observations, samples of the policy, ends and a reset step."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(loc=1.0, size=(STEPS + 1, LANES, SIZE)).astype(np.float32)
    outputs = np.asarray(jax.vmap(policy.apply, in_axes=(None, 0))(state.variables, observations[:-1]))
    terminated, truncated = np.zeros((2, STEPS, LANES), bool)
    terminated[2, 0] = truncated[3, 1] = True
    is_last = terminated | truncated
    is_first = np.concatenate([np.zeros((1, LANES), bool), is_last[:-1]])
    noise = rng.normal(size=(STEPS, LANES, 1)).astype(np.float32)
    actions = outputs[..., :1] + np.exp(outputs[..., 1:]) * noise
    rewards = np.where(is_first, 0.0, rng.normal(size=(STEPS, LANES))).astype(np.float32)
    return ppo.PlayedStep(observations[:-1], actions, outputs, rewards, terminated, is_last, is_first), observations[-1]


def test_the_standard_deviation_is_of_biases_alone_before_and_after_learning():
    policy, state = fresh()
    played, final = made_play(policy, state)
    after, _, _ = learner()(state, jnp.zeros(LANES), played, final)
    for each in (state, after):
        output = each.variables["params"]["head"]["output"]
        np.testing.assert_array_equal(output["kernel"][:, 1:], 0.0)
        outputs = policy.apply(each.variables, played.observations[0])
        np.testing.assert_array_equal(outputs[:, 1], np.repeat(output["bias"][1], LANES))
    before = state.variables["params"]["head"]["output"]
    np.testing.assert_allclose(before["bias"][1], np.log(CONFIG.initial_std), rtol=1e-6)
    assert after.variables["params"]["head"]["output"]["bias"][1] != before["bias"][1]
    assert np.abs(np.asarray(after.variables["params"]["head"]["output"]["kernel"] - before["kernel"])[:, 0]).max() > 0


def torch_mlp(params: Any, columns: slice) -> nn.Sequential:
    """The same layers in PyTorch; of the last one, those outputs."""
    layers = [params["torso"]["fc1"], params["torso"]["fc2"], params["head"]["output"]]
    modules: list[nn.Module] = []
    for index, one in enumerate(layers):
        kernel, bias = (np.asarray(one[name]) for name in ("kernel", "bias"))
        if index == 2:
            kernel, bias = kernel[:, columns], bias[columns]
        linear = nn.Linear(*kernel.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(kernel.T))
            linear.bias.copy_(torch.tensor(bias))
        modules += [linear, nn.Tanh()] if index < 2 else [linear]
    return nn.Sequential(*modules)


def test_an_update_is_that_of_the_same_formulas_in_pytorch():
    """A whole update: normalised rewards, advantages, losses, the bound on the gradient, Adam."""
    config = dataclasses.replace(
        CONFIG, entropy_weight=0.01, normalise_observations=False, learning_rate_decay=False, learning_rate=1e-3
    )
    policy, state = fresh(config)
    played, final = made_play(policy, state, seed=1)
    after, _, metrics = learner(config)(state, jnp.zeros(LANES), played, final)

    actor, critic = torch_mlp(state.variables["params"], slice(0, 1)), torch_mlp(state.critic, slice(None))
    log_std = nn.Parameter(torch.full((1,), float(np.log(config.initial_std))))
    parameters = [*actor.parameters(), log_std, *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-5)
    # Rewards over the deviation of what is discounted and summed up so far, which includes a first count of 1e-4.
    sums, running = [], np.zeros(LANES)
    for t in range(STEPS):
        running = np.where(played.is_first[t], 0.0, config.gamma * running + played.rewards[t])
        sums.append(running)
        running = np.where(played.is_last[t], 0.0, running)
    counted = np.array(sums)[~played.is_first]
    total = len(counted) + 1e-4
    mean = counted.sum() / total
    variance = ((counted**2).sum() + 1e-4) / total - mean**2
    rewards = np.clip(played.rewards / np.sqrt(variance + 1e-8), -10, 10)
    seen = torch.tensor(np.concatenate([played.observations, final[None]]))
    values = critic(seen)[..., 0].detach().numpy()
    advantages, later = np.zeros((STEPS, LANES)), np.zeros(LANES)
    for t in reversed(range(STEPS)):
        error = rewards[t] + config.gamma * values[t + 1] * ~played.terminated[t] - values[t]
        later = error + config.gamma * config.gae_lambda * later * ~played.is_last[t]
        advantages[t] = later
    real = torch.tensor(~played.is_first)
    old = torch.distributions.Normal(*map(torch.tensor, (played.outputs[..., :1], np.exp(played.outputs[..., 1:]))))
    now = torch.distributions.Normal(actor(seen[:-1]), log_std.exp().expand(STEPS, LANES, 1))
    drawn = torch.tensor(played.actions)
    ratio = (now.log_prob(drawn) - old.log_prob(drawn)).sum(-1).exp()[real]
    own = torch.tensor(advantages, dtype=torch.float32)[real]
    scaled = (own - own.mean()) / (own.std() + 1e-8)
    policy_loss = -torch.min(ratio * scaled, torch.clamp(ratio, 0.9, 1.1) * scaled).mean()
    targets = torch.tensor(advantages + values[:-1], dtype=torch.float32)[real]
    guess = critic(seen[:-1])[..., 0][real]
    held = torch.tensor(values[:-1])[real]
    held = held + torch.clamp(guess - held, -0.1, 0.1)
    value = 0.5 * torch.max((guess - targets) ** 2, (held - targets) ** 2).mean()
    loss = policy_loss - 0.01 * now.entropy().sum(-1)[real].mean() + 0.5 * value
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    optimizer.step()

    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-4)
    for params, module, columns in (
        (after.variables["params"], actor, slice(0, 1)),
        (after.critic, critic, slice(None)),
    ):
        for one, other in zip(torch_mlp(params, columns).parameters(), module.parameters(), strict=True):
            np.testing.assert_allclose(one.detach(), other.detach(), atol=2e-6)
    np.testing.assert_allclose(after.variables["params"]["head"]["output"]["bias"][1], log_std.item(), atol=2e-6)


def test_statistics_grow_by_what_was_seen_and_reset_steps_do_not_count():
    policy, state = fresh()
    played, final = made_play(policy, state)
    after, _, _ = learner()(state, jnp.zeros(LANES), played, final)
    counted = played.observations[~played.is_first]
    statistics: RunningStatistics = after.variables[ppo.STATISTICS]
    np.testing.assert_allclose(statistics.count, len(counted) + 1e-4, rtol=1e-6)
    np.testing.assert_allclose(statistics.mean, counted.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(statistics.variance, counted.var(axis=0), rtol=1e-3)


def test_an_observation_that_is_not_normalised_is_seen_as_it_is():
    policy = pendulum_policy(dataclasses.replace(CONFIG, normalise_observations=False))
    state = ppo.init(policy, jnp.zeros((1, SIZE)), CONFIG, jax.random.key(0))
    large = jnp.full((2, SIZE), 1e4)
    np.testing.assert_array_equal(policy.seen(state.variables, large), large)
    assert policy.normalisation(state.variables) == {}


@pytest.mark.slow
def test_what_a_lane_draws_does_not_depend_on_how_lanes_are_stepped(walk):
    """In one scan inside jit, and in three groups from the host."""
    config = PPOConfig(num_lanes=6, rollout_length=5, epochs=1, minibatches=1)
    policy = ppo.make_policy(walk, config, (8,))
    played = []
    for options in ({"stepping": "jit"}, {"stepping": "host", "num_groups": 3}):
        environment = Environment(walk, 6, 0, **options)
        state = ppo.init(policy, jnp.zeros((1, 4)), config, jax.random.key(0))
        play = ppo.start(environment, config, jax.random.key(1))
        unroll = rollout.make_unroll(environment, ppo.SamplingPolicy(policy, 1), 5, ppo.record)
        unroll = jax.jit(unroll) if options["stepping"] == "jit" else unroll
        played.append(unroll(state.variables, play.lanes, 0.0)[1])
        environment.close()
    # Its own lanes' keys are numbered in each group of a JAX environment: what they begin with differs.
    noises = [
        np.asarray((one.actions - one.outputs[..., :1]) / np.exp(one.outputs[..., 1:])).round(3) for one in played
    ]
    np.testing.assert_array_equal(*noises)
    assert len(np.unique(noises[0])) == noises[0].size


def test_a_point_learns_to_stand_still(walk):
    config = PPOConfig(
        num_lanes=16, rollout_length=16, total_steps=20_000, minibatches=4, learning_rate=3e-3, gae_lambda=0.9
    )
    policy = ppo.make_policy(walk, config, (16,))
    environment = Environment(walk, 16, 0)
    state = ppo.init(policy, jnp.zeros((1, 4)), config, jax.random.key(0))
    play, iterate = ppo.start(environment, config, jax.random.key(1)), ppo.make_iteration(policy, environment, config)
    returns = []
    for _ in range(60):
        state, play, metrics = iterate(state, play)
        returns.append(float(metrics["game_return"]))
    # Nine steps of the noise that it began with leave it about 0.4 away, and beyond 1 the episode is over.
    assert np.mean(returns[-5:]) > -0.8 > np.mean(returns[:5])
    position = jnp.array([[0.4, 0.16, 1.0, 0.0], [-0.4, 0.16, 1.0, 0.0]])
    means = policy.apply(state.variables, position)[:, 0]
    assert means[0] < -0.2 and means[1] > 0.2
    assert ppo.updates_done(state, config) == 60 * config.updates_per_rollout
    environment.close()
