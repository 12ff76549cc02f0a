"""PPO's mathematics: against loops in NumPy, and PyTorch's distributions and gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.trainers import surrogate

STEPS, LANES = 7, 2
advantages_of = jax.jit(surrogate.generalised_advantages)
RNG = np.random.default_rng(0)


def brute_force_advantage(
    t: int, rewards: Any, values: Any, next_values: Any, terminated: Any, is_last: Any, gamma: float, gae_lambda: float
) -> float:
    """The sum of the discounted errors from ``t`` to the end of the episode, or of the rollout."""
    total = 0.0
    for k, step in enumerate(range(t, STEPS)):
        follows = 0.0 if terminated[step] else gamma * next_values[step]
        total += (gamma * gae_lambda) ** k * (rewards[step] + follows - values[step])
        if is_last[step]:
            break
    return total


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.floats(-10, 10, width=32), min_size=3 * STEPS * LANES, max_size=3 * STEPS * LANES),
    ends=st.lists(st.sampled_from(["", "", "terminated", "truncated"]), min_size=STEPS * LANES, max_size=STEPS * LANES),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
def test_advantages_equal_the_sum_of_discounted_errors(numbers, ends, gamma, gae_lambda):
    rewards, values, next_values = np.array(numbers, np.float32).reshape(3, STEPS, LANES)
    end = np.array(ends).reshape(STEPS, LANES)
    terminated, is_last = end == "terminated", end != ""
    found = advantages_of(
        rewards, values, next_values, terminated, is_last, gamma=np.float32(gamma), gae_lambda=np.float32(gae_lambda)
    )
    for lane in range(LANES):
        columns = [array[:, lane].tolist() for array in (rewards, values, next_values, terminated, is_last)]
        expected = [brute_force_advantage(t, *columns, gamma, gae_lambda) for t in range(STEPS)]
        np.testing.assert_allclose(found[:, lane], expected, atol=1e-3)


def test_a_limit_of_steps_is_not_taken_for_the_end_of_all_rewards():
    rewards, values, next_values = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32), np.full((1, 2), 50.0)
    is_last = np.ones((1, 2), bool)
    found = advantages_of(
        rewards, values, next_values.astype(np.float32), np.array([[True, False]]), is_last, gamma=0.9, gae_lambda=0.5
    )
    np.testing.assert_allclose(found, [[1.0, 46.0]])


def test_densities_and_entropies_are_those_of_pytorch():
    actions, mean, log_std = RNG.normal(size=(3, 5, 4)).astype(np.float32)
    theirs = torch.distributions.Normal(torch.tensor(mean), torch.tensor(log_std).exp())
    ours = surrogate.gaussian_log_probability(jnp.asarray(actions), jnp.asarray(mean), jnp.asarray(log_std))
    np.testing.assert_allclose(ours, theirs.log_prob(torch.tensor(actions)).sum(-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(surrogate.gaussian_entropy(log_std), theirs.entropy().sum(-1), rtol=1e-5)


@pytest.mark.parametrize("clip_values", [True, False])
def test_loss_and_gradients_are_those_of_cleanrls_formulas(clip_values):
    """The lines of CleanRL's ``ppo_continuous_action`` from ``ratio`` to ``v_loss``, written anew in PyTorch."""
    count, clip = 64, 0.2
    log_ratio, advantages, values, old_values, targets = RNG.normal(scale=0.4, size=(5, count)).astype(np.float32)

    def theirs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        t_log_ratio, t_values = (torch.tensor(array, requires_grad=True) for array in (log_ratio, values))
        t_advantages, t_old, t_targets = map(torch.tensor, (advantages, old_values, targets))
        ratio = t_log_ratio.exp()
        t_advantages = (t_advantages - t_advantages.mean()) / (t_advantages.std() + 1e-8)
        policy = torch.max(-t_advantages * ratio, -t_advantages * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
        squares = (t_values - t_targets) ** 2
        if clip_values:
            held = t_old + torch.clamp(t_values - t_old, -clip, clip)
            squares = torch.max(squares, (held - t_targets) ** 2)
        value = 0.5 * squares.mean()
        (policy + value).backward()
        return policy, value, t_log_ratio.grad, t_values.grad

    def ours(log_ratio: Any, values: Any) -> Any:
        weight = jnp.ones(count)
        policy = surrogate.clipped_surrogate_loss(
            jnp.exp(log_ratio), surrogate.standardised(jnp.asarray(advantages), weight), weight, clip=clip
        )
        value = surrogate.value_loss(values, old_values, targets, weight, clip=clip if clip_values else None)
        return policy + value, (policy, value)

    (_, losses), gradients = jax.value_and_grad(ours, argnums=(0, 1), has_aux=True)(log_ratio, values)
    for found, expected in zip((*losses, *gradients), theirs(), strict=True):
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_what_weighs_nothing_changes_nothing():
    ratio, advantages, values, old_values, targets = RNG.normal(size=(5, 8)).astype(np.float32)
    weight = np.array([1, 1, 0, 1, 0, 1, 1, 1], np.float32)
    kept = weight > 0

    def losses(select: Any) -> list[float]:
        own = [array[select] for array in (ratio, advantages, values, old_values, targets, weight)]
        spread = surrogate.standardised(own[1], own[5])
        return [
            surrogate.clipped_surrogate_loss(own[0], spread, own[5], clip=0.1),
            surrogate.value_loss(own[2], own[3], own[4], own[5], clip=0.1),
        ]

    np.testing.assert_allclose(losses(slice(None)), losses(kept), rtol=1e-5)
    np.testing.assert_allclose(surrogate.weighted_mean(values, np.zeros(8, np.float32)), 0.0)
