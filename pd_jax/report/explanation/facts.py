"""What a run says of itself, and where it stands; finished or not."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pd_jax.errors import UserError
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.summary import Summary
from pd_jax.system.text import printable

T = TypeVar("T", int, float, str, bool)
State = Literal["finished", "running", "diverged", "stopped", "not_begun"]

EXPLAINED = ("distill", "online", "train-teacher", "evaluate", "sweep")
"""The commands whose runs can be explained."""
TABLE_NAME = "table.json"
"""Of a sweep, beside its cells."""
# Half a second's worth of reading.
_HEAD_BYTES, _TAIL_BYTES = 2**20, 4 * 2**20


@dataclasses.dataclass(frozen=True)
class Facts:
    """A run.

    Attributes:
      path: its directory, as it was given.
      command: that made it.
      config: its settings, nested mappings of plain values.
      state: where it stands.
      summary: of a run that has ended in scores.
      sweep: what the ``table.json`` of a sweep holds.
      metrics: the lines of ``metrics.jsonl``, of a long run the oldest and the newest.
      checkpoint: the newest step that is saved; None if nothing is.
    """

    path: str
    command: str
    config: Mapping[str, Any]
    state: State
    summary: Summary | None
    sweep: Mapping[str, Any] | None
    metrics: Sequence[Mapping[str, Any]]
    checkpoint: int | None

    def setting(self, key: str, kind: type[T]) -> T | None:
        """A setting by its dotted key; None if it is not there, or is something else."""
        value: Any = self.config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if kind is float and type(value) is int:
            value = float(value)
        return value if type(value) is kind else None

    def about(self, key: str, kind: type[T]) -> T | None:
        """An entry of the summary, likewise."""
        value = None if self.summary is None else self.summary.about.get(key)
        if kind is float and type(value) is int:
            value = float(value)
        return value if type(value) is kind else None

    def series(self, key: str) -> list[tuple[int, float]]:
        """A number over the steps, of the lines that have it."""
        found = []
        for line in self.metrics:
            step, value = line.get("step"), line.get(key)
            if type(step) is int and isinstance(value, int | float) and math.isfinite(value):
                found.append((step, float(value)))
        return found

    @property
    def step(self) -> int:
        """How far it has come: updates, or a teacher's control steps."""
        steps = [line["step"] for line in self.metrics if type(line.get("step")) is int]
        return max([0, *steps, self.checkpoint or 0])

    @property
    def planned(self) -> int | None:
        """How far it is to come, in the same unit; None if its settings do not say."""
        if self.command == "train-teacher":
            algorithm = self.setting("algorithm", str) or "pqn"
            return self.setting(f"{algorithm}.total_steps", int)
        rounds, updates = self.setting("schedule.rounds", int), self.setting("schedule.updates_per_round", int)
        return None if rounds is None or updates is None else rounds * updates


def read_facts(path: str | os.PathLike[str]) -> Facts:
    """Reads a run.

    Raises:
      UserError: it is no run, is of a command whose runs cannot be explained, or a file of it is damaged.
    """
    run = read_run(path)
    where = printable(os.fspath(path))
    if run.command not in EXPLAINED:
        raise UserError(f"{where}: holds a run of pd-jax {run.command}; those of {', '.join(EXPLAINED)} are explained")
    summary, sweep = None, None
    if run.command == "sweep":
        sweep = _read_table(run.path / TABLE_NAME)
    else:
        summary = run.read_summary()
    lines = _lines(run.metrics_path)
    checkpoint = _newest_checkpoint(run.checkpoints)
    is_finished = run.is_complete or (sweep is not None and all(_is_settled(cell) for cell in sweep["cells"]))
    state = "finished" if is_finished else _state(run, lines, checkpoint)
    return Facts(os.fspath(path), run.command, run.config, state, summary, sweep, lines, checkpoint)


def _read_table(path: Path) -> Mapping[str, Any] | None:
    """The table of a sweep; None if there is none yet."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{printable(str(path))}: is not the table of a sweep: {error}") from None
    parts = [table.get(name) for name in ("cells", "rows")] if isinstance(table, dict) else []
    if not parts or not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise UserError(f"{printable(str(path))}: is not the table of a sweep: it has no lists of cells and rows")
    return dict(table)


def _is_settled(cell: Mapping[str, Any]) -> bool:
    return "student_score" in cell or "failure" in cell


def _state(run: RunDirectory, lines: Sequence[Mapping[str, Any]], checkpoint: int | None) -> State:
    if run.is_in_use:
        return "running"
    # NaN is null in a file.
    last = next((line["loss"] for line in reversed(lines) if "loss" in line), 0.0)
    if last is None or (run.path / "diverged").is_dir():
        return "diverged"
    return "stopped" if lines or checkpoint is not None else "not_begun"


def _newest_checkpoint(directory: Path) -> int | None:
    try:
        steps = [int(entry.name) for entry in os.scandir(directory) if entry.is_dir() and entry.name.isdecimal()]
    except OSError:
        return None
    return max(steps, default=None)


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """The metrics, of a long run the oldest and the newest; what is none is passed over."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _HEAD_BYTES + _TAIL_BYTES:
                texts = file.read().split(b"\n")
            else:
                texts = file.read(_HEAD_BYTES).split(b"\n")[:-1]
                file.seek(size - _TAIL_BYTES)
                texts += file.read(_TAIL_BYTES).split(b"\n")[1:]
    except OSError:
        return []
    found: list[Mapping[str, Any]] = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            found.append(line)
    return found
