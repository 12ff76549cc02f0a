"""Which minibatch and how many lanes suit some devices best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pd_jax.config.plan import PlanConfig
from pd_jax.errors import UserError
from pd_jax.resources.plan.plan import make_plan
from pd_jax.resources.plan.summary import Plan

_MINIBATCHES = (0.5, 1, 2, 4, 8)
_LANES = (0.5, 1, 2, 4)


def search_plans(config: PlanConfig, start: Plan, on_program: Callable[[str], None]) -> list[Plan]:
    """Plans with larger and smaller minibatches, and then with more and fewer lanes, the best first.

    The best one fits, and learns from the most samples a second of the updates that its play lets it make.

    Args:
      config: the run, and the devices.
      start: its plan.
      on_program: called with the name of each program before it is compiled.
    """
    plans = [start]
    for factor in _MINIBATCHES:
        plans += _try(config, int(start.minibatch * factor), start.lanes[0], plans, on_program)
    plans.sort(key=_merit, reverse=True)
    for factor in _LANES:
        plans += _try(config, plans[0].minibatch, int(start.lanes[0] * factor), plans, on_program)
    return sorted(plans, key=_merit, reverse=True)


def samples_per_second(plan: Plan) -> float:
    """What all devices learn from, of all games; 0 if nothing is known of the updates' time."""
    return 0.0 if plan.rates is None else plan.rates.bound_updates_per_second * plan.minibatch


def _merit(plan: Plan) -> tuple[bool, float, int, int]:
    # Of those that learn alike, the one with fewer lanes and samples in hand, whose play is younger.
    return plan.fits is not False, round(samples_per_second(plan), 3), -plan.lanes[0], -plan.minibatch


def _try(
    config: PlanConfig, minibatch: int, lanes: int, known: list[Plan], on_program: Callable[[str], None]
) -> list[Plan]:
    if minibatch < 1 or lanes < 1 or any((one.minibatch, one.lanes[0]) == (minibatch, lanes) for one in known):
        return []
    changed = dataclasses.replace(
        config,
        learner=dataclasses.replace(config.learner, batch_size=minibatch),
        env=dataclasses.replace(config.env, num_lanes=lanes, lanes=None),
    )
    try:
        return [make_plan(changed, lambda name: on_program(f"{name}, minibatch {minibatch}, {lanes} lanes"))]
    except UserError:
        # They cannot be dealt out to the devices.
        return []
