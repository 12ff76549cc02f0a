"""Networks without gradients: the teacher's decisions, a student's in bulk, and a student's one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness.floors import forward_flops
from benchmarks.harness.measure import Work, percentile, rates, take_turns
from benchmarks.harness.rows import Row, Setting, make_row
from benchmarks.stages.best import best_rows
from benchmarks.stages.context import MOST_BATCHES, Context, PyTorch
from pd_jax.networks.registry import make_network

_MOST_DECISIONS = 512


def run_teacher(context: Context) -> list[Row]:
    """The bundled teacher on every lane's frames, step after step inside one scan: a rollout without EnvPool."""
    teacher, material, pytorch = context.material.teacher, context.material, PyTorch.find()
    flops = forward_flops(teacher.network, material.task.observation_shape)
    rival = pytorch.student(teacher.variables)
    rows = []
    for lanes in context.size.lanes:
        count = context.batches_per_call(flops, lanes, _MOST_DECISIONS)
        observations = material.stacks(lanes, min(count, MOST_BATCHES))
        repeats = count // len(observations)
        count = repeats * len(observations)
        works = {"ours": scanned_inference(teacher.network, teacher.variables, observations, repeats)}
        if rival is not None:
            works["PyTorch"] = pytorch_inference(rival, observations, count)
        seconds = take_turns(works, context.turns)
        speed = {name: rates(lanes * count, values) for name, values in seconds.items()}
        rows.append(
            make_row(
                "teacher",
                {"network": teacher.metadata.network + " with LayerNorm", "lanes": lanes},
                "decisions/s",
                speed["ours"],
                rival=pytorch.measured(speed.get("PyTorch")),
                cost=material.frames_cost(flops),
                ceilings=context.ceilings,
            )
        )
    return rows


def scanned_inference(network: Any, variables: Any, observations: np.ndarray, repeats: int) -> Work:
    """A policy's outputs for ``[T, L, ...]``, one step after another in one compiled scan; all of it some times."""
    frames = observations.ndim == 5
    apply = of_frames_first(network) if frames else network.apply
    many = jax.jit(lambda variables, steps: lax.map(lambda step: apply(variables, step), steps))
    steps = frames_first(observations) if frames else jnp.asarray(observations)
    return lambda: [many(variables, steps) for _ in range(repeats)]


def bulk_inference(network: Any, variables: Any, observations: np.ndarray, count: int) -> Work:
    """A policy's outputs for ``count`` batches ``[B, ...]``, which are on the device; one call for each."""
    apply = jax.jit(of_frames_first(network))
    return _repeat(lambda frames: apply(variables, frames), list(frames_first(observations)), count)


def frames_first(observations: np.ndarray) -> jax.Array:
    """``[T, L, 4, 84, 84]`` on the device, as EnvPool and the replay hold them; PyTorch gets the order it prefers."""
    return jnp.asarray(np.ascontiguousarray(np.moveaxis(observations, -1, 2)))


def of_frames_first(network: Any) -> Callable[[Any, Any], Any]:
    """``network.apply`` of what :func:`frames_first` gives."""
    return lambda variables, frames: network.apply(variables, frames.transpose(0, 2, 3, 1))


def run_bulk(context: Context) -> list[Row]:
    """Every student's outputs for batches that are on the device, by batch, and the best batches beside one another."""
    return [row for network in context.size.networks for row in _bulk(context, network)]


def _bulk(context: Context, name: str) -> list[Row]:
    material, pytorch = context.material, PyTorch.find()
    network = make_network(name, material.task.num_actions)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *material.task.observation_shape), jnp.uint8))
    flops = forward_flops(network, material.task.observation_shape)
    rival = pytorch.student(variables)
    works: dict[tuple[str, int], Work] = {}
    items: dict[int, int] = {}
    for batch in context.size.batches:
        count = context.batches_per_call(flops, batch)
        items[batch] = count * batch
        observations = material.stacks(batch, min(count, MOST_BATCHES))
        works["ours", batch] = bulk_inference(network, variables, observations, count)
        if rival is not None:
            works["PyTorch", batch] = pytorch_inference(rival, observations, count)
    seconds = take_turns(works, context.turns)
    speed = {(who, batch): rates(items[batch], values) for (who, batch), values in seconds.items()}
    return best_rows(
        "inference",
        {"network": name},
        "samples/s",
        speed,
        pytorch.measured,
        cost=material.frames_cost(flops),
        ceilings=context.ceilings,
    )


def _repeat(function: Callable[[Any], Any], batches: list[Any], count: int) -> Work:
    """One call for each of ``count`` batches, dispatched without waiting in between."""
    return lambda: [function(batches[index % len(batches)]) for index in range(count)]


def pytorch_inference(rival: Any, observations: np.ndarray, count: int) -> Work:
    """As :func:`bulk_inference`, of PyTorch's."""
    batches = [rival.frames(frames) for frames in observations]
    infer = _repeat(rival.infer, batches, count)

    def work() -> None:
        infer()
        rival.wait()

    return work


def run_latency(context: Context) -> list[Row]:
    """Every student's answer to one observation: from the host, and back to it."""
    return [row for network in context.size.networks for row in _latency(context, network)]


def _latency(context: Context, name: str) -> list[Row]:
    material, pytorch = context.material, PyTorch.find()
    network = make_network(name, material.task.num_actions)
    observations = material.stacks(1, MOST_BATCHES)
    variables = jax.jit(network.init)(jax.random.key(0), observations[0])
    apply = jax.jit(network.apply)
    rival = pytorch.student(variables)
    answers: dict[str, Callable[[np.ndarray], Any]] = {"ours": lambda frames: np.asarray(apply(variables, frames))}
    if rival is not None:
        answers["PyTorch"] = rival.act
    milliseconds: dict[str, list[list[float]]] = {who: [] for who in answers}
    for turn in range(context.turns):
        for who in sorted(answers, reverse=bool(turn % 2)):
            milliseconds[who].append(_answers(answers[who], observations, context.size.latency_calls))
    rows = []
    for percent in (50, 99):
        values = {who: [percentile(turn, percent) for turn in turns] for who, turns in milliseconds.items()}
        setting: Setting = {"network": name, "batch": 1, "percentile": f"p{percent}"}
        rows.append(make_row("latency", setting, "ms", values["ours"], rival=pytorch.measured(values.get("PyTorch"))))
    return rows


def _answers(answer: Callable[[np.ndarray], Any], observations: np.ndarray, calls: int) -> list[float]:
    """Milliseconds of single calls, after some that are not counted."""
    milliseconds = []
    warm_up = max(2, calls // 10)
    for index in range(warm_up + calls):
        started = time.perf_counter()
        answer(observations[index % len(observations)])
        milliseconds.append(1e3 * (time.perf_counter() - started))
    return milliseconds[warm_up:]
