"""What is asked of every state, against loops that go forward and against the loss that students learn by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pd_jax.deploy.audit.states import (
    NEVER,
    Reading,
    cost,
    divergence,
    gaps,
    later_returns,
    losses,
    steps_to_loss,
)
from pd_jax.losses import kl_loss
from support.made_play import made_play


def test_the_divergence_is_the_loss_that_the_student_learnt_by() -> None:
    play = made_play([40, 30])
    expected = kl_loss(play.outputs["student"], play.outputs["teacher"], temperature=0.1)
    np.testing.assert_allclose(divergence(play, Reading(0.1, 1.0)), expected, rtol=1e-4, atol=1e-5)


def test_a_policy_is_no_distance_from_itself_and_costs_nothing() -> None:
    play = made_play([20, 20])
    same = dataclasses.replace(play, outputs={"student": play.outputs["teacher"], "teacher": play.outputs["teacher"]})
    assert divergence(same, Reading(0.01, 0.01)).max() < 1e-9 and cost(same).max() == 0.0


def test_costs_and_gaps_are_differences_of_the_teachers_outputs() -> None:
    play = made_play([25])
    for index in range(len(play)):
        teacher = sorted(play.outputs["teacher"][index].tolist(), reverse=True)
        assert gaps(play.outputs["teacher"])[index] == pytest.approx(teacher[0] - teacher[1])
        chosen = play.outputs["teacher"][index][play.outputs["student"][index].argmax()]
        assert cost(play)[index] == pytest.approx(teacher[0] - float(chosen))


def test_steps_to_a_loss_are_those_that_a_walk_forward_counts() -> None:
    play = made_play([30, 1, 50, 7])
    lost = losses(play, "atari")
    found = steps_to_loss(play, lost)
    for index in range(len(play)):
        ahead = [step for step in range(index, len(play)) if play.games[step] == play.games[index] and lost[step]]
        assert found[index] == (ahead[0] - index if ahead else NEVER)


def test_what_is_a_loss_follows_from_rewards_lives_and_ends() -> None:
    play = made_play([5, 5], rewards=np.ones(10, np.float32), lives_lost=np.eye(10, dtype=bool)[2])
    assert losses(play, "atari").nonzero()[0].tolist() == [2]
    # Rewarded at every step, as CartPole is: the end is the loss; a cut is none.
    assert losses(play, "vector").nonzero()[0].tolist() == [4]
    # Acrobot's end is what it wants, LunarLander's may be a crash.
    wanted = made_play([5, 5], rewards=np.array([-1, -1, -1, -1, 0, -1, -1, -1, -1, -1], np.float32))
    assert not losses(wanted, "vector").any()
    crash = made_play([5, 5], rewards=np.array([1, 1, 1, 1, -100, 1, 1, 1, 1, 1], np.float32))
    assert losses(crash, "vector").nonzero()[0].tolist() == [4]


@pytest.mark.parametrize("ends_with_life", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 100])
def test_later_returns_are_those_that_a_walk_forward_adds_up(ends_with_life: bool, steps: int) -> None:
    play, discount = made_play([30, 1, 50, 17], seed=3), 0.9
    later = later_returns(play, discount=discount, clips_rewards=True, ends_with_life=ends_with_life, steps=steps)
    values = play.outputs["teacher"].max(axis=1)
    for index in range(len(play)):
        total, after, weight, left = 0.0, None, 1.0, 0.0
        for step in range(index, len(play)):
            if step - index == steps:
                after = total + weight * values[step]
            total += weight * np.clip(play.rewards[step], -1, 1)
            weight *= discount
            if play.terminated[step] or (ends_with_life and play.lives_lost[step]):
                break
            if play.truncated[step]:
                total, left = total + weight * values[step], weight
                break
        assert later.returns[index] == pytest.approx(total)
        assert later.after[index] == pytest.approx(total if after is None else after)
        assert later.is_return_known[index] == (left <= 0.1)


def test_nothing_is_said_of_random_actions() -> None:
    play = made_play([20])
    random = play.actions.copy()
    random[3] = (random[3] + 1) % 3
    moved = dataclasses.replace(play, actions=random)
    later = later_returns(moved, discount=0.9, clips_rewards=False, ends_with_life=False, steps=5)
    assert (~later.is_known).nonzero()[0].tolist() == [3]
