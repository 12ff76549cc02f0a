"""Inference of students at every size against PyTorch, and what a minibatch's time on a CPU goes to.

    python -m benchmarks.studies.inference

PyTorch is given twice where it can compile: as it is, and by ``torch.compile``. For one size it says how the cores'
time divides into products and passes beside them, and how long cores wait. All take turns.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.floors import forward_flops
from benchmarks.harness.material import Material
from benchmarks.harness.measure import Work, ratios, seconds_of, take_turns
from benchmarks.stages.context import MOST_BATCHES, PyTorch
from benchmarks.stages.inference import bulk_inference, pytorch_inference
from pd_jax.networks.registry import make_network
from pd_jax.resources.traces import read_trace
from pd_jax.system.cores import usable_cores

_PRODUCT = re.compile(r"^(?:ynn_fusion|dot|convolution|conv_general)")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables and writes ``benchmarks/results/inference.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dqn", "net1", "net2", "net3"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--looked-into", type=int, default=32, help="the size whose time is divided")
    parser.add_argument("--call-flops", type=float, default=1.5e10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args(argv)
    if options.quick:
        options.networks, options.batches, options.looked_into = ["net3"], [2], 2
        options.call_flops, options.turns = 1e7, 1
    material = Material(play_steps=512 if options.quick else 4_096, capacity=512 if options.quick else 4_096)
    rows = [_measure(material, network, batch, options) for network in options.networks for batch in options.batches]
    table = Table("network", "observations", "ours, ms", "of PyTorch's", "of torch.compile's")
    for row in rows:
        told = [f"{row['ratios'][who]:.2f}" if who in row["ratios"] else "" for who in ("PyTorch", "torch.compile")]
        ours = row["milliseconds"]["ours"]
        table.add_row(row["network"], str(row["observations"]), f"{ours:.3f}", *told)
    Console().print(table)
    table = Table("network", "observations", "products", "passes beside them", "cores wait")
    for row in rows:
        if "core_shares" in row:
            shares = (f"{100 * share:.0f} %" for share in row["core_shares"].values())
            table.add_row(row["network"], str(row["observations"]), *shares)
    Console().print(table)
    print(record.write("inference_quick" if options.quick else "inference", rows))


def _measure(material: Material, name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    task, pytorch = material.task, PyTorch.find()
    network = make_network(name, task.num_actions)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *task.observation_shape), jnp.uint8))
    flops = forward_flops(network, task.observation_shape)
    count = max(1, min(50, round(options.call_flops / (flops * batch))))
    observations = np.array(material.stacks(batch, min(count, MOST_BATCHES)))
    works: dict[str, Work] = {"ours": bulk_inference(network, variables, observations, count)}
    rival = pytorch.student(variables)
    if rival is not None:
        works["PyTorch"] = pytorch_inference(rival, observations, count)
        if PyTorch.device() == "cpu" and shutil.which("c++"):
            works["torch.compile"] = pytorch_inference(_compiled(rival), observations, count)
    seconds = take_turns(works, options.turns)
    row = {
        "network": name,
        "observations": batch,
        "milliseconds": {who: 1e3 * statistics.median(values) / count for who, values in seconds.items()},
        "ratios": {
            who: statistics.median(ratios(values, seconds["ours"])) for who, values in seconds.items() if who != "ours"
        },
    }
    if batch == options.looked_into and jax.default_backend() == "cpu":
        row["core_shares"] = _core_shares(works["ours"])
    return row


def _compiled(rival: Any) -> Any:
    """The same network as PyTorch's compiler makes it, for one size."""
    import copy

    import torch

    torch._dynamo.reset()
    compiled = copy.copy(rival)
    compiled._forward = torch.compile(rival.network, dynamic=False)
    return compiled


def _core_shares(work: Work) -> dict[str, float]:
    """What the time of all cores goes to."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            wall = seconds_of(work)
        (path,) = Path(directory).glob("plugins/profile/*/*.xplane.pb")
        spans = [span for spans in read_trace(path).operations.values() for span in spans]
    there = wall * len(usable_cores())
    products, passes = (
        sum((span.end - span.begin) / 1e9 for span in spans if bool(_PRODUCT.match(span.name)) is wanted) / there
        for wanted in (True, False)
    )
    return {"products": products, "passes": passes, "waiting": max(0.0, 1 - products - passes)}


if __name__ == "__main__":
    main()
