"""What is impossible with a student that has memory, and learns from sequences of play."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pd_jax.config.sections import LearnerConfig

STACKED_BEFORE = 3
"""Steps before its own that a stack of frames reaches back to."""


def window_steps(learner: LearnerConfig) -> int:
    """Steps of a sequence, and of those before it."""
    return learner.sequence_length + learner.burn_in


def memory_conflicts(config: Any) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, what a student with memory cannot learn from, or as.

    Args:
      config: a `pd_jax.config.distill.DistillConfig`.
    """
    student, learner = config.student, config.learner
    if student.memory == "none":
        return
    has = f"student.memory is {student.memory!r}"
    if student.quantisation != "none":
        yield "student.quantisation", f"{student.quantisation!r}, and {has}, which has no 8-bit integers"
    if learner.sampling != "uniform":
        yield "learner.sampling", f"{learner.sampling!r} prefers single steps, and {has}, which learns from sequences"
    if learner.random_shift:
        yield "learner.random_shift", f"{learner.random_shift} moves single steps, and {has}; leave it out"
    if learner.games == "alternating" and config.num_games > 1:
        yield "learner.games", f"'alternating', and {has}, whose updates see all games together"
    if config.num_old_games:
        yield "add_teacher", f"{has}, and games are added to students without memory"
    length = learner.sequence_length
    if learner.batch_size % length:
        below = learner.batch_size // length * length
        fitting = f"{below} and {below + length} do" if below else f"{length} does"
        yield (
            "learner.batch_size",
            f"{learner.batch_size} steps are no whole sequences of learner.sequence_length {length}; {fitting}",
        )
    steps, rollout = window_steps(learner), config.schedule.rollout_length
    if config.is_shuffled:
        if rollout % length:
            yield (
                "learner.sequence_length",
                f"{length} steps, and a rollout of shuffled play of {rollout} (schedule.rollout_length) is no whole "
                "number of such sequences",
            )
        return
    if config.data is not None:
        # A recording has lanes of its own, which are checked once it is open.
        return
    for game in range(config.num_games) if len(config.lanes) == config.num_games else ():
        yield from too_short(config, game)
        held = config.rollouts_per_round(game) * rollout
        if steps > held:
            yield (
                "learner.sequence_length",
                f"{length} steps with learner.burn_in {learner.burn_in} before them are more than a lane plays in a "
                f"round ({held}; schedule.steps_per_round over {config.lanes[game]} lanes)",
            )


def too_short(config: Any, game: int) -> Iterator[tuple[str, str]]:
    """Yields what is wrong if the replay of a game holds no sequence; arguments as for :func:`memory_conflicts`."""
    learner, capacity = config.learner, config.capacity_per_lane(game)
    observation = config.student.observation
    stacked = max(STACKED_BEFORE, observation.window_steps - 1, observation.last_actions)
    if config.student.memory != "none" and window_steps(learner) + stacked > capacity:
        yield (
            "learner.sequence_length",
            f"{learner.sequence_length} steps with learner.burn_in {learner.burn_in} before them do not fit into "
            f"replay.capacity {config.replay.capacity}: {capacity} steps of each of {config.lanes[game]} lanes",
        )
