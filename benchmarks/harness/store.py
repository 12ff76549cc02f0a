"""The result file of ``python -m benchmarks``: stage by stage, each with when and at which revision it was measured."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.floors import Ceilings
from benchmarks.harness.growth import find_growth
from benchmarks.harness.rows import Row
from benchmarks.harness.sizes import Size
from benchmarks.stages import STAGES
from pd_jax.errors import UserError
from pd_jax.system.files import write_atomically

FORMAT_VERSION = 1


class OtherMachineError(UserError):
    """Results of this machine are not to be mixed with those that are there."""


class Store:
    """What was measured so far; every stage is written as soon as it ends, in the place of what there was of it.

    Args:
      path: of the file; what it holds is kept until it is replaced.
      size: of this run.

    Attributes:
      stages: by name: ``rows``, ``measured_at``, ``revision``, ``versions``, ``seconds``, ``turns``, ``ceilings``,
        ``load_average``; or, of one that failed, ``error`` instead of the rows.
      left: stages that a run was to measure and has not, in their order.

    Raises:
      UserError: the file cannot be read, is not a result file, or is of another size; an :class:`OtherMachineError`
        if it is of another machine.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self.path = path
        self.machine = record.machine()
        self.stages: dict[str, dict[str, Any]] = {}
        self.left: list[str] = []
        self._size = size.name
        if path.exists():
            self.stages, self.left = self._read()

    @property
    def rows(self) -> list[Row]:
        """Of all stages, in their order."""
        return [
            Row.from_json(row) for name in STAGES if name in self.stages for row in self.stages[name].get("rows", [])
        ]

    def has(self, stage: str) -> bool:
        """Whether there are results of a stage."""
        return "rows" in self.stages.get(stage, {})

    def is_done(self, stage: str) -> bool:
        """Whether a stage was measured to its end by the run that is gone on with."""
        return self.has(stage) and stage not in self.left

    def begin(self, stages: Iterable[str]) -> None:
        """Notes what a run is about to measure; it is written with the first stage that ends."""
        self.left = [name for name in STAGES if name in {*self.left, *stages}]

    def add(self, stage: str, rows: list[Row], *, seconds: float, turns: int, ceilings: Ceilings) -> None:
        """Takes a stage in, in the place of what there was of it, and writes the file."""
        self.stages[stage] = {
            "rows": [row.to_json() for row in rows],
            "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "revision": self.machine["revision"],
            "versions": self.machine["versions"],
            "seconds": seconds,
            "turns": turns,
            "ceilings": ceilings.to_json(),
            "load_average": os.getloadavg(),
        }
        self.left = [name for name in self.left if name != stage]
        self.write()

    def add_failure(self, stage: str, error: str) -> None:
        """Notes that a stage failed. What there was of it before is kept."""
        if not self.has(stage):
            self.stages[stage] = {"error": error}
        self.write()

    def write(self) -> None:
        """Writes all of it, in the place of the file only once it is whole.

        Raises:
          UserError: it cannot be written; the file is as it was.
        """
        content = {
            "format_version": FORMAT_VERSION,
            "size": self._size,
            "machine": self.machine,
            "left": self.left,
            "stages": {name: self.stages[name] for name in STAGES if name in self.stages},
            "growth": [growth.to_json() for growth in find_growth(self.rows)],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error

    def _read(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        try:
            content = json.loads(self.path.read_text())
            version, size, machine, stages = (content[key] for key in ("format_version", "size", "machine", "stages"))
            difference = record.difference(machine, self.machine)
            for stage in stages.values():
                list(map(Row.from_json, stage.get("rows", [])))
            # Files of before there was such a list are of runs that went to their end.
            left = [name for name in STAGES if name in content.get("left", [])]
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} is not a result file of python -m benchmarks: move it away, or choose another --out"
            ) from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from error
        if version != FORMAT_VERSION:
            raise UserError(f"{self.path} is of format {version}, and this is format {FORMAT_VERSION}")
        if size != self._size:
            raise UserError(f"{self.path} is of size {size}, not {self._size}: choose another --out")
        if difference is not None:
            raise OtherMachineError(
                f"{self.path} is of another machine ({difference.name}: {difference.there}, here {difference.here}): "
                "choose another --out"
            )
        # Those of the first results: were they replaced each time, they could walk from one machine to another.
        self.machine["rates"] = machine["rates"]
        return {name: stage for name, stage in stages.items() if name in STAGES}, left
