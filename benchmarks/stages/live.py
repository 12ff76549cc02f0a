"""The live loop end to end, against its play alone and its updates alone."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import rows
from benchmarks.harness.material import ROLLOUT_LENGTH
from benchmarks.harness.measure import rates
from benchmarks.harness.rows import Measured, Row, make_row
from benchmarks.stages.context import Context
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import (
    ActorsConfig,
    DistillCheckpointConfig,
    EnvConfig,
    LearnerConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
)
from pd_jax.distill.counters import DistillCounters
from pd_jax.distill.experience import Experience
from pd_jax.distill.session import distill
from pd_jax.distill.setup import DistillSetup, make_setup
from pd_jax.learner.learner import Learner
from pd_jax.learner.objective import make_loss
from pd_jax.runs.metrics import read_metrics
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress

_LANES = 16
_ROUNDS = 2


@dataclasses.dataclass(frozen=True)
class Timed:
    """Seconds of a round, and of processor time in it."""

    seconds: float
    cpu_seconds: float


def run(context: Context) -> list[Row]:
    """Control steps and updates a second of a run with its default settings, and what its parts allow."""
    teacher, network, steps, updates = context.size.live
    turns: list[dict[str, Timed]] = []
    with tempfile.TemporaryDirectory() as directory:

        def config(name: str) -> DistillConfig:
            return live_config(teacher, network, Path(directory) / name, steps=steps, updates=updates)

        with parts(make_setup(config("alone"))) as (play, update):
            play()
            update()
            for turn in range(min(context.turns, context.size.live_turns)):
                timed = {"play": time_rounds(play, _ROUNDS), "updates": time_rounds(update, _ROUNDS)}
                turns.append(timed | {"live": live_round(config(str(turn)))})
    bounds = [round_bound(turn["play"].seconds, turn["updates"].seconds) for turn in turns]
    live = [turn["live"].seconds for turn in turns]
    setting: rows.Setting = {
        "teacher": teacher,
        "network": network,
        "lanes": _LANES,
        "updates per step": round(updates / steps, 3),
    }
    return [
        make_row(
            "live",
            setting,
            f"{what}/s",
            rates(count, live),
            limit=Measured(bound_name(), tuple(rates(count, bounds))),
        )
        for what, count in (("steps", steps), ("updates", updates))
    ]


def live_config(
    teacher: str,
    network: Any,
    out: Path,
    *,
    steps: int,
    updates: int,
    rounds: int = _ROUNDS,
    lanes: int = _LANES,
    stepping: Any = "jit",
    overlap: bool | None = None,
) -> DistillConfig:
    """A run without checkpoints on the way, with a round before and one after those that are timed.

    Args:
      teacher, network, lanes, stepping: of the run.
      out: its directory.
      steps, updates: of a round.
      rounds: that are timed.
      overlap: whether play and updates overlap; None leaves it to the run.
    """
    rounds += 2
    return DistillConfig(
        teacher=teacher,
        out=str(out),
        env=EnvConfig(num_lanes=lanes, stepping=stepping),
        actors=ActorsConfig(overlap=overlap),
        student=StudentConfig(network=network),
        learner=LearnerConfig(optimizer="adam"),
        replay=ReplayConfig(capacity=rounds * steps),
        schedule=ScheduleConfig(
            rounds=rounds, steps_per_round=steps, updates_per_round=updates, rollout_length=ROLLOUT_LENGTH
        ),
        evaluation=StudentEvaluationConfig(episodes=2, num_lanes=2, max_episode_steps=50),
        checkpoint=DistillCheckpointConfig(every_updates=rounds * updates),
    )


@contextlib.contextmanager
def parts(setup: DistillSetup) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """A round's play into the replays, and a round's updates from them, each alone."""
    config, counters = setup.config, DistillCounters.begin(setup)
    loss = make_loss(config.loss, setup.student, setup.gives_logits)
    learner = Learner(setup.student, loss, config.learner, setup.devices, total_updates=setup.total_updates)
    state = learner.init(jax.random.key(config.seed))
    with Interrupts() as interrupts, Progress("") as progress:
        experience = Experience(setup, counters.games, progress.add("steps", 1), interrupts)
        experience.open()

        def play() -> None:
            experience.play_round()
            jax.block_until_ready(experience.replay.stored)

        def updates() -> None:
            nonlocal state
            left = config.schedule.updates_per_round
            while left:
                count = min(left, config.learner.updates_per_call)
                state, _ = learner.update_from_replay(state, experience.replay.stored, count)
                left -= count
            jax.block_until_ready(state)

        try:
            yield play, updates
        finally:
            experience.close()


def time_rounds(part: Callable[[], Any], rounds: int) -> Timed:
    """A round of one of the parts, a mean over some."""
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        part()
    return Timed((time.perf_counter() - started) / rounds, (time.process_time() - cpu_started) / rounds)


def live_round(config: DistillConfig) -> Timed:
    """A round of a whole run by its own metrics, but for the first (it compiles) and the last (it plays nothing)."""
    started, cpu_started = time.perf_counter(), time.process_time()
    distill(config, tells_memory=False)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    each = config.schedule.updates_per_round
    lines = read_metrics(Path(config.out) / "metrics.jsonl")
    ends = {line["step"]: line["wall_seconds"] for line in lines if "loss" in line}
    rounds = config.schedule.rounds - 2
    seconds = (ends[(rounds + 1) * each] - ends[each]) / rounds
    return Timed(seconds, seconds * cpu / wall)


def round_bound(play_seconds: float, update_seconds: float) -> float:
    """The least that a round can take: on shared cores both, one after the other; else the slower of them."""
    return play_seconds + update_seconds if _is_shared() else max(play_seconds, update_seconds)


def bound_name() -> str:
    """What the bound is."""
    return "play alone + updates alone" if _is_shared() else "the slower of play alone and updates alone"


def _is_shared() -> bool:
    return jax.local_devices()[0].platform == "cpu"
