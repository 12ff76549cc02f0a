"""What the efficiency on D devices follows from: an update's seconds, the bytes of its all-reduce, and play.

    python -m benchmarks.studies.scaling
    python -m benchmarks.studies.scaling --link-gigabytes 25 --networks multi10   # over a link of 25 GB/s
    python -m benchmarks.studies.scaling --plan v5e.json h100.json   # of devices that are not here

Measured here, on the devices there are: seconds of an update of each device's share of the minibatch, without any
all-reduce; the size of the all-reduce, read off the compiled update; seconds of an all-reduce of that size among those
devices; control steps a second of a teacher's play, of one game and all of this host's cores. Worked out from these:
the efficiency u / (u + a), with u the update's seconds and a the all-reduce's: as measured here, and over a link of
given speed, on which a ring moves 2 (D - 1) / D times its bytes.

With --plan nothing is measured: u, the bytes and the link are those of files that `pd-jax plan --json` wrote, of the
device's own compiler and its maker's figures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.actors.live import LivePlay
from pd_jax.config.sections import EnvConfig, LearnerConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.learner import Learner
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student
from pd_jax.resources.plan.devices import parse_topology, read_kinds
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.teachers import load
from pd_jax.types import Batch


def main() -> None:
    """Prints the tables and writes ``benchmarks/results/scaling.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["net3", "net2", "net1", "dqn"])
    parser.add_argument("--share", type=int, default=32, help="samples of a minibatch on each device")
    parser.add_argument("--link-gigabytes", type=float, default=12.5, help="of the link between devices, GB a second")
    parser.add_argument("--devices", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--plan", nargs="+", type=Path, default=[], help="files that pd-jax plan --json wrote")
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args()
    if options.plan:
        _print_planned(options.plan, options.devices)
        return
    if options.quick:
        options.networks, options.share, options.turns = ["net3"], 4, 2
    rows = [_measure(network, options) for network in options.networks]
    play = _play_steps_per_second(256 if options.quick else 8192)
    here = len(jax.local_devices())
    table = Table("network", "all-reduce", "update", f"all-reduce among {here}", f"efficiency on {here}")
    for count in options.devices:
        table.add_column(f"on {count} over {options.link_gigabytes:g} GB/s")
    for row in rows:
        cells = [f"{row['all_reduce_bytes'] / 1e6:.2f} MB", f"{1e3 * row['update_seconds']:.2f} ms"]
        cells += [f"{1e3 * row['all_reduce_seconds']:.2f} ms", f"{100 * row['efficiency_here']:.0f} %"]
        cells += [f"{100 * row['efficiency_over_link'][str(count)]:.0f} %" for count in options.devices]
        table.add_row(row["network"], *cells)
    Console().print(table)
    print(f"play: {play:,.0f} control steps a second of Pong on {os.cpu_count()} cores, teacher's inference included")
    results = {"load_average": os.getloadavg(), "share": options.share, "turns": options.turns}
    results |= {"link_gigabytes": options.link_gigabytes, "play_steps_per_second": play, "rows": rows}
    print(record.write("scaling_quick" if options.quick else "scaling", results))


def efficiency(update_seconds: float, num_bytes: int, num_devices: int, link_bandwidth: float) -> float:
    """``u / (u + a)``: the share of the time of D devices that is not their all-reduce's.

    Args:
      update_seconds: u, of each device's share of the minibatch.
      num_bytes: of the all-reduce.
      num_devices: D, in a ring.
      link_bandwidth: of the links between them, bytes a second.
    """
    return update_seconds / (update_seconds + 2 * (num_devices - 1) / num_devices * num_bytes / link_bandwidth)


def planned_rows(paths: Sequence[Path], counts: Sequence[int]) -> list[dict[str, Any]]:
    """The same of plans: a row for each file, whose ``efficiency`` is at the number of devices that it is for.

    Args:
      paths: of files that ``pd-jax plan --json`` wrote.
      counts: other numbers of devices, each with the same share of a minibatch.
    """
    rows = []
    for path in paths:
        content = json.loads(path.read_text())
        plan = content.get("plan", content)
        update = next(report for name, report in plan["programs"].items() if name.startswith("update"))
        link = parse_topology(plan["topology"], read_kinds()).link_bandwidth
        assert link is not None
        if update["floor_seconds"] is None:
            raise SystemExit(f"{path}: the update could not be compiled ({update['fault']})")
        alone = max(update["estimated_seconds"] or 0.0, update["floor_seconds"] - update["link_seconds"])
        num_bytes = sum(update["all_reduces"])
        rows.append(
            {
                "topology": plan["topology"],
                "network": plan["student"],
                "games": len(plan["games"]),
                "rates": plan["rates"],
                "needed_bytes": plan["needed_bytes"],
                "memory_bytes": plan["memory_bytes"],
                "share": plan["minibatch"] // plan["learners"],
                "all_reduce_bytes": num_bytes,
                "update_seconds": alone,
                "link_bandwidth": link,
                "efficiency": efficiency(alone, num_bytes, plan["learners"], link),
                "efficiency_over_link": {str(count): efficiency(alone, num_bytes, count, link) for count in counts},
            }
        )
    return rows


def _print_planned(paths: Sequence[Path], counts: Sequence[int]) -> None:
    table = Table("plan", "student", "all-reduce", "update", "link", "efficiency")
    for count in counts:
        table.add_column(f"on {count}")
    rows = planned_rows(paths, counts)
    for row in rows:
        cells = [f"{row['topology']}, {row['games']} games, share {row['share']}", row["network"]]
        cells += [f"{row['all_reduce_bytes'] / 1e6:.2f} MB", f"{1e3 * row['update_seconds']:.2f} ms"]
        cells += [f"{row['link_bandwidth'] / 1e9:g} GB/s", f"{100 * row['efficiency']:.0f} %"]
        cells += [f"{100 * row['efficiency_over_link'][str(count)]:.0f} %" for count in counts]
        table.add_row(*cells)
    Console().print(table)
    print("nothing of this was measured: see docs/plan.md")
    print(record.write("scaling_planned", {"rows": rows}))


def _measure(network: str, options: argparse.Namespace) -> dict[str, Any]:
    update, text = _update(network, options.share, DeviceGroup.local(1))
    everywhere = DeviceGroup.local()
    _, text = _update(network, options.share, everywhere) if everywhere.size > 1 else (None, text)
    num_bytes = _all_reduce_bytes(text)
    seconds = _median_seconds(update, options.turns)
    reduction = _median_seconds(_all_reduce(num_bytes, everywhere), options.turns)
    over_link = {
        str(count): efficiency(seconds, num_bytes, count, options.link_gigabytes * 1e9) for count in options.devices
    }
    return {
        "network": network,
        "all_reduce_bytes": num_bytes,
        "update_seconds": seconds,
        "all_reduce_seconds": reduction,
        "efficiency_here": seconds / (seconds + reduction),
        "efficiency_over_link": over_link,
    }


def _update(network: str, share: int, devices: DeviceGroup) -> tuple[Callable[[], None], str]:
    """An update that has been compiled, and its program."""
    task = get_task("pong")
    student = Student(make_network(network, task.num_actions), (task,))
    config = LearnerConfig(batch_size=share * devices.size)

    def loss(outputs: jax.Array, teacher_q: jax.Array) -> jax.Array:
        return kl_loss(outputs, teacher_q, temperature=0.01)

    learner = Learner(student, loss, config, devices, total_updates=1)
    state = learner.init(jax.random.key(0))
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (devices.size, 1, share, *task.observation_shape), dtype=np.uint8)
    q_values = generator.normal(size=(devices.size, 1, share, task.num_actions))
    batch = Batch(jnp.asarray(frames), jnp.asarray(q_values, jnp.float32))
    text: str = learner._update.lower(state, batch).compile().as_text()

    def update() -> None:
        nonlocal state
        state, _ = learner.update(state, batch)
        jax.block_until_ready(state)

    update()
    return update, text


def _all_reduce_bytes(text: str) -> int:
    """What the all-reduces of a compiled program send, from their shapes; on one device there may be none left."""
    sizes = re.findall(r"= f32\[(\d+)\][^=]* all-reduce(?:-start)?[(]", text)
    if not sizes:
        raise SystemExit("no all-reduce found: set XLA_FLAGS=--xla_force_host_platform_device_count=2")
    return 4 * sum(map(int, sizes))


def _all_reduce(num_bytes: int, devices: DeviceGroup) -> Callable[[], None]:
    mean = devices.map(lambda x: lax.pmean(x, AXIS))
    values = devices.replicate(np.zeros(num_bytes // 4, np.float32))

    def reduce() -> None:
        jax.block_until_ready(mean(values))

    reduce()
    return reduce


def _median_seconds(function: Callable[[], None], turns: int) -> float:
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _play_steps_per_second(steps: int) -> float:
    teacher = load("pong")
    lanes, length = 32, 32
    play = LivePlay(teacher, teacher.task, EnvConfig(num_lanes=lanes), rollout_length=length, epsilon=0.05, seed=0)
    next(iter(play.rollouts(1)))
    count = max(1, steps // (lanes * length))
    started = time.perf_counter()
    for trajectory in play.rollouts(count):
        jax.block_until_ready(trajectory)
    seconds = time.perf_counter() - started
    play.close()
    return count * lanes * length / seconds


if __name__ == "__main__":
    main()
