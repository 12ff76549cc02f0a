"""What sequences cost a student with memory, against as many single examples of a student without, with equal torsos.

    python -m benchmarks.studies.sequences

The learner's own updates of Pong's shapes, drawn from a replay. The variants take turns; ratios are medians over the
turns of what an update from sequences takes over what one from single examples takes: 1.2 is a fifth more. A variant
with a burn-in is held against as many single examples as it learns from; it goes through more steps than these.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.learner import Learner
from pd_jax.losses import kl_loss
from pd_jax.networks.partition import machine_sizes
from pd_jax.networks.student import make_student
from pd_jax.replay.replay import Replay, RingSize
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory

_LANES, _STEPS, _EPISODE = 16, 128, 100


def main() -> None:
    """Prints the table and writes ``benchmarks/results/sequences.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["net2", "dqn"])
    parser.add_argument("--memories", nargs="+", default=["gru", "lstm"])
    parser.add_argument("--batch", type=int, default=128, help="steps of a minibatch")
    parser.add_argument("--length", type=int, default=16, help="of a sequence")
    parser.add_argument("--burn-ins", nargs="+", type=int, default=[0, 8])
    parser.add_argument("--updates", type=int, default=10, help="in one call")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.memories, options.batch, options.length = ["net3"], ["gru"], 8, 4
        options.burn_ins, options.updates, options.turns = [2], 2, 2
    rows = [row for network in options.networks for row in _measure(network, options)]
    table = Table("network", "memory", "burn-in", "steps learnt from /s", "sequences / singles (lowest to highest)")
    for row in rows:
        spread = f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"
        table.add_row(row["network"], row["memory"], str(row["burn_in"]), f"{row['steps_per_second']:,.0f}", spread)
    Console().print(table)
    settings = {name: value for name, value in vars(options).items() if name != "quick"}
    name = "sequences_quick" if options.quick else "sequences"
    print(record.write(name, {"load_average": os.getloadavg(), "settings": settings, "rows": rows}))


def _measure(network: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    play = _stored_play()
    kinds = [("none", 0), *((memory, burn_in) for memory in options.memories for burn_in in options.burn_ins)]
    variants = {kind: _updates(network, *kind, options, play) for kind in kinds}
    seconds: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.turns):
        for kind, update in variants.items():
            started = time.perf_counter()
            update()
            seconds[kind].append(time.perf_counter() - started)
    rows = []
    for kind, times in seconds.items():
        ratios = [own / single for own, single in zip(times, seconds["none", 0], strict=True)]
        rows.append(
            {
                "network": network,
                "memory": kind[0],
                "burn_in": kind[1],
                "steps_per_second": options.batch * options.updates / statistics.median(times),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return rows


def _stored_play() -> Replay:
    """Frames and Q-values from a generator, in episodes of 100 steps."""
    task, generator = get_task("pong"), np.random.default_rng(0)
    shape = (_STEPS, _LANES)
    size = RingSize(_LANES, _STEPS, task.frame_shape, task.observation_dtype, task.num_actions)
    replay = Replay([size], DeviceGroup.local(1))
    times = np.broadcast_to(np.arange(_STEPS)[:, None], shape)
    played: dict[str, Any] = {
        "observations": generator.integers(0, 256, (*shape, *task.frame_shape), dtype=np.uint8),
        "is_first": times % _EPISODE == 0,
        "is_decision": times % _EPISODE != _EPISODE - 1,
        "actions": np.zeros(shape, np.int32),
        "rewards": np.zeros(shape, np.float32),
        "teacher_q": generator.normal(size=(*shape, task.num_actions)).astype(np.float32),
    }
    replay.insert(0, Trajectory(**played))
    return replay


def _updates(
    network: str, memory: Any, burn_in: int, options: argparse.Namespace, replay: Replay
) -> Callable[[], None]:
    """A call of updates that has been compiled."""
    config = LearnerConfig(batch_size=options.batch, sequence_length=options.length, burn_in=burn_in)
    student = make_student(StudentConfig(network=network, memory=memory), [get_task("pong")])  # type: ignore[arg-type]

    def loss(outputs: jax.Array, teacher_q: jax.Array) -> jax.Array:
        return kl_loss(outputs, teacher_q, temperature=0.01)

    learner = Learner(student.with_sizes(machine_sizes()), loss, config, DeviceGroup.local(1), total_updates=1)
    state = learner.init(jax.random.key(0))

    def update() -> None:
        nonlocal state
        state, _ = learner.update_from_replay(state, replay.stored, options.updates)
        jax.block_until_ready(state)

    update()
    return update


if __name__ == "__main__":
    main()
