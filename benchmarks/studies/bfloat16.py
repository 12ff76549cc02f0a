"""What bfloat16 gains or costs on a CPU: updates and inference in both types, ours and PyTorch's, and a large product.

    python -m benchmarks.studies.bfloat16

Beside the rates it says in which type the products of our compiled programs multiply: on a CPU XLA turns the operands
of each into float32 first, and rounds what comes out. All take turns.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.floors import measure_ceilings
from benchmarks.harness.material import Material, make_learner
from benchmarks.harness.measure import Work, ratios, take_turns
from benchmarks.harness.sizes import find_size
from benchmarks.stages.context import Context, PyTorch
from benchmarks.stages.inference import bulk_inference, frames_first, of_frames_first, pytorch_inference
from benchmarks.stages.update import pytorch_store, pytorch_updates, updates
from pd_jax.networks.registry import make_network

DTYPES = ("float32", "bfloat16")
_PRODUCT = re.compile(r"= (\w+)\[[\d,]*\]\S* (?:dot|convolution)\(")
_CONVERSION = re.compile(r"= \w+\[[\d,]*\]\S* convert\(")


def operations_of(program: str) -> dict[str, Any]:
    """The types in which the products of a compiled program multiply, and how many conversions it has.

    Args:
      program: its text.
    """
    return {"products": sorted(_PRODUCT.findall(program)), "conversions": len(_CONVERSION.findall(program))}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table and writes ``benchmarks/results/bfloat16.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dqn", "net2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--updates", type=int, default=8, help="in a call, or minibatches")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args(argv)
    if options.quick:
        options.networks, options.batches, options.updates, options.turns = ["net3"], [4], 2, 1
    material = Material(play_steps=512 if options.quick else 2_048, capacity=512 if options.quick else 4_096)
    ceilings = measure_ceilings(256 if options.quick else 1_024, 2**20, DTYPES)
    context = Context(find_size("toy"), options.turns, ceilings, material)
    rows = [
        _measure(context, network, batch, options.updates) for network in options.networks for batch in options.batches
    ]
    table = Table("", "network", "batch", "ours", "PyTorch's", "ours, of PyTorch's")
    table.title = "bfloat16 as fast as float32"
    for row in rows:
        for what in ("update", "inference"):
            told = row[what]["ratios"]
            columns = ("ours", "PyTorch's", "ours, of PyTorch's")
            table.add_row(what, row["network"], str(row["batch"]), *(f"{told.get(name, 0):.2f}" for name in columns))
    Console().print(table)
    name = "bfloat16_quick" if options.quick else "bfloat16"
    print(record.write(name, {"flops_of_a_large_product": dict(ceilings.flops), "rows": rows}))


def _measure(context: Context, name: str, batch: int, count: int) -> dict[str, Any]:
    material, pytorch = context.material, PyTorch.find()
    observations = material.stacks(batch, count)
    works: dict[str, dict[tuple[str, str], Work]] = {"update": {}, "inference": {}}
    programs = {}
    for dtype in DTYPES:
        learner = make_learner(name, [material.task], material.devices, batch, dtype=dtype)
        works["update"]["ours", dtype] = updates(learner, (material.stored,), count)
        variables = learner.init_single(jax.random.key(0)).variables
        network = make_network(name, material.task.num_actions, compute_dtype=dtype)
        works["inference"]["ours", dtype] = bulk_inference(network, variables, observations, count)
        lowered = jax.jit(of_frames_first(network)).lower(variables, frames_first(observations)[0])
        programs[dtype] = operations_of(lowered.compile().as_text() or "")
        learns, decides = (pytorch.student(variables, dtype) for _ in range(2))
        if learns is not None:
            works["update"]["PyTorch", dtype] = pytorch_updates(learns, pytorch_store(context), batch, count)
            works["inference"]["PyTorch", dtype] = pytorch_inference(decides, observations, count)
    row: dict[str, Any] = {"network": name, "batch": batch, "program of inference": programs}
    for what, own in works.items():
        row[what] = _compared(take_turns(own, context.turns), count)
    return row


def _compared(seconds: Mapping[tuple[str, str], list[float]], count: int) -> dict[str, Any]:
    """Milliseconds of a minibatch, and how many times as fast bfloat16 is."""

    def ratio(slow: tuple[str, str], fast: tuple[str, str]) -> float:
        return statistics.median(ratios(seconds[slow], seconds[fast]))

    found = {"ours": ratio(("ours", "float32"), ("ours", "bfloat16"))}
    if ("PyTorch", "float32") in seconds:
        found["PyTorch's"] = ratio(("PyTorch", "float32"), ("PyTorch", "bfloat16"))
        found["ours, of PyTorch's"] = ratio(("PyTorch", "bfloat16"), ("ours", "bfloat16"))
    milliseconds = {" ".join(who): 1e3 * statistics.median(values) / count for who, values in seconds.items()}
    return {"milliseconds": milliseconds, "ratios": found}


if __name__ == "__main__":
    main()
