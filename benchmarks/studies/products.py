"""Where the time of updates and of inference goes on a CPU: matrix products, layer by layer, and all that is none.

    python -m benchmarks.studies.products

Traces updates from a replay, and outputs in bulk, with JAX's profiler and adds up the operations that XLA ran, on one
core: with several, an operation's time holds that of others which it waits for. Of products the rate is told too, and
what share that is of the highest at which the core was seen to multiply large matrices. PyTorch, where it is installed,
runs by turns with ours, for scale.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import os
import re
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.floors import layer_flops, measure_ceilings
from benchmarks.harness.material import Material, make_learner
from benchmarks.harness.measure import Work, seconds_of, take_turns
from benchmarks.harness.sizes import find_size
from benchmarks.stages.context import Context, PyTorch
from benchmarks.stages.inference import bulk_inference, frames_first, of_frames_first, pytorch_inference
from benchmarks.stages.update import pytorch_store, pytorch_updates, updates
from pd_jax.learner.update import updates_from_replay
from pd_jax.networks.registry import make_network
from pd_jax.resources.traces import Span, read_trace

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \(?\w+\[([\d,]*)\](.*)$")
_PATH = re.compile(r'op_name="([^"]*)"')
_PRODUCT = re.compile(r"\bdot\(|__(?:ynn|onednn)_|\bcustom-call\(")
_LAYERS = re.compile(r"\b(conv\d|fc\d|output\d*)\b")


@dataclasses.dataclass(frozen=True)
class Part:
    """Operations of one kind.

    Attributes:
      name: such as ``conv2: weights' gradient``.
      core_seconds: for one minibatch.
      flops: of a minibatch, if these are products.
    """

    name: str
    core_seconds: float
    flops: float | None = None


def parts_of(
    spans: Iterable[Span], program: str, kernels: Mapping[str, int], flops: Mapping[str, float], count: int
) -> list[Part]:
    """Adds operations up.

    Args:
      spans: of the trace.
      program: the compiled program's text, which knows what its operations belong to.
      kernels: numbers in the kernel of each layer.
      flops: of each layer, forwards, of a minibatch.
      count: minibatches in the trace.
    """
    instructions = {match[1]: match for line in program.splitlines() if (match := _INSTRUCTION.match(line))}
    seconds: dict[str, float] = collections.defaultdict(float)
    for span in spans:
        seconds[_kind(instructions.get(span.name), kernels)] += (span.end - span.begin) / 1e9 / count
    return sorted(
        (Part(name, value, flops.get(name.split(":")[0]) if ":" in name else None) for name, value in seconds.items()),
        key=lambda part: -part.core_seconds,
    )


def _kind(instruction: re.Match[str] | None, kernels: Mapping[str, int]) -> str:
    if instruction is None:
        return "other"
    path = _PATH.search(instruction[3])
    scopes = path[1] if path else ""
    layer = _LAYERS.search(scopes)
    if layer is None or not _PRODUCT.search(instruction[3]) or scopes.endswith("/reduce_sum"):
        names = (name for name in ("sample", "optimizer", "all_reduce") if f"/{name}/" in f"/{scopes}/")
        return next(names, "layers, beside products" if layer else "other")
    if "transpose(" not in scopes:
        return f"{layer[1]}: forwards"
    size = int(np.prod([int(side) for side in instruction[2].split(",") if side]))
    return f"{layer[1]}: {'weights' if size == kernels[layer[1]] else 'inputs'}' gradient"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each network and kind of work, and writes ``benchmarks/results/products.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dqn", "net1", "net2", "net3"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--updates", type=int, default=16, help="in a call, or minibatches")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args(argv)
    if options.quick:
        options.networks, options.batch, options.updates, options.turns = ["net3"], 8, 2, 1
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX looks how many threads there may be
    if jax.default_backend() != "cpu":
        parser.error("this looks into a CPU's work; for an accelerator's there is pd-jax distill --profile")
    material = Material(play_steps=512 if options.quick else 8_192, capacity=1_024 if options.quick else 16_384)
    ceilings = measure_ceilings(256 if options.quick else 2_048, 2**20, ("float32",))
    ceiling = ceilings.flops["float32"]
    context = Context(find_size("toy" if options.quick else "small"), options.turns, ceilings, material)
    jobs = {
        what: [_measure(what, network, context, options, ceiling) for network in options.networks] for what in _JOBS
    }
    name = "products_quick" if options.quick else "products"
    print(record.write(name, {"flops_of_a_core": ceiling, "batch_size": options.batch, **jobs}))


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is looked into: calls of some minibatches each, ours and PyTorch's, and our compiled program's text."""

    works: Mapping[str, Work]
    program: str | None


def _updates(network: str, variables: Any, context: Context, options: argparse.Namespace) -> _Job:
    """Updates from a replay."""
    material, count = context.material, options.updates
    learner = make_learner(network, [material.task], material.devices, options.batch)
    works = {"ours": updates(learner, (material.stored,), count)}
    rival = PyTorch.find().student(variables)
    if rival is not None:
        works["PyTorch"] = pytorch_updates(rival, pytorch_store(context), options.batch, count)
    many: Any = material.devices.map(
        functools.partial(updates_from_replay, learner.rule, num_updates=count), donate=(0,)
    )
    state = learner.init(jax.random.key(0))
    return _Job(works, many.lower(state, (material.stored,)).compile().as_text())


def _inference(network: str, variables: Any, context: Context, options: argparse.Namespace) -> _Job:
    """A student's outputs for frames that are on the device."""
    material = context.material
    observations = material.stacks(options.batch, options.updates)
    module = make_network(network, material.task.num_actions)
    works = {"ours": bulk_inference(module, variables, observations, options.updates)}
    rival = PyTorch.find().student(variables)
    if rival is not None:
        works["PyTorch"] = pytorch_inference(rival, observations, options.updates)
    apply = jax.jit(of_frames_first(module))
    return _Job(works, apply.lower(variables, frames_first(observations)[0]).compile().as_text())


_JOBS = {"updates": _updates, "inference": _inference}


def _measure(what: str, network: str, context: Context, options: argparse.Namespace, ceiling: float) -> dict[str, Any]:
    material, count = context.material, options.updates
    module = make_network(network, material.task.num_actions)
    example = material.stacks(1, 1)[0]
    variables = jax.jit(module.init)(jax.random.key(0), example)
    kernels = {
        path[-2].key: leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "kernel"
    }
    job = _JOBS[what](network, variables, context, options)
    seconds = {who: [value / count for value in values] for who, values in take_turns(job.works, options.turns).items()}
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            traced = seconds_of(job.works["ours"]) / count
        (path,) = Path(directory).glob("plugins/profile/*/*.xplane.pb")
        spans = [span for spans in read_trace(path).operations.values() for span in spans]
    flops = layer_flops(module, material.task.observation_shape)
    batched = {layer: value * options.batch for layer, value in flops.items()}
    parts = parts_of(spans, job.program or "", kernels, batched, count)
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    _print(f"{what} of {network}", parts, medians, ceiling)
    return {
        "network": network,
        "seconds": seconds,
        "traced_seconds": traced,
        "parts": [dataclasses.asdict(part) for part in parts],
    }


def _print(name: str, parts: Sequence[Part], seconds: Mapping[str, float], ceiling: float) -> None:
    total = sum(part.core_seconds for part in parts)
    said = ", ".join(f"{who} {1e3 * value:.1f} ms" for who, value in seconds.items())
    table = Table("operations", "ms", "share", "GFLOP/s", "of its best", title=f"{name}: {said}")
    for part in parts:
        rate = part.flops / part.core_seconds if part.flops else None
        told = (f"{rate / 1e9:.0f}", f"{100 * rate / ceiling:.0f} %") if rate else ("", "")
        table.add_row(part.name, f"{1e3 * part.core_seconds:.2f}", f"{100 * part.core_seconds / total:.0f} %", *told)
    Console().print(table)


if __name__ == "__main__":
    main()
