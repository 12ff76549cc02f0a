"""The protocol of a score as a configuration has it: the same games from the same starts for teacher and student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pd_jax.config.sections import EmulatorConfig, EvaluationConfig, environment_options
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.evaluator import EpisodeScores, evaluate
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Meter
from pd_jax.types import PolicyApply


def play_games(
    apply: PolicyApply,
    variables: Any,
    task: Task,
    evaluation: EvaluationConfig,
    env: EmulatorConfig,
    *,
    episodes: int,
    seed: int,
    meter: Meter,
    interrupts: Interrupts,
    on_steps: Callable[[], None] = lambda: None,
) -> EpisodeScores:
    """Plays whole games of one task.

    Args:
      apply: the policy.
      variables: the policy's.
      task: what to play.
      evaluation: the protocol.
      env: how environments run; its step limit, if it has one, holds unless the protocol has another.
      episodes: games wanted.
      seed: of the run.
      meter: counts them.
      interrupts: heeded every few steps.
      on_steps: called as often.

    Raises:
      Interrupted: a signal came; there is no score.
    """
    options = environment_options(env)
    if evaluation.max_episode_steps is not None:
        options["max_episode_steps"] = evaluation.max_episode_steps

    def on_progress(finished: int, wanted: int) -> None:
        meter.total = wanted
        meter.set(finished)
        interrupts.check()
        on_steps()

    return evaluate(
        apply,
        variables,
        task,
        episodes=episodes,
        num_lanes=evaluation.num_lanes,
        epsilon=evaluation.epsilon,
        seed=seed + evaluation.seed_offset,
        environment_options=options,
        on_progress=on_progress,
    )
