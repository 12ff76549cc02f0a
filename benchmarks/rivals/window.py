"""What a loop of somebody else's got done between its warm-up and the end of its time.

Runs under the peer's interpreter: it must not import anything but the standard library, nor what a Python before 3.11
lacks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Count = tuple[float, int, int]


class Window:
    """Begins at the first note after the warm-up and ends at the first one after its seconds.

    Between two notes whole cycles of the loop must lie, so that a count is not off by what only just began.
    """

    def __init__(
        self,
        warm_up_seconds: float,
        seconds: float,
        settle: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Starts the warm-up.

        Args:
          warm_up_seconds: before anything counts; compilation falls into it.
          seconds: that count, at least.
          settle: waits for what was dispatched and is not done.
          clock: seconds, ever rising.
        """
        self._seconds, self._settle, self._clock = seconds, settle, clock
        self._opens = clock() + warm_up_seconds
        self._first: Count | None = None
        self._last: Count | None = None

    def note(self, steps: int, updates: int) -> bool:
        """Takes down how many steps and updates are done since the loop began; returns whether it shall go on."""
        now = self._clock()
        if self._first is None:
            if now >= self._opens:
                self._first = self._now(steps, updates)
            return True
        if self._last is None and now >= self._first[0] + self._seconds:
            self._last = self._now(steps, updates)
        return self._last is None

    def _now(self, steps: int, updates: int) -> Count:
        if self._settle is not None:
            self._settle()
        return self._clock(), steps, updates

    def counts(self) -> dict[str, float]:
        """``seconds``, ``steps`` and ``updates`` inside the window."""
        if self._first is None or self._last is None:
            raise RuntimeError("the loop ended before its time was over")
        seconds, steps, updates = (last - first for first, last in zip(self._first, self._last))  # noqa: B905
        return {"seconds": seconds, "steps": steps, "updates": updates}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that the loops of all peers take."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--checkout", type=Path, required=True, help="the peer's repository")
    options.add_argument("--report", type=Path, required=True, help="file for the counts, in JSON")
    options.add_argument("--warm-up-seconds", type=float, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--batch-size", type=int, required=True)
    return options


def write_report(
    path: Path,
    phases: dict[str, Window],
    *,
    steps_per_update: int,
    versions: dict[str, str],
    settings: dict[str, Any],
    replaced: list[str],
) -> None:
    """Writes what :func:`benchmarks.rivals.running.run_peer` reads.

    Args:
      path: a file that does not exist.
      phases: of the loop, by name; ``live`` is the one in which it steps and updates.
      steps_per_update: what the peer's settings ask for in its live phase.
      versions: of what the peer builds on.
      settings: that bear on the speed.
      replaced: in the peer, to have it do this job here; sentences.
    """
    report = {
        "phases": {name: window.counts() for name, window in phases.items()},
        "steps_per_update": steps_per_update,
        "versions": versions,
        "settings": settings,
        "replaced": replaced,
    }
    path.write_text(json.dumps(report))
