"""Counts what programs and calls consist of, and fails where a count has grown: times are noise on a busy machine.

    python -m benchmarks.guards                      # held against benchmarks/results/guards.json
    python -m benchmarks.guards --write              # what is counted is accepted, for the versions at hand
    python -m benchmarks.guards --programs insertion

Counts depend on the compiler. Where the file has none of the versions at hand, it is said so, and only that is checked
which holds with all of them. Ends with 1 if something has grown.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.guards import accepted
from pd_jax.errors import UserError, nearest

# XLA deals what is large enough out over the cores.
_CORES = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 if a count has grown, 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="accept what is counted")
    parser.add_argument("--programs", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--file", type=Path, default=accepted.FILE, help="of the accepted counts")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as cache:
        _settle(cache)
        try:
            return _run(options)
        except UserError as error:
            print(f"python -m benchmarks.guards: {error}", file=sys.stderr)
            return 2


def _settle(cache: str) -> None:
    """Has everyone who counts compile alike: without a GPU, for the same processor, from an empty compilation cache.

    Where JAX is there already, as in a test that calls this, it stays as it is.
    """
    if "jax" in sys.modules:
        return
    os.environ["XLA_FLAGS"] = _flags()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])


def _flags() -> str:
    """XLA's, to compile fast rather than well, as the tests do: it changes few of the counts."""
    flags = ["--xla_backend_optimization_level=0"]
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    if platform.machine() == "x86_64":
        flags.append("--xla_cpu_max_isa=AVX2")
    return " ".join(flags)


def _run(options: argparse.Namespace) -> int:
    from benchmarks.guards.programs import GUARDED

    for name in options.programs or ():
        if name not in GUARDED:
            raise UserError(f"--programs: {name!r} is not guarded{nearest(name, GUARDED)} ({', '.join(GUARDED)})")
    known = accepted.read_accepted(options.file)
    counted = {}
    for name in options.programs or GUARDED:
        counted[name] = GUARDED[name]()
        print(f"{name}: " + ", ".join(f"{what} {number:,}" for what, number in counted[name].items()))
    grown = accepted.exceeded(counted, accepted.BOUNDS)
    if options.write and not grown:
        accepted.write_accepted(counted, options.file)
        print(f"accepted in {options.file}, for {accepted.stack()}")
        return 0
    here = known.get(accepted.stack())
    if here is None:
        print(f"{options.file} has no counts of {accepted.stack()}: only what holds with all versions is checked")
    else:
        grown += accepted.exceeded(counted, here)
        for line in accepted.fewer(counted, here):
            print(f"fewer than accepted, which --write takes in: {line}")
    for line in grown:
        print(f"GROWN: {line}", file=sys.stderr)
    if grown and options.file == accepted.FILE:
        print("if it is worth it, python -m benchmarks.guards --write accepts it", file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
