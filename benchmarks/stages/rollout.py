"""Teacher rollouts against what stepping and inference allow, each alone in the same turns."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from benchmarks.harness.floors import Cost, forward_flops
from benchmarks.harness.material import EPSILON, LANES, ROLLOUT_LENGTH, teachers_play
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Row, make_row
from benchmarks.stages.context import MOST_BATCHES, Context, play_limit
from benchmarks.stages.envpool import host_stepping, jit_stepping, repeated_stepping
from benchmarks.stages.inference import scanned_inference
from pd_jax.actors.live import LivePlay
from pd_jax.config.sections import EnvConfig
from pd_jax.environments.envpool import Environment
from pd_jax.teachers import load

_CONTINUOUS = "half_cheetah_v5"
_CONTINUOUS_LANES = (LANES, 2 * LANES, 4 * LANES)
_LONGER = 8
"""Times as many steps in a call of continuous play, which are short."""


def run(context: Context) -> list[Row]:
    """By lanes, stepped inside jit; the first number of lanes also stepped from the host. Then continuous play."""
    lanes = context.size.rollout_lanes
    games = [_measure(context, lanes[0], "host"), *(_measure(context, number, "jit") for number in lanes)]
    return [*games, *(_measure_continuous(context, number) for number in _CONTINUOUS_LANES)]


def _measure(context: Context, lanes: int, stepping: Any) -> Row:
    teacher, task = context.material.teacher, context.material.task
    count = max(1, 2 * context.size.call_env_steps // (lanes * ROLLOUT_LENGTH))
    steps = count * ROLLOUT_LENGTH
    play = LivePlay(
        teacher,
        task,
        EnvConfig(num_lanes=lanes, stepping=stepping),
        rollout_length=ROLLOUT_LENGTH,
        epsilon=EPSILON,
        seed=0,
    )
    environment = Environment(task, lanes, 0, stepping=stepping)
    works: dict[str, Work] = {
        "ours": lambda: [jax.block_until_ready(rollout) for rollout in play.rollouts(count)],
        "stepping": (jit_stepping if stepping == "jit" else host_stepping)(environment, steps),
    }
    # Rollouts are a multiple of these long.
    repeats = steps // MOST_BATCHES
    if context.shares_cores:
        observations = context.material.stacks(lanes, MOST_BATCHES)
        works["inference"] = scanned_inference(teacher.network, teacher.variables, observations, repeats)
    seconds = take_turns(works, context.turns)
    play.close()
    environment.close()
    limit = play_limit(rates(lanes * steps, seconds["stepping"]), lanes * repeats * MOST_BATCHES, seconds)
    return make_row(
        "rollout",
        {"lanes": lanes, "stepping": stepping},
        "steps/s",
        rates(lanes * steps, seconds["ours"]),
        limit=limit,
        cost=context.material.frames_cost(forward_flops(teacher.network, task.observation_shape)),
        ceilings=context.ceilings,
    )


def _measure_continuous(context: Context, lanes: int) -> Row:
    """A teacher of continuous actions. Its observations are small, and so inference is one call, as play is.

    Stepping alone repeats what the teacher played: the time of MuJoCo's steps depends on what touches the ground, and
    random actions lead elsewhere.
    """
    teacher = load(_CONTINUOUS)
    count = max(1, _LONGER * context.size.call_env_steps // (lanes * ROLLOUT_LENGTH))
    steps = count * ROLLOUT_LENGTH
    # Of a call that compiles, and one a turn.
    played = teachers_play(teacher, lanes * steps * (1 + context.turns), lanes)
    env = EnvConfig(num_lanes=lanes, stepping="jit")
    play = LivePlay(teacher, teacher.task, env, rollout_length=ROLLOUT_LENGTH, epsilon=EPSILON, seed=0)
    environment = Environment(teacher.task, lanes, 0)
    works: dict[str, Work] = {
        "ours": lambda: [jax.block_until_ready(rollout) for rollout in play.rollouts(count)],
        "stepping": repeated_stepping(environment, np.asarray(played.actions), steps),
    }
    if context.shares_cores:
        observations = np.asarray(played.observations)[:steps]
        works["inference"] = scanned_inference(teacher.network, teacher.variables, observations, 1)
    seconds = take_turns(works, context.turns)
    play.close()
    environment.close()
    shape, dtype = teacher.task.observation_shape, str(teacher.task.observation_dtype)
    return make_row(
        "rollout",
        {"task": teacher.task.name, "lanes": lanes, "stepping": "jit"},
        "steps/s",
        rates(lanes * steps, seconds["ours"]),
        limit=play_limit(rates(lanes * steps, seconds["stepping"]), lanes * steps, seconds),
        cost=Cost(forward_flops(teacher.network, shape, dtype), 4.0 * math.prod(shape)),
        ceilings=context.ceilings,
    )
