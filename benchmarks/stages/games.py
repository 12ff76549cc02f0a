"""Updates of a student of 1 to 10 games: what another game costs, and the paper's students of three and ten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.floors import training_flops
from benchmarks.harness.material import fill, make_learner, random_play
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Row, make_row
from benchmarks.stages.context import Context
from benchmarks.stages.update import updates
from pd_jax.environments.tasks import PAPER_GAMES, Task, get_task
from pd_jax.networks.registry import make_network
from pd_jax.replay.rings import ReplayState

_MOST_PLAY_STEPS = 1024


def run(context: Context) -> list[Row]:
    """The paper's games, one minibatch of each in every update, from replays of random play."""
    size, devices = context.size, context.material.devices
    steps = min(_MOST_PLAY_STEPS, size.play_steps)
    most = max(*size.games, *(games for _, games in size.multi_game_networks))
    tasks = [get_task(name) for name in PAPER_GAMES[:most]]
    stored = [fill(devices, task, random_play(task, steps), steps) for task in tasks]
    students = [(size.growing_networks[-1], games) for games in size.games]
    rows = _measure(context, students, tasks, stored)
    for student in size.multi_game_networks:
        rows += _measure(context, [student], tasks, stored)
    return rows


def _measure(
    context: Context, students: Sequence[tuple[str, int]], tasks: Sequence[Task], stored: Sequence[ReplayState]
) -> list[Row]:
    """Students, a network and its number of games each, by turns."""
    devices = context.material.devices
    batch, shape = context.size.per_device_batch * devices.size, tasks[0].observation_shape
    works: dict[tuple[str, int], Work] = {}
    flops, items = {}, {}
    for network, games in students:
        sizes = [task.num_actions for task in tasks[:games]]
        module: Any = make_network(network, sizes if games > 1 else sizes[0])
        flops[network, games] = training_flops(module, (games, *shape) if games > 1 else shape)
        count = context.batches_per_call(flops[network, games], games * batch)
        items[network, games] = games * batch * count
        learner = make_learner(network, tasks[:games], devices, batch)
        works[network, games] = updates(learner, tuple(stored[:games]), count)
    seconds = take_turns(works, context.turns)
    return [
        make_row(
            "games",
            {"network": network, "games": games, "batch": batch, "devices": devices.size},
            "samples/s",
            rates(items[network, games], values),
            cost=context.material.frames_cost(flops[network, games]),
            ceilings=context.ceilings,
            note="of all games together",
        )
        for (network, games), values in seconds.items()
    ]
