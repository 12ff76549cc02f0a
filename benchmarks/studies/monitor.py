"""How often a monitor cries wolf, and how soon it tells a change.

    python -m benchmarks.studies.monitor --runs runs/pong --teachers ms_pacman

A policy plays some healthy games, which thresholds are made from. Then it plays others, on fresh seeds, and games in
which something is changed. All of them are shown to the monitor as one assistant after another has them: a stream of
fresh play is of all lanes one after another, one of changed play of two.

With ``--cache DIR`` play is kept there, and not played again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import pd_jax
from benchmarks.harness import record
from pd_jax.config.monitor import DisturbanceConfig
from pd_jax.deploy.calibration import page_hinkley
from pd_jax.deploy.decisions import Watched, own_decisions, watched_policy
from pd_jax.deploy.signals import Decisions
from pd_jax.deploy.thresholds import Thresholds, fit_thresholds, measured_blocks
from pd_jax.environments.tasks import Task
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.system.computing import computing

EPSILON = 0.05
BLOCK = 256
_FIELDS = ("outputs", "features", "actions", "is_first", "is_decided", "sights")


class Play(NamedTuple):
    """What is played: ``steps`` of ``lanes``, from ``seed``, and what is changed in it."""

    steps: int
    lanes: int
    seed: int
    options: Mapping[str, Any] = {}
    disturbance: DisturbanceConfig = DisturbanceConfig()


CALIBRATION = (Play(5000, 16, 101), Play(3000, 16, 301))
FRESH = Play(12_500, 16, 501)
# In streams of up to 10,000 decisions: what is not told by then is not told.
CHANGES = {
    "sticky actions 0.25": Play(5000, 8, 401, {"sticky_action_probability": 0.25}),
    "another mode (1)": Play(1500, 8, 402, {"mode": 1}),
    "another difficulty (1)": Play(1500, 8, 405, {"difficulty": 1}),
    "noise on frames (8 of 255)": Play(1500, 8, 403, disturbance=DisturbanceConfig(noise=8.0)),
    "a hidden square (12 of 84)": Play(1500, 8, 404, disturbance=DisturbanceConfig(occlusion=12)),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes ``benchmarks/results/monitor.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], help="directories of runs whose students are watched")
    parser.add_argument("--teachers", nargs="*", default=[], help="bundled teachers that are watched")
    parser.add_argument("--cache", type=Path, help="directory to keep the play in")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, for a trial")
    options = parser.parse_args(argv)
    policies: list[GreedyPolicy] = [pd_jax.load_student(run) for run in options.runs]
    policies += [pd_jax.load_teacher(name) for name in options.teachers]
    rows = []
    with computing():
        for policy in policies:
            rows.append(_measure(policy, options))
            print(record.write("monitor" if options.share == 1.0 else "monitor_trial", rows))
    Console().print(_table(rows))


def _measure(policy: GreedyPolicy, options: argparse.Namespace) -> dict[str, Any]:
    task, watched = policy.task, watched_policy(policy)
    started = time.monotonic()
    healthy = [_played(watched, task, play, options) for play in CALIBRATION]
    thresholds = fit_thresholds(
        *healthy,
        action_names=watched.action_names,
        temperature=watched.temperature,
        policy={"name": watched.name, "game": watched.game, "parameters": watched.parameters},
        about={},
        block_size=BLOCK,
    )
    names = np.array(thresholds.model.names)
    fresh, own = _deviations(thresholds, _played(watched, task, FRESH, options))
    # One assistant after another: one long stream, begun anew after each alarm.
    alarms = _alarms(thresholds, np.concatenate(fresh), again=True)
    row: dict[str, Any] = {
        "policy": watched.name,
        "game": task.name,
        "block": BLOCK,
        "stated_false_alarms_per_million": thresholds.false_alarms_per_million,
        "calibrated_on": thresholds.about["calibrated_on"],
        "signals": int(np.isfinite(thresholds.limits.above).sum()),
        "fresh": {
            "decisions": own,
            "false_alarms": len(alarms),
            "signals": [str(names[signal]) for _, signal in alarms],
        },
        "changes": {},
    }
    for name, play in CHANGES.items():
        try:
            changed, decisions = _deviations(thresholds, _played(watched, task, play, options))
        except pd_jax.UserError:
            # The game has no such mode or difficulty.
            continue
        streams = [np.concatenate(changed[at : at + 2]) for at in range(0, len(changed) - 1, 2)]
        found = [_alarms(thresholds, stream) for stream in streams]
        row["changes"][name] = {
            "decisions": decisions,
            "stream": [len(stream) * BLOCK for stream in streams],
            "delay": [(each[0][0] + 1) * BLOCK if each else None for each in found],
            "signal": [str(names[each[0][1]]) if each else None for each in found],
        }
        print(task.name, name, row["changes"][name], flush=True)
    row["minutes"] = round((time.monotonic() - started) / 60, 1)
    return row


def _played(watched: Watched, task: Task, play: Play, options: argparse.Namespace) -> Decisions:
    """Stretches ``[T, N, ...]``."""
    steps = max(600, round(play.steps * options.share))
    changes = "".join(f"_{name[:6]}{value:g}" for name, value in play.options.items())
    changes += "".join(f"_{name}{value:g}" for name, value in dataclasses.asdict(play.disturbance).items() if value)
    path = options.cache and options.cache / (
        f"{task.name}_{watched.parameters[:8]}_{steps}x{play.lanes}_{play.seed}{changes}.npz"
    )
    if path and path.exists():
        with np.load(path) as found:
            arrays = {name: found[name] for name in _FIELDS}
            arrays["actions"] = arrays["actions"].astype(np.int64)
        return Decisions(**arrays)
    source = own_decisions(
        watched,
        task,
        num_lanes=play.lanes,
        epsilon=EPSILON,
        seed=play.seed,
        options=dict(play.options),
        disturbance=play.disturbance,
    )
    shown = [decisions for _, decisions in zip(range(steps), source, strict=False)]
    stretch = Decisions(*(None if each[0] is None else np.stack(each) for each in zip(*shown, strict=True)))  # type: ignore[arg-type]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, **{name: getattr(stretch, name) for name in _FIELDS})
        os.replace(unfinished, path)
    return stretch


def _deviations(thresholds: Thresholds, play: Decisions) -> tuple[list[np.ndarray], int]:
    """Blocks ``[n, S]`` of each lane in deviations, and the number of decisions."""
    blocks, _ = measured_blocks(thresholds.model, play, thresholds.block_size)
    usual = thresholds.limits.usual
    lanes = sorted({block.lane for block in blocks})
    found = [
        np.stack(
            [usual.standardise(each.values, each.weights, thresholds.clip) for each in blocks if each.lane == lane]
        )
        for lane in lanes
    ]
    return found, int(play.is_decided.sum())


def _alarms(thresholds: Thresholds, stream: np.ndarray, again: bool = False) -> list[tuple[int, int]]:
    """Block and signal of the first alarm; or of each, where all tests begin anew after one.

    It is what `pd_jax.deploy.monitor.Monitor` does, for a whole stream at once.
    """
    limits, found, start = thresholds.limits, [], 0
    while start < len(stream):
        above, below = page_hinkley(np.nan_to_num(stream[start:]).T, limits.blocks, thresholds.slack)
        hit = (above > limits.above[:, None]) | (below > limits.below[:, None])
        if not hit.any():
            break
        block = int(np.argmax(hit.any(axis=0)))
        found.append((start + block, int(np.argmax(hit[:, block]))))
        start += block + 1
        if not again:
            break
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("policy", "shown", "decisions", "alarms", "delay: median (worst)", "first signals")
    for row in rows:
        fresh = row["fresh"]
        table.add_row(
            row["policy"],
            "fresh seeds",
            f"{fresh['decisions']:,}",
            str(fresh["false_alarms"]),
            "",
            ", ".join(fresh["signals"]),
        )
        for name, found in row["changes"].items():
            delays = [each for each in found["delay"] if each]
            told = f"{len(delays)} of {len(found['delay'])}"
            delay = f"{np.median(delays):,.0f} ({max(delays):,})" if delays else ""
            signals = ", ".join(sorted({each for each in found["signal"] if each}))
            table.add_row("", name, f"{found['decisions']:,}", told, delay, signals)
    return table


if __name__ == "__main__":
    main()
