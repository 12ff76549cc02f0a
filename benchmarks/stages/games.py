"""Updates of a student of 1 to 10 games: what another game costs."""

from __future__ import annotations

from typing import Any

from benchmarks.floors import training_flops
from benchmarks.material import fill, make_learner, random_play
from benchmarks.measure import Work, rates, take_turns
from benchmarks.rows import Row, make_row
from benchmarks.stages.context import Context
from benchmarks.stages.update import updates
from pd_jax.networks import make_network
from pd_jax.tasks import PAPER_GAMES, get_task

_MOST_PLAY_STEPS = 1024


def run(context: Context) -> list[Row]:
    """The paper's games, one minibatch of each in every update, from replays of random play."""
    size, devices = context.size, context.material.devices
    steps = min(_MOST_PLAY_STEPS, size.play_steps)
    network, batch = size.growing_networks[-1], size.per_device_batch * devices.size
    tasks = [get_task(name) for name in PAPER_GAMES[: max(size.games)]]
    stored = [fill(devices, task, random_play(task, steps), steps) for task in tasks]
    shape = tasks[0].observation_shape
    works: dict[int, Work] = {}
    flops, items = {}, {}
    for games in size.games:
        sizes = [task.num_actions for task in tasks[:games]]
        module: Any = make_network(network, sizes if games > 1 else sizes[0])
        flops[games] = training_flops(module, (games, *shape) if games > 1 else shape)
        count = context.batches_per_call(flops[games], games * batch)
        items[games] = games * batch * count
        learner = make_learner(network, tasks[:games], devices, batch)
        works[games] = updates(learner, tuple(stored[:games]), count)
    seconds = take_turns(works, context.turns)
    return [
        make_row(
            "games",
            {"network": network, "games": games, "batch": batch, "devices": devices.size},
            "samples/s",
            rates(items[games], values),
            cost=context.material.frames_cost(flops[games]),
            ceilings=context.ceilings,
            note="of all games together",
        )
        for games, values in seconds.items()
    ]
