"""A champion is replaced by a process that is killed before and after each of its steps; nothing else is computed here.

``python -m support.killed_renewals CHAMPION OUT STEPS`` prints a line for each: the step, how the process ended, which
export was there then, and which one after it was gone on with.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pd_jax.deploy import renewal
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.runs.lineage import file_sha256

COUNTED = [
    (renewal.shutil, "copyfile"),
    (renewal.shutil, "rmtree"),
    (renewal.os, "rename"),
    (renewal, "write_lineage"),
    (renewal, "exchange"),
]


def kill_at(step: int, *, exchanges: bool) -> None:
    """This process ends at once before (even) or after (odd) the call ``step // 2`` of what changes files."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            number, calls = calls, calls + 1
            if 2 * number == step:
                os._exit(9)
            try:
                return function(*args, **kwargs)
            finally:
                if 2 * number + 1 == step:
                    os._exit(9)

        return call

    if not exchanges:
        renewal.exchange = lambda one, other: False  # type: ignore[assignment]
    for module, name in COUNTED:
        setattr(module, name, counted(getattr(module, name)))


def state_of(export: Path, champion: str, challenger: str) -> str:
    """Which of the two is there, whole."""
    if not export.exists():
        return "missing"
    if verify_lineage(export).faults:
        return "damaged"
    return {champion: "champion", challenger: "challenger"}[file_sha256(export / "export.json")]


def main(source: Path, out: Path, scratch: Path) -> None:
    decided = json.loads((out / "renewal.json").read_text())
    champion, challenger = (decided[who]["export_sha256"] for who in ("champion", "challenger"))
    for exchanges in (True, False):
        for step in range(10_000):
            place = scratch / f"{exchanges}-{step}"
            export = Path(shutil.copytree(source, place / "pong"))
            child = os.fork()
            if child == 0:
                kill_at(step, exchanges=exchanges)
                renewal._replace(decided, export, out)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            killed = state_of(export, champion, challenger)
            before = renewal._replace(decided, export, out)
            after = state_of(export, champion, challenger)
            kept = state_of(place / before, champion, challenger)
            left = sorted(path.name for path in place.iterdir())
            print(json.dumps([exchanges, step, code, killed, after, kept, left == sorted(["pong", before])]))
            shutil.rmtree(place)
            if code == 0:
                break


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
