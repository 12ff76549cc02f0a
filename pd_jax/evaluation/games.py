"""Whole games, played for a score: the same starts for everyone under the same protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pd_jax.environments.tasks import Task
from pd_jax.evaluation.evaluator import EpisodeScores, OnStep, evaluate
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Meter
from pd_jax.types import PolicyApply


def play_games(
    apply: PolicyApply | LanePolicy,
    variables: Any,
    task: Task,
    protocol: Protocol,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
) -> EpisodeScores:
    """Plays whole games of one task.

    Args:
      apply: the policy.
      variables: the policy's.
      task: what to play.
      protocol: how.
      on_progress: called every few steps with the games finished and the games wanted; see :func:`heeding`.
      on_step: is shown every step; see `pd_jax.evaluation.evaluator.OnStep`.
    """
    return evaluate(
        apply,
        variables,
        task,
        episodes=protocol.episodes,
        num_lanes=protocol.num_lanes,
        epsilon=protocol.epsilon,
        seed=protocol.seed,
        environment_options=protocol.environment_options,
        on_progress=on_progress,
        on_step=on_step,
    )


def heeding(
    interrupts: Interrupts, meter: Meter, on_steps: Callable[[], None] = lambda: None
) -> Callable[[int, int], None]:
    """What counts games on a meter, and ends them by :class:`pd_jax.system.interrupts.Interrupted` after a signal.

    Args:
      interrupts: heeded every few steps.
      meter: counts the games.
      on_steps: called as often.
    """

    def on_progress(finished: int, wanted: int) -> None:
        meter.total = wanted
        meter.set(finished)
        interrupts.check()
        on_steps()

    return on_progress
