"""Environment steps and student updates a second of the peers' own loops and of ours, side by side.

    python -m benchmarks.rivals.peers --sb3-distill CHECKOUT --cleanrl CHECKOUT --python INTERPRETER

The peers are the teacher-distill of sb3-distill (github.com/spiglerg/sb3_distill) and CleanRL's QDagger
(github.com/vwxyzjn/cleanrl), the scripts for PyTorch and for JAX. Their loops run as their authors wrote them, from a
checkout and under an interpreter that has what they need; what was set or replaced to give them this job is in the
result. The job is the same for all: Pong, the DQN as teacher, net2 as student, minibatches of the same size, all cores.

Every loop has its own number of environment steps for each update, and a loop that updates more often steps less. So
ours runs once with the main job's ratio (that of ``--config``) and once with each peer's. All loops take turns, each
alone and in a process of its own, so that a machine whose speed drifts does not favour one; ratios are of figures of
the same turn. Starting, compiling and filling replays come before the time that counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from benchmarks.rivals.running import (
    ROOT,
    OurSchedule,
    Peer,
    PeerReport,
    Phase,
    find_python,
    revision,
    run_ours,
    run_peer,
)
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.errors import UserError

_MAIN_JOB = "ours, as in the main job"
_SMALLEST_ROUND = 2_048
_BAR = 5
_QDAGGER = {
    "torch": ("QDagger (PyTorch)", "qdagger_dqn_atari_impalacnn.py"),
    "jax": ("QDagger (JAX)", "qdagger_dqn_atari_jax_impalacnn.py"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables and writes ``benchmarks/results/peers.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3-distill", type=Path, metavar="CHECKOUT", help="left out: without this peer")
    parser.add_argument("--cleanrl", type=Path, metavar="CHECKOUT", help="left out: without this peer")
    parser.add_argument("--qdagger", nargs="+", choices=list(_QDAGGER), default=list(_QDAGGER))
    parser.add_argument("--python", default=sys.executable, help="interpreter with what the peers need")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "pong.yaml", help="of ours")
    parser.add_argument("--seconds", type=float, default=20.0, help="that count, of every loop and turn")
    parser.add_argument("--warm-up-seconds", type=float, default=5.0, help="of the peers' loops")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--name", default="peers", help="of the result file")
    options = parser.parse_args(argv)
    try:
        peers = chosen_peers(options.sb3_distill, options.cleanrl, options.qdagger)
        python = find_python(options.python)
        if min(options.seconds, options.turns) <= 0 or options.warm_up_seconds < 0:
            raise UserError("--seconds and --turns must be more than 0, and --warm-up-seconds no less than 0")
        config = _read_same_job(options.config)
        turns, reports = _take_turns(options, peers, python, config)
    except UserError as error:
        parser.error(str(error))
    results = {
        "settings": {
            "game": "pong",
            "teacher": "dqn; ours with layer normalisation",
            "student": "net2",
            "batch_size": config.learner.batch_size,
            **{name: getattr(options, name) for name in ("seconds", "warm_up_seconds", "turns")},
            "our options": _our_settings(config),
        },
        "peers": {peer.name: {"revision": revision(peer.checkout), **reports[peer.name].about} for peer in peers},
        **summarise(turns, {name: report.steps_per_update for name, report in reports.items()}),
        "load_average": os.getloadavg(),
    }
    _print(results)
    print(record.write(options.name, results))


def _read_same_job(path: Path) -> DistillConfig:
    config = read_config(DistillConfig, path)
    job = config.teacher, config.game or ("pong",), config.student.network, config.data
    if job != (("pong",), ("pong",), "net2", None):
        raise UserError(f"{path}: the peers distil the teacher pong into net2 from live play; so must ours")
    return config


def chosen_peers(sb3_distill: Path | None, cleanrl: Path | None, qdagger: Sequence[str]) -> list[Peer]:
    """The peers whose checkouts are given, with these scripts of QDagger.

    Raises:
      UserError: there is none, or one is not where it is said to be.
    """
    peers = []
    if sb3_distill is not None:
        module, needs = "benchmarks.rivals.sb3_distill_loop", "sb3_distill/teacher_distill.py"
        peers.append(Peer("sb3-distill", "sb3-distill", module, sb3_distill, needs))
    if cleanrl is not None:
        for backend in dict.fromkeys(qdagger):
            name, script = _QDAGGER[backend]
            module, options = "benchmarks.rivals.qdagger_loop", ("--backend", backend)
            peers.append(Peer(name, "CleanRL", module, cleanrl, f"cleanrl/{script}", options))
    if not peers:
        raise UserError("there is nobody to compare with: give --sb3-distill CHECKOUT, --cleanrl CHECKOUT or both")
    for peer in peers:
        peer.check()
    return peers


def ours_at(steps_per_update: Fraction | int) -> str:
    """The name of our loop with a peer's ratio."""
    return f"ours, {steps_per_update} to 1"


def _take_turns(
    options: argparse.Namespace, peers: list[Peer], python: str, config: DistillConfig
) -> tuple[list[dict[str, Mapping[str, Phase]]], dict[str, PeerReport]]:
    """What every loop did in every turn, phase by phase, and the last report of every peer."""
    schedule = config.schedule
    main_job = Fraction(schedule.steps_per_round, schedule.updates_per_round)
    turns, reports = [], {}
    for _ in range(options.turns):
        turn: dict[str, Mapping[str, Phase]] = {}
        for peer in peers:
            report = reports[peer.name] = run_peer(
                peer,
                python,
                warm_up_seconds=options.warm_up_seconds,
                seconds=options.seconds,
                batch_size=config.learner.batch_size,
            )
            turn[peer.name] = report.phases
            _tell(peer.name, report.phases["live"])
        ratios = {_MAIN_JOB: main_job}
        ratios |= {ours_at(report.steps_per_update): Fraction(report.steps_per_update) for report in reports.values()}
        for name, ratio in ratios.items():
            a_round = OurSchedule.of_ratio(ratio, config.steps_per_rollout(), _SMALLEST_ROUND)
            turn[name] = {"live": run_ours(options.config.resolve(), a_round, seconds=options.seconds)}
            _tell(name, turn[name]["live"])
        turns.append(turn)
    return turns, reports


def summarise(turns: list[dict[str, Mapping[str, Phase]]], steps_per_update: Mapping[str, int]) -> dict[str, Any]:
    """Medians and spreads over the turns.

    Args:
      turns: what every loop did in its phases; each has a phase ``live``.
      steps_per_update: of each peer.

    Returns:
      ``loops``: rates by loop and phase. ``ours_over_peer``: by peer and by our loop, that of the main job and that of
      the peer's ratio, the ratios of the rates of the same turn. ``our_parts``: milliseconds of a step and of an
      update, fitted to our loops, and those of an update that would make ours the bar's times as fast as the peer.
    """
    loops = {loop: [turn[loop]["live"] for turn in turns] for loop in turns[0]}
    ours = [phase for ratio in (_MAIN_JOB, *map(ours_at, steps_per_update.values())) for phase in loops[ratio]]
    step_seconds, update_seconds = seconds_of_parts(ours)

    def update_ms_for_the_bar(peer: str) -> float:
        rate = statistics.median(phase.updates_per_second for phase in loops[peer])
        return 1e3 * (1 / (_BAR * rate) - steps_per_update[peer] * step_seconds)

    def rates(loop: str, phase: str) -> dict[str, Any]:
        measured = [turn[loop][phase] for turn in turns]
        return {
            "steps_per_second": _spread([each.steps_per_second for each in measured]),
            "updates_per_second": _spread([each.updates_per_second for each in measured]),
            "steps_per_update": _steps_per_update(measured),
        }

    def ratio(ours: str, peer: str) -> dict[str, Any]:
        pairs = list(zip(loops[ours], loops[peer], strict=True))
        return {
            "steps_per_second": _spread([our.steps_per_second / its.steps_per_second for our, its in pairs]),
            "updates_per_second": _spread([our.updates_per_second / its.updates_per_second for our, its in pairs]),
        }

    return {
        "loops": {loop: {phase: rates(loop, phase) for phase in phases} for loop, phases in turns[0].items()},
        "ours_over_peer": {
            peer: {ours: ratio(ours, peer) for ours in (_MAIN_JOB, ours_at(each))}
            for peer, each in steps_per_update.items()
        },
        "our_parts": {
            "step_ms": 1e3 * step_seconds,
            "update_ms": 1e3 * update_seconds,
            "update_ms_for_the_bar": {peer: update_ms_for_the_bar(peer) for peer in steps_per_update},
        },
    }


def seconds_of_parts(phases: Sequence[Phase]) -> tuple[float, float]:
    """Seconds of a step and of an update, where a loop takes the sum of both: the best fit to loops of several ratios.

    Every loop counts the same, however long it ran.
    """
    rows = np.array([(phase.steps, phase.updates) for phase in phases]) / [[phase.seconds] for phase in phases]
    (step_seconds, update_seconds), *_ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)
    return float(step_seconds), float(update_seconds)


def _steps_per_update(measured: list[Phase]) -> float | None:
    steps, updates = sum(each.steps for each in measured), sum(each.updates for each in measured)
    return steps / updates if updates else None


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _our_settings(config: DistillConfig) -> dict[str, Any]:
    return {
        "lanes": config.env.num_lanes,
        "stepping": config.env.stepping,
        "optimizer": config.learner.optimizer,
        "overlap": config.actors.overlap,
        "left out": "evaluations on the way, checkpoints, the first round",
    }


def _tell(name: str, phase: Phase) -> None:
    print(f"{name}: {phase.steps_per_second:,.0f} steps/s, {phase.updates_per_second:,.1f} updates/s", flush=True)


def _print(results: dict[str, Any]) -> None:
    rates = Table("", "steps : updates", "environment steps/s", "updates/s")
    for loop, phases in results["loops"].items():
        for phase, each in phases.items():
            name = loop if phase == "live" else f"  its {phase}"
            per_update = f"{each['steps_per_update']:.3g} : 1" if each["steps_per_update"] else ""
            steps, updates = _words(each["steps_per_second"], ",.0f"), _words(each["updates_per_second"], ",.1f")
            rates.add_row(name, per_update, steps, updates)
    ratios = Table("ours / peer", "", "environment steps/s", "updates/s")
    for peer, by_ours in results["ours_over_peer"].items():
        for ours, each in by_ours.items():
            ratios.add_row(
                peer, ours, *(_words(each[rate], ".2f") for rate in ("steps_per_second", "updates_per_second"))
            )
    console = Console()
    console.print(rates)
    console.print(ratios)
    parts = results["our_parts"]
    text = f"ours takes {parts['step_ms']:.2f} ms a step and {parts['update_ms']:.2f} ms an update, which bound it;"
    for peer, update_ms in parts["update_ms_for_the_bar"].items():
        beyond = "cannot be had" if update_ms <= 0 else f"asks for {update_ms:.2f} ms an update"
        text += f" {_BAR} x {peer} at its own ratio {beyond};"
    console.print(text[:-1])


def _words(spread: Mapping[str, float], form: str) -> str:
    if not spread["highest"]:
        return ""
    return f"{spread['median']:{form}} ({spread['lowest']:{form}}–{spread['highest']:{form}})"


if __name__ == "__main__":
    main()
