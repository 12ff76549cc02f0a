"""What an audit asks of every state: do the policies agree, how far apart are they, what becomes of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pd_jax.deploy.audit.play import Play
from pd_jax.deploy.pairs import Reading

NEVER = 2**30
"""Steps until a loss that does not come."""


def log_probabilities(outputs: np.ndarray, temperature: float) -> np.ndarray:
    """Log softmax float64 ``[N, actions]`` of outputs over a temperature."""
    scaled = outputs.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    found: np.ndarray = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return found


def divergence(play: Play, reading: Reading) -> np.ndarray:
    """KL from the teacher's policy to the student's, float64 ``[N]`` nats: what the student was to make small."""
    teacher = log_probabilities(play.outputs["teacher"], reading.temperature)
    student = log_probabilities(play.outputs["student"], reading.student_temperature)
    found: np.ndarray = (np.exp(teacher) * (teacher - student)).sum(axis=1)
    return np.maximum(found, 0.0)


def cost(play: Play) -> np.ndarray:
    """What the student's choice is worth less than the best, by the teacher's own outputs: float64 ``[N]``, >= 0."""
    outputs = play.outputs["teacher"].astype(np.float64)
    found: np.ndarray = outputs.max(axis=1) - np.take_along_axis(outputs, play.choices("student")[:, None], 1)[:, 0]
    return found


def gaps(outputs: np.ndarray) -> np.ndarray:
    """Best output minus second best, float64 ``[N]`` (Bellemare et al. 2016)."""
    second, best = np.partition(outputs.astype(np.float64), -2, axis=1)[:, -2:].T
    return best - second


def losses(play: Play, kind: str) -> np.ndarray:
    """Whether a decision was followed by a loss at once, bool ``[N]``.

    Of Atari: a life is lost, or a reward is negative. Of vectors: the episode ends by itself with a negative reward, or
    where every step is rewarded, by itself at all.

    Args:
      play: whose decisions.
      kind: of the task.
    """
    if kind == "atari":
        return play.lives_lost | (play.rewards < 0)
    rewarded = bool(len(play)) and bool((play.rewards > 0).all())
    return play.terminated & ((play.rewards < 0) | rewarded)


def steps_to_loss(play: Play, lost: np.ndarray) -> np.ndarray:
    """Decisions until the next loss in the same game, int ``[N]``: 0 where the decision itself loses; or `NEVER`."""
    found, until = np.empty(len(play), np.int64), NEVER
    for index in range(len(play) - 1, -1, -1):
        if index + 1 == len(play) or play.games[index + 1] != play.games[index]:
            until = NEVER
        until = 0 if lost[index] else min(until + 1, NEVER)
        found[index] = until
    return found


@dataclasses.dataclass(frozen=True)
class Later:
    """What followed each decision of the teacher's own play, all float64 ``[N]``, discounted as its values are.

    Attributes:
      returns: until the end. Where a game was cut, the teacher's own value stands for what would have come.
      after: what the decision has come to some steps later: the rewards until then, and what the teacher then expects.
      is_known: bool ``[N]``: the action was the teacher's choice, no random one.
      is_return_known: bool ``[N]``: and little of the return hangs on what was cut.
    """

    returns: np.ndarray
    after: np.ndarray
    is_known: np.ndarray
    is_return_known: np.ndarray


def later_returns(
    play: Play, *, discount: float, clips_rewards: bool, ends_with_life: bool, steps: int, most_cut: float = 0.1
) -> Later:
    """What followed each decision of the teacher's own play.

    Args:
      play: the teacher's.
      discount: of its values.
      clips_rewards: whether it learnt from rewards clipped to [-1, 1].
      ends_with_life: whether to its learning a lost life was the end.
      steps: after which it is asked again what it expects; fewer where the game ends or is cut before.
      most_cut: largest weight of what was cut in a return that is known.
    """
    rewards = play.rewards.astype(np.float64)
    if clips_rewards:
        rewards = rewards.clip(-1.0, 1.0)
    values = play.outputs["teacher"].max(axis=1).astype(np.float64)
    ends = play.terminated | (play.lives_lost if ends_with_life else False)
    returns, cut, after = np.empty(len(play)), np.empty(len(play)), np.empty(len(play))
    following, left, horizon = 0.0, 0.0, len(play)
    for index in range(len(play) - 1, -1, -1):
        is_newest = index + 1 == len(play) or play.games[index + 1] != play.games[index]
        if ends[index]:
            following, left, horizon = 0.0, 0.0, index + 1
        elif is_newest:
            # Cut: what this state was worth stands for the next one's worth.
            following, left, horizon = values[index], 1.0, index + 1
        following, left = rewards[index] + discount * following, discount * left
        returns[index], cut[index] = following, left
        # As far as the return from here, less what came later than that, with what was expected of it in its place.
        then = index + steps
        weight = discount**steps
        after[index] = following + weight * (values[then] - returns[then]) if then < horizon else following
    is_known = play.actions == play.choices("teacher")
    return Later(returns, after, is_known, is_known & (cut <= most_cut))


def describe(value: Any) -> str:
    """A number in words, with three digits that count."""
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
