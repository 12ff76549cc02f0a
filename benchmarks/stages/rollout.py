"""Teacher rollouts against what stepping and inference allow, each alone in the same turns."""

from __future__ import annotations

from typing import Any

import jax

from benchmarks.harness.floors import forward_flops
from benchmarks.harness.material import EPSILON, ROLLOUT_LENGTH
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Row, make_row
from benchmarks.stages.context import MOST_BATCHES, Context, play_limit
from benchmarks.stages.envpool import host_stepping, jit_stepping
from benchmarks.stages.inference import scanned_inference
from pd_jax.actors.live import LivePlay
from pd_jax.config.sections import EnvConfig
from pd_jax.environments.envpool import Environment


def run(context: Context) -> list[Row]:
    """By lanes, stepped inside jit; the first number of lanes also stepped from the host."""
    lanes = context.size.rollout_lanes
    return [_measure(context, lanes[0], "host"), *(_measure(context, number, "jit") for number in lanes)]


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
