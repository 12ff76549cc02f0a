"""Measures every stage against its own limit and against what a user would pick instead, in one run.

    python -m benchmarks
    python -m benchmarks --stages update inference   # these anew, the others as the result file has them
    python -m benchmarks --resume                    # those that an interrupted run has left

Prints one table (ours, limit, rival, ratios, shares of what this machine was seen to do), and writes it with
machine, versions and git revision to benchmarks.json, and a plot to benchmarks.png. Competitors take turns, so that
a machine whose speed drifts favours nobody; each figure is the median over the turns. Stop it with Ctrl-C at any
time: stages that have ended are kept, and so are those of an earlier run until they are measured anew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.harness.floors import measure_ceilings
from benchmarks.harness.growth import find_growth
from benchmarks.harness.material import Material
from benchmarks.harness.peers import read_peers
from benchmarks.harness.plots import draw
from benchmarks.harness.record import RESULTS
from benchmarks.harness.sizes import Size, find_size
from benchmarks.harness.store import OtherMachineError, Store
from benchmarks.harness.tables import print_rows
from benchmarks.stages import ABOUT, STAGES
from benchmarks.stages.context import Context
from pd_jax.errors import UserError, nearest
from pd_jax.system.interrupts import Interrupted

ELSEWHERE = Path("runs") / "benchmarks"
_OUT_HELP = f"of the results (benchmarks/results, or {ELSEWHERE} where these are another machine's)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 if a stage failed, 2 for a user's error, 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except UserError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, STAGES))
    epilog = "stages:\n" + "\n".join(f"  {name:{width}}  {ABOUT[name]}" for name in STAGES)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--size",
        default="auto",
        metavar="SIZE",
        help="toy (a minute; shows that all of it runs), small (for two CPU cores), full (for an accelerator), "
        "or auto, the default: full with an accelerator, small without",
    )
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--turns", type=int, help="turns that competitors take; by default the size's")
    parser.add_argument("--out", type=Path, metavar="DIR", help=_OUT_HELP)
    parser.add_argument("--resume", action="store_true", help="only stages that were not measured before a run ended")
    return parser


def _run(options: argparse.Namespace) -> int:
    for name in options.stages or ():
        if name not in STAGES:
            raise UserError(f"--stages: {name!r} is not a stage{nearest(name, STAGES)} ({', '.join(STAGES)})")
    if options.turns is not None and options.turns < 1:
        raise UserError(f"--turns: must be at least 1, got {options.turns}")
    size = find_size(options.size)
    store = _open_store(options.out, size)
    chosen = [name for name in STAGES if options.stages is None or name in options.stages]
    pending = [name for name in chosen if not (options.resume and store.is_done(name))]
    if pending:
        _check_writable(store.path.parent)
        store.begin(pending)
    code = 0
    try:
        if pending:
            code = _measure(pending, store, _context(size, options))
    except (KeyboardInterrupt, Interrupted):
        # A live run has handlers of its own.
        print("stopped; --resume goes on with the stages that are left", file=sys.stderr)
        code = 130
    if store.rows:
        _report(store)
    return code


def _open_store(out: Path | None, size: Size) -> Store:
    """The result file in a directory; by default among the repository's results, unless these are another machine's."""
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is not a directory")
    name = "benchmarks.json" if size.name != "toy" else "benchmarks_toy.json"
    if out is not None:
        return Store(out / name, size)
    try:
        return Store(RESULTS / name, size)
    except OtherMachineError:
        print(f"{RESULTS} has another machine's results; those of this one go to {ELSEWHERE}", file=sys.stderr)
        return Store(ELSEWHERE / name, size)


def _check_writable(directory: Path) -> None:
    """Finds out before anything is measured."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(f"--out: nothing can be written to {directory}: {error.strerror}") from error


def _context(size: Size, options: argparse.Namespace) -> Context:
    return Context(
        size=size,
        turns=options.turns or size.turns,
        ceilings=measure_ceilings(size.matrix_size, size.array_bytes),
        material=Material(size.play_steps, size.capacity),
    )


def _measure(stages: Sequence[str], store: Store, context: Context) -> int:
    """Runs the stages one after another; one that fails does not keep the others from theirs."""
    console, code = Console(stderr=True), 0
    for number, name in enumerate(stages, 1):
        console.print(f"{number}/{len(stages)} {name}: {ABOUT[name]}")
        started = time.monotonic()
        try:
            rows = STAGES[name](context)
        except Exception as error:
            traceback.print_exc()
            store.add_failure(name, f"{type(error).__name__}: {error}")
            code = 1
            continue
        seconds = time.monotonic() - started
        store.add(name, rows, seconds=seconds, turns=context.turns, ceilings=context.ceilings)
        console.print(f"    {len(rows)} rows in {seconds:.0f} s")
    return code


def _report(store: Store) -> None:
    peers = read_peers(store.path.parent, store.machine)
    rows = store.rows + peers.rows
    growth = find_growth(rows)
    figure = store.path.with_suffix(".png")
    draw(rows, growth, figure)
    print_rows(rows, growth, [*_notes(store), peers.note])
    print(f"{store.path}, {figure}")


def _notes(store: Store) -> list[str]:
    machine = store.machine
    rate = f"{machine['rates']['flops'] / 1e9:.0f} GFLOP/s, {machine['rates']['bytes'] / 1e9:.0f} GB/s"
    notes = [f"{machine['processor']}, {machine['cores']} cores ({rate}), {', '.join(machine['devices'])}"]
    revisions = {stage["revision"] for stage in store.stages.values() if "revision" in stage}
    notes.append(f"revision {', '.join(sorted(map(str, revisions)))}")
    older = [name for name in store.left if store.has(name)]
    failed = [name for name, stage in store.stages.items() if "error" in stage]
    missing = [name for name in STAGES if name not in store.stages]
    if failed:
        notes.append(f"failed: {', '.join(failed)}")
    if missing:
        notes.append(f"not measured: {', '.join(missing)}")
    if older:
        notes.append(f"of an earlier run: {', '.join(older)}")
    return notes


if __name__ == "__main__":
    raise SystemExit(main())
