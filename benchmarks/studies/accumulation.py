"""Updates whose minibatch is gone through in parts (``learner.accumulate``), against the whole at once.

    python -m benchmarks.studies.accumulation

The learner's own updates, on one device, from a minibatch that is given. The variants take turns; ratios are medians
over the turns of what a whole minibatch takes over what its parts take: above 1, parts are faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.sections import LearnerConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.learner import Learner
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Batch


def main() -> None:
    """Prints the table and writes ``benchmarks/results/accumulation.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["net2", "dqn"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.batch, options.parts, options.turns = ["net3"], 8, [1, 2], 2
    rows = [row for network in options.networks for row in _measure(network, options)]
    table = Table("network", "batch", "parts", "samples/s", "whole / parts (lowest to highest)")
    for row in rows:
        spread = f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"
        table.add_row(row["network"], str(row["batch"]), str(row["parts"]), f"{row['samples_per_second']:,.0f}", spread)
    Console().print(table)
    name = "accumulation_quick" if options.quick else "accumulation"
    print(record.write(name, {"load_average": os.getloadavg(), "turns": options.turns, "rows": rows}))


def _measure(network: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    variants = {parts: _updates(network, options.batch, parts) for parts in options.parts}
    seconds: dict[int, list[float]] = {parts: [] for parts in variants}
    for _ in range(options.turns):
        for parts, update in variants.items():
            started = time.perf_counter()
            update()
            seconds[parts].append(time.perf_counter() - started)
    rows = []
    for parts, times in seconds.items():
        ratios = [whole / own for whole, own in zip(seconds[options.parts[0]], times, strict=True)]
        rows.append(
            {
                "network": network,
                "batch": options.batch,
                "parts": parts,
                "samples_per_second": options.batch / statistics.median(times),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return rows


def _updates(network: str, batch_size: int, parts: int) -> Callable[[], None]:
    """An update that has been compiled."""
    devices, task = DeviceGroup.local(1), get_task("pong")
    config = LearnerConfig(batch_size=batch_size, accumulate=parts)
    student = Student(make_network(network, task.num_actions), (task,))

    def loss(outputs: jax.Array, teacher_q: jax.Array) -> jax.Array:
        return kl_loss(outputs, teacher_q, temperature=0.01)

    learner = Learner(student, loss, config, devices, total_updates=1)
    state = learner.init(jax.random.key(0))
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (1, 1, batch_size, *task.observation_shape), dtype=np.uint8)
    q_values = generator.normal(size=(1, 1, batch_size, task.num_actions))
    batch = Batch(jnp.asarray(frames), jnp.asarray(q_values, jnp.float32))

    def update() -> None:
        nonlocal state
        state, _ = learner.update(state, batch)
        jax.block_until_ready(state)

    update()
    return update


if __name__ == "__main__":
    main()
