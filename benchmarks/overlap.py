"""The live loop against what its parts allow: play alone, updates alone, and both with and without overlap.

    python -m benchmarks.overlap

On a CPU play and updates share the cores, and a round can be as fast as the sum of both alone; on an accelerator, as
fast as the slower of them. ``bound / live`` is 1 where a loop loses nothing. The live loops are runs of ``pd-jax
distill`` as anyone would start it, but without checkpoints, timed by the ``wall_seconds`` of their metrics; the first
round, which compiles, and the last, after which there is nothing left to play, are left out. All four take turns,
so that a machine whose speed drifts does not favour one. ``cpu`` is the processor time of this process over the wall
time: where it is well below the number of cores, others were at work and ratios are worth what their spread says.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import record
from pd_jax.config import (
    ActorsConfig,
    DistillCheckpointConfig,
    DistillConfig,
    EnvConfig,
    LearnerConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.distill import distill
from pd_jax.interrupts import Interrupts
from pd_jax.learner import Learner
from pd_jax.lessons import Lessons
from pd_jax.preparation import Setting, make_loss, prepare
from pd_jax.progression import Progression
from pd_jax.reporting.metrics import read_metrics
from pd_jax.reporting.progress import Progress


@dataclasses.dataclass(frozen=True)
class _Timed:
    """Seconds of a round, and of processor time in it."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    """Prints the table and writes ``benchmarks/results/overlap.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="pong")
    parser.add_argument("--network", default="net2")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--stepping", choices=["jit", "host"], default="jit")
    parser.add_argument("--steps", type=int, default=2_048, help="control steps of a round")
    parser.add_argument("--updates", type=int, default=900, help="updates of a round")
    parser.add_argument("--rounds", type=int, default=2, help="that are timed in every turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a toy size, which only shows that all of it runs")
    parser.add_argument("--name", default="overlap", help="of the result file")
    options = parser.parse_args()
    if options.quick:
        options.teacher, options.network, options.turns, options.name = "cartpole", "mlp", 2, "overlap_quick"
        options.updates = 200
    with tempfile.TemporaryDirectory() as directory:
        turns = _measure(options, Path(directory))
    results = {"settings": {key: value for key, value in vars(options).items() if key != "name"}, **_summarise(turns)}
    table = Table("", "seconds a round", "bound / live (lowest to highest)")
    for name, seconds in results["seconds_per_round"].items():
        ratio = results["bound_over_live"].get(name)
        spread = f"{ratio['median']:.3f} ({ratio['lowest']:.3f} to {ratio['highest']:.3f})" if ratio else ""
        table.add_row(name, f"{seconds['median']:.2f}", spread)
    Console().print(table)
    print(record.write(options.name, results))


def _measure(options: argparse.Namespace, directory: Path) -> list[dict[str, _Timed]]:
    config = _config(options, directory / "alone")
    with _parts(prepare(config)) as (play, updates):
        play()
        updates()
        turns = []
        for turn in range(options.turns):
            timed = {"play alone": _time(play, options.rounds), "updates alone": _time(updates, options.rounds)}
            for name, overlap in (("live, by turns", False), ("live, overlapped", True)):
                out = directory / f"{turn}-{overlap}"
                timed[name] = _live(dataclasses.replace(_config(options, out), actors=ActorsConfig(overlap=overlap)))
            print("  ".join(f"{name} {value.seconds:.2f} s" for name, value in timed.items()), flush=True)
            turns.append(timed)
    return turns


def _config(options: argparse.Namespace, out: Path) -> DistillConfig:
    rounds = options.rounds + 2
    return DistillConfig(
        teacher=options.teacher,
        out=str(out),
        env=EnvConfig(num_lanes=options.lanes, stepping=options.stepping),
        actors=ActorsConfig(overlap=False),
        student=StudentConfig(network=options.network),
        learner=LearnerConfig(optimizer="adam"),
        replay=ReplayConfig(capacity=rounds * options.steps),
        schedule=ScheduleConfig(
            rounds=rounds, steps_per_round=options.steps, updates_per_round=options.updates, rollout_length=32
        ),
        evaluation=StudentEvaluationConfig(episodes=2, num_lanes=2, max_episode_steps=50),
        checkpoint=DistillCheckpointConfig(every_updates=rounds * options.updates),
    )


@contextlib.contextmanager
def _parts(setting: Setting) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """A round's play into the replays, and a round's updates from them, each alone."""
    config, at = setting.config, Progression.begin(setting)
    learner = Learner(
        setting.student, make_loss(setting), config.learner, setting.devices, total_updates=setting.total_updates
    )
    state = learner.init(jax.random.key(config.seed))
    with Interrupts() as interrupts, Progress("") as progress:
        lessons = Lessons(setting, at.games, progress.add("steps", 1), interrupts)
        lessons.open()

        def play() -> None:
            lessons.play_round()
            jax.block_until_ready(lessons.stored)

        def updates() -> None:
            nonlocal state
            left = config.schedule.updates_per_round
            while left:
                count = min(left, config.learner.updates_per_call)
                state, _ = learner.update_from_replay(state, lessons.stored, count)
                left -= count
            jax.block_until_ready(state)

        try:
            yield play, updates
        finally:
            lessons.close()


def _time(part: Callable[[], Any], rounds: int) -> _Timed:
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        part()
    return _Timed((time.perf_counter() - started) / rounds, (time.process_time() - cpu_started) / rounds)


def _live(config: DistillConfig) -> _Timed:
    """A round of a run, without its first and its last."""
    started, cpu_started = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(None):
        distill(config, tells_memory=False)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    each = config.schedule.updates_per_round
    lines = read_metrics(Path(config.out) / "metrics.jsonl")
    ends = {line["step"]: line["wall_seconds"] for line in lines if "loss" in line}
    rounds = config.schedule.rounds - 2
    seconds = (ends[(rounds + 1) * each] - ends[each]) / rounds
    return _Timed(seconds, seconds * cpu / wall)


def _summarise(turns: list[dict[str, _Timed]]) -> dict[str, Any]:
    is_shared = jax.local_devices()[0].platform == "cpu"
    live = [name for name in turns[0] if name.startswith("live")]

    def bound(turn: dict[str, _Timed]) -> float:
        parts = turn["play alone"].seconds, turn["updates alone"].seconds
        return sum(parts) if is_shared else max(parts)

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}

    return {
        "bound": "play alone + updates alone" if is_shared else "the slower of play alone and updates alone",
        "load_average": os.getloadavg(),
        "seconds_per_round": {name: spread([turn[name].seconds for turn in turns]) for name in turns[0]},
        "cpu": {name: spread([turn[name].cpu_seconds / turn[name].seconds for turn in turns]) for name in turns[0]},
        "bound_over_live": {name: spread([bound(turn) / turn[name].seconds for turn in turns]) for name in live},
    }


if __name__ == "__main__":
    main()
