"""The replay: whole rollouts in, minibatches of stacks out, and what drawing them costs an update."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness.floors import Cost, frame_bytes
from benchmarks.harness.material import LANES, ROLLOUT_LENGTH, draw_batch, fill, inserter, make_learner
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Measured, Row, make_row
from benchmarks.stages.context import Context, PyTorch
from benchmarks.stages.envpool import jit_stepping
from benchmarks.stages.update import pytorch_store, updates
from pd_jax.environments.envpool import Environment
from pd_jax.learner.learner import Learner
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import DeviceGroup

_INSERTS = 8
_SAMPLES = 8


def run(context: Context) -> list[Row]:
    """Insertion; sampling by batch; and updates that draw their minibatches beside updates of given ones."""
    batches = context.size.batches[:: max(1, len(context.size.batches) - 1)]
    return [
        _insertion(context),
        *(_sampling(context, batch) for batch in batches),
        *(_share(context, network, batch) for network in context.size.networks for batch in batches),
    ]


def _insertion(context: Context) -> Row:
    """Dealing a rollout out over the devices and writing it in place, as a run does."""
    material, devices = context.material, context.material.devices
    stored = fill(devices, material.task, material.play, material.capacity)
    rollout = jax.tree.map(lambda leaf: jnp.asarray(leaf[:ROLLOUT_LENGTH]), material.play)
    insert = inserter(devices)
    environment = Environment(material.task, LANES, 0)
    steps = max(1, context.size.call_env_steps // LANES)

    def insertion() -> object:
        nonlocal stored
        for _ in range(_INSERTS):
            stored = insert(stored, devices.split(rollout, axis=1))
        return stored

    seconds = take_turns({"ours": insertion, "stepping": jit_stepping(environment, steps)}, context.turns)
    environment.close()
    return make_row(
        "replay",
        {"work": "insert", "lanes": LANES, "capacity": material.capacity},
        "steps/s",
        rates(_INSERTS * ROLLOUT_LENGTH * LANES, seconds["ours"]),
        limit=Measured("stepping alone", tuple(rates(steps * LANES, seconds["stepping"]))),
        # A frame is read and written once.
        cost=Cost(bytes=2 * frame_bytes(material.task.frame_shape)),
        ceilings=context.ceilings,
        note=f"{rings.bytes_per_step(stored):,.0f} bytes a step",
    )


def _sampling(context: Context, batch: int) -> Row:
    """Minibatches alone, one after another in one call."""
    material, pytorch = context.material, PyTorch.find()
    works: dict[str, Work] = {"ours": _samples(material.devices, material.stored, batch)}
    if pytorch.module is not None:
        works["PyTorch"] = _pytorch_samples(pytorch_store(context), batch)
    seconds = take_turns(works, context.turns)
    speed = {name: rates(_SAMPLES * batch, values) for name, values in seconds.items()}
    return make_row(
        "replay",
        {"work": "sample", "batch": batch},
        "samples/s",
        speed["ours"],
        rival=pytorch.measured(speed.get("PyTorch")),
        cost=Cost(bytes=2 * frame_bytes(material.task.observation_shape)),
        ceilings=context.ceilings,
    )


def _samples(devices: DeviceGroup, stored: ReplayState, batch: int) -> Work:
    share = batch // devices.size
    groups = math.gcd(LANES // devices.size, share)

    def many(stored: ReplayState, key: jax.Array) -> Any:
        keys = jax.random.split(key, _SAMPLES)
        return lax.map(lambda key: rings.sample(stored, key, share, num_groups=groups), keys)

    mapped = devices.map(many)
    keys = devices.replicate(jax.random.key(0))
    return lambda: mapped(stored, keys)


def _pytorch_samples(store: Any, batch: int) -> Work:
    def work() -> None:
        for _ in range(_SAMPLES):
            frames, _ = store.sample(batch)
        if frames.is_cuda:
            frames.sum().item()

    return work


def _share(context: Context, network: str, batch: int) -> Row:
    """One update that draws its minibatch; its limit is one whose minibatch is given."""
    material, devices = context.material, context.material.devices
    size = context.size
    # What a draw costs is far less than a turn differs from the next: hence many turns.
    count = max(1, size.sampling_updates * 32 // max(32, batch))
    learners = [make_learner(network, [material.task], devices, batch) for _ in range(2)]
    works = {"ours": updates(learners[0], (material.stored,), 1), "given": _given(context, learners[1], batch)}
    turns = size.sampling_turns * context.turns
    seconds = take_turns({name: _repeat(work, count) for name, work in works.items()}, turns)
    return make_row(
        "replay",
        {"work": "update", "network": network, "batch": batch, "devices": devices.size},
        "samples/s",
        rates(count * batch, seconds["ours"]),
        limit=Measured("updates of a given minibatch", tuple(rates(count * batch, seconds["given"]))),
        note="one update a call, both",
    )


def _given(context: Context, learner: Learner, batch_size: int) -> Work:
    devices = context.material.devices
    drawn = draw_batch(devices.first(context.material.stored), batch_size)
    batch = devices.split(jax.tree.map(lambda leaf: np.asarray(leaf)[None], drawn), axis=1)
    state = learner.init(jax.random.key(0))

    def work() -> object:
        nonlocal state
        state, metrics = learner.update(state, batch)
        return state, metrics

    return work


def _repeat(work: Work, count: int) -> Work:
    return lambda: [work() for _ in range(count)][-1]
