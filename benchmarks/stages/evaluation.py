"""Evaluation: whole games of teacher and student, against stepping and inference, without and with the start."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness.floors import forward_flops
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Measured, Row, Setting, make_row
from benchmarks.stages.context import MOST_BATCHES, Context, play_limit
from benchmarks.stages.envpool import host_stepping
from benchmarks.stages.inference import scanned_inference
from pd_jax.environments.envpool import Environment
from pd_jax.evaluation.evaluator import Evaluator
from pd_jax.networks.registry import make_network


def run(context: Context) -> list[Row]:
    """The teacher, and an untrained student, over games that are cut short.

    Two rows of each: every evaluation makes emulators of its own, of which the first row's limit knows nothing. EnvPool
    can give a game's first start again in no other way.
    """
    task, teacher = context.material.task, context.material.teacher
    name = context.size.growing_networks[-1]
    network = make_network(name, task.num_actions)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *task.observation_shape), jnp.uint8))
    return [
        *_measure(context, "teacher", teacher.network, teacher.variables),
        *_measure(context, name, network, variables),
    ]


def _measure(context: Context, name: str, network: Any, variables: Any) -> list[Row]:
    task, lanes, length = context.material.task, context.size.episodes, context.size.max_episode_steps
    evaluator = Evaluator(
        task,
        network.apply,
        episodes=lanes,
        num_lanes=lanes,
        environment_options={"max_episode_steps": length},
    )
    # Every run plays the same games.
    steps = int(evaluator.run(variables).lengths.sum())
    environment = Environment(task, lanes, 0)
    per_lane = max(1, steps // lanes)
    works: dict[str, Work] = {
        "ours": lambda: evaluator.run(variables),
        "stepping": host_stepping(environment, per_lane),
        "start": lambda: Environment(task, lanes, 0, stepping="host").close(),
    }
    repeats = max(1, per_lane // MOST_BATCHES)
    if context.shares_cores:
        observations = context.material.stacks(lanes, MOST_BATCHES)
        works["inference"] = scanned_inference(network, variables, observations, repeats)
    seconds = take_turns(works, context.turns)
    environment.close()
    limit = play_limit(rates(per_lane * lanes, seconds["stepping"]), lanes * repeats * MOST_BATCHES, seconds)
    with_start = [steps / (steps / rate + start) for rate, start in zip(limit.values, seconds["start"], strict=True)]
    setting: Setting = {"policy": name, "lanes": lanes, "games of steps": length}
    limits: list[tuple[Setting, Measured]] = [
        ({}, limit),
        ({"limit": "with start"}, Measured(f"{limit.name}, and the emulators' start", tuple(with_start))),
    ]
    return [
        make_row(
            "evaluation",
            {**setting, **more},
            "steps/s",
            rates(steps, seconds["ours"]),
            limit=each,
            cost=context.material.frames_cost(forward_flops(network, task.observation_shape)),
            ceilings=context.ceilings,
        )
        for more, each in limits
    ]
