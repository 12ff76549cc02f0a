"""Updates on 1 to 8 devices, each with as large a share of the minibatch. On a CPU, on virtual devices.

A process has its number of virtual devices from its start on, so they are measured in a process of their own:

    python -c 'from benchmarks.stages.devices import main; main()' PLAY.npz OUT.json --network net2 --counts 1 2 4 8 ...
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from benchmarks.harness.floors import training_flops
from benchmarks.harness.material import LANES, fill, make_learner
from benchmarks.harness.measure import rates, take_turns
from benchmarks.harness.rows import Row, make_row
from benchmarks.stages.context import Context
from benchmarks.stages.update import updates
from pd_jax.environments.tasks import get_task
from pd_jax.networks.registry import make_network
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory

_CAPACITY = 8192


def run(context: Context) -> list[Row]:
    """Every network whose cost is followed, on 1 to 8 devices in turn."""
    return [row for network in context.size.growing_networks for row in _measure(context, network)]


def _measure(context: Context, network: str) -> list[Row]:
    size, task = context.size, context.material.task
    flops = training_flops(make_network(network, task.num_actions), task.observation_shape)
    count = context.batches_per_call(flops, size.per_device_batch * max(size.devices))
    if context.shares_cores:
        seconds = _in_a_process(context, network, count)
        note = f"{max(size.devices)} virtual devices on {os.cpu_count()} cores"
    else:
        here = len(jax.local_devices())
        counts = [number for number in size.devices if number <= here]
        seconds = measure(context.material.play, network, counts, size.per_device_batch, count, context.turns)
        note = ""
    return [
        make_row(
            "devices",
            {"network": network, "devices": number, "batch": number * size.per_device_batch},
            "samples/s",
            rates(number * size.per_device_batch * count, values),
            cost=context.material.frames_cost(flops),
            ceilings=context.ceilings,
            note=note,
        )
        for number, values in seconds.items()
    ]


def measure(
    play: Trajectory, network: str, counts: list[int], share: int, updates_per_call: int, turns: int
) -> dict[int, list[float]]:
    """Seconds of a call, by the number of devices, which take turns."""
    task, works = get_task("pong"), {}
    for number in counts:
        devices = DeviceGroup.local(number)
        learner = make_learner(network, [task], devices, share * number)
        stored = fill(devices, task, play, min(_CAPACITY, play.actions.size))
        works[number] = updates(learner, (stored,), updates_per_call)
    return take_turns(works, turns)


def _in_a_process(context: Context, network: str, count: int) -> dict[int, list[float]]:
    """As :func:`measure`, in a process with as many virtual devices."""
    size = context.size
    # The last of contradicting flags holds.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(size.devices)}"
    with tempfile.TemporaryDirectory() as directory:
        play, out = Path(directory) / "play.npz", Path(directory) / "seconds.json"
        np.savez(play, **dataclasses.asdict(context.material.play))
        options = {"network": [network], "counts": size.devices, "share": [size.per_device_batch]}
        options |= {"updates-per-call": [count], "turns": [context.turns]}
        # With -m the module, which its package imports, would be there twice, and Python warn of it.
        code = f"from {__name__} import main; main()"
        command = [sys.executable, "-c", code, str(play), str(out)]
        for name, values in options.items():
            command += [f"--{name}", *map(str, values)]
        subprocess.run(
            command,
            env={**os.environ, "XLA_FLAGS": flags},
            cwd=Path(__file__).parents[2],
            check=True,
            # Of Ctrl-C this process says what there is to say, and ends it.
            start_new_session=True,
        )
        return {int(number): seconds for number, seconds in json.loads(out.read_text()).items()}


def main() -> None:
    """Measures on this process's devices and writes the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("play", type=Path, help="recorded play")
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", required=True)
    parser.add_argument("--counts", nargs="+", type=int, required=True, help=f"of devices; each divides {LANES}")
    parser.add_argument("--share", type=int, required=True, help="samples of a minibatch on each device")
    parser.add_argument("--updates-per-call", type=int, required=True)
    parser.add_argument("--turns", type=int, required=True)
    options = parser.parse_args()
    with np.load(options.play) as arrays:
        play = Trajectory(**dict(arrays.items()))
    seconds = measure(play, options.network, options.counts, options.share, options.updates_per_call, options.turns)
    options.out.write_text(json.dumps(seconds))
