"""The student's updates from the replay, as a run makes them: several in one donated call, minibatches drawn inside."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.harness.floors import training_flops
from benchmarks.harness.material import LANES, TEMPERATURE, make_learner
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Row
from benchmarks.stages.best import best_rows
from benchmarks.stages.context import Context, PyTorch
from pd_jax.learner.learner import Learner
from pd_jax.networks.registry import make_network


def run(context: Context) -> list[Row]:
    """Every network by batch in float32 with RMSProp, then in bfloat16, then with Adam."""
    size, rows = context.size, []
    for network in size.networks:
        more = size.more_batches if network in size.growing_networks else ()
        rows += _measure(context, network, (*size.batches, *more), "float32", "rmsprop")
        rows += _measure(context, network, size.bfloat16_batches, "bfloat16", "rmsprop")
    return rows + _measure(context, size.growing_networks[-1], size.batches[:1], "float32", "adam")


def _measure(context: Context, network: str, batches: tuple[int, ...], dtype: str, optimizer: str) -> list[Row]:
    material, pytorch = context.material, PyTorch.find()
    flops = training_flops(make_network(network, material.task.num_actions), material.task.observation_shape)
    works: dict[tuple[str, int], Work] = {}
    items: dict[int, int] = {}
    rival = None
    for batch in batches:
        count = context.batches_per_call(flops, batch)
        items[batch] = batch * count
        learner = make_learner(network, [material.task], material.devices, batch, optimizer=optimizer, dtype=dtype)
        works["ours", batch] = updates(learner, (material.stored,), count)
        if rival is None:
            variables = learner.init_single(jax.random.key(0)).variables
            rival = pytorch.student(variables, dtype, optimizer)
        if rival is not None and batch not in context.size.more_batches:
            works["PyTorch", batch] = pytorch_updates(rival, pytorch_store(context), batch, count)
    seconds = take_turns(works, context.turns)
    speed = {(who, batch): rates(items[batch], values) for (who, batch), values in seconds.items()}
    return best_rows(
        "update",
        {"network": network, "dtype": dtype, "optimizer": optimizer, "devices": material.devices.size},
        "samples/s",
        speed,
        functools.partial(pytorch.measured, dtype=dtype),
        cost=material.frames_cost(flops, dtype),
        ceilings=context.ceilings,
    )


def updates(learner: Learner, stored: tuple[Any, ...], count: int) -> Work:
    """``count`` updates in one call, going on from the state that the call before has left."""
    state = learner.init(jax.random.key(0))

    def work() -> object:
        nonlocal state
        state, metrics = learner.update_from_replay(state, stored, count)
        return state, metrics

    return work


def pytorch_updates(rival: Any, store: Any, batch_size: int, count: int) -> Work:
    """As many updates of PyTorch's, from minibatches that it draws from a store of its own."""

    def work() -> None:
        for _ in range(count):
            rival.update(*store.sample(batch_size), TEMPERATURE)
        rival.wait()

    return work


def pytorch_store(context: Context) -> Any:
    """PyTorch's store of the same play, as large as the replay; made once. PyTorch must be there."""
    pytorch, material = PyTorch.find(), context.material
    assert pytorch.module is not None
    if context.pytorch_store is not None:
        return context.pytorch_store
    slots = material.capacity // LANES

    def lane_major(leaf: Any) -> np.ndarray:
        repeated = np.concatenate([np.asarray(leaf)] * -(-slots // len(leaf)))[:slots]
        return np.ascontiguousarray(np.swapaxes(repeated, 0, 1))

    play = material.play
    columns = (play.observations, play.is_first, play.is_decision, play.teacher_q)
    context.pytorch_store = pytorch.module.Store(*map(lane_major, columns), pytorch.device())
    return context.pytorch_store
