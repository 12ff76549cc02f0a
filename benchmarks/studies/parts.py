"""Sizes of the parts that a CPU divides large batches into: which are fastest here, and against PyTorch.

    python -m benchmarks.studies.parts
    python -m benchmarks.studies.parts --networks net2 --batches 128 --turns 15 --resume

Updates as a run makes them, several in one call, from a replay. Sizes, batches and PyTorch take turns. For each network
and sizes a ratio is the median over the turns of the best batch's rate over that of PyTorch's best batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.harness.floors import Ceilings
from benchmarks.harness.material import Material, make_learner
from benchmarks.harness.measure import Spread, Work, rates, ratios, take_turns
from benchmarks.harness.sizes import find_size
from benchmarks.stages.context import Context, PyTorch
from benchmarks.stages.update import pytorch_store, pytorch_updates, updates
from pd_jax.networks.partition import PartSizes, machine_sizes
from pd_jax.system.cores import cache_bytes, xla_threads

_SAMPLES = 1_024
"""Of one call."""
_TINY = 16


def candidates() -> dict[str, PartSizes]:
    """Sizes to try, by name: those of earlier runs, this machine's, and others around them."""
    found = {"as they were": PartSizes(), "this machine's": machine_sizes()}
    for most, convolution in ((8, 8), (2, 32), (8, 16), (4, 32), (16, 16), (8, 32)):
        together = most * convolution
        found[f"{most} x {convolution}"] = dataclasses.replace(
            machine_sizes(), convolution=convolution, most=max(8, most), gradient=together
        )
    # Of equal ones the first.
    return {name: sizes for name, sizes in found.items() if name == next(key for key in found if found[key] == sizes)}


def main() -> None:
    """Prints the table and writes ``benchmarks/results/parts.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dqn", "net1", "net2", "net3"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="names of sizes; all by default")
    parser.add_argument("--resume", action="store_true", help="keep the result file's other networks")
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.batches, options.turns = ["net3"], [_TINY], 2
    name = "parts_quick" if options.quick else "parts"
    tried = {key: sizes for key, sizes in candidates().items() if options.only is None or key in options.only}
    play = 64 if options.quick else 2_048
    context = Context(find_size("small"), options.turns, Ceilings({}, 0.0), Material(play, 4 * play))
    rows = _kept(name, options.networks) if options.resume else []
    table = Table("network", "sizes", "batch", "samples/s", "of PyTorch (lowest to highest)")
    for network in options.networks:
        rows += _measure(context, network, options.batches, tried)
    for row in rows:
        ratio = row["of_pytorch"]
        text = "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        table.add_row(row["network"], row["sizes"], str(row["batch"]), f"{row['samples_per_second']:,.0f}", text)
    Console().print(table)
    about = {
        "load_average": os.getloadavg(),
        "turns": options.turns,
        "threads": xla_threads(),
        "cache_bytes": {f"level {level}": cache_bytes(level) for level in (1, 2, 3)},
        "sizes": {key: dataclasses.asdict(sizes) for key, sizes in tried.items()},
    }
    print(record.write(name, about | {"rows": rows}))


def _kept(name: str, networks: list[str]) -> list[dict[str, Any]]:
    path = record.RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["results"]["rows"] if path.exists() else []
    return [row for row in rows if row["network"] not in networks]


def _measure(
    context: Context, network: str, batches: list[int], tried: Mapping[str, PartSizes]
) -> list[dict[str, Any]]:
    """A row for each sizes, of the batch that is best with them, and one of PyTorch's."""
    material, pytorch = context.material, PyTorch.find()
    works: dict[tuple[str, int], Work] = {}
    items: dict[tuple[str, int], int] = {}
    variables = None
    for batch in batches:
        count = max(1, _SAMPLES // batch)
        for name, sizes in tried.items():
            learner = make_learner(network, [material.task], material.devices, batch, sizes=sizes)
            works[name, batch] = updates(learner, (material.stored,), count)
            variables = variables or learner.init_single(jax.random.key(0)).variables
        if (rival := pytorch.student(variables)) is not None:
            works["PyTorch", batch] = pytorch_updates(rival, pytorch_store(context), batch, count)
        items |= {key: batch * count for key in works if key[1] == batch}
    seconds = take_turns(works, context.turns)
    speed = {key: rates(items[key], values) for key, values in seconds.items()}
    best = {}
    for name in dict.fromkeys(name for name, _ in speed):
        best[name] = max((key for key in speed if key[0] == name), key=lambda key: statistics.median(speed[key]))
    rival_speed = speed.get(best.get("PyTorch", ("", 0)))
    rows = []
    for name, key in best.items():
        of_pytorch = None if rival_speed is None else dataclasses.asdict(Spread.of(ratios(speed[key], rival_speed)))
        rows.append(
            {
                "network": network,
                "sizes": name,
                "batch": key[1],
                "samples_per_second": statistics.median(speed[key]),
                "of_pytorch": of_pytorch,
            }
        )
    return sorted(rows, key=lambda row: -row["samples_per_second"])


if __name__ == "__main__":
    main()
