"""Trackers beside TensorBoard: trackio and Weights & Biases, which have the metrics under the same names and steps.

Both are on this machine alone unless their own variables say otherwise. What they have follows ``metrics.jsonl``, as
TensorBoard's files do: a run that goes on from a checkpoint drops lines, and so do they. Neither is imported unless it
is asked for, and whatever goes wrong in one is a warning.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
import importlib.util
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError
from pd_jax.runs.directory import RunDirectory
from pd_jax.system.files import write_atomically

TRACKING_NAME = "tracking.json"
"""In a run's directory: what trackers call the run, so that one that is resumed is the same to them."""
_FLUSH_SECONDS = 2.0
_ID_BYTES = 8

Line = Mapping[str, Any]
"""Of ``metrics.jsonl``: ``step``, ``time`` and values, of which some may be None."""


@dataclasses.dataclass(frozen=True)
class Tracked:
    """What a run is to its trackers.

    Attributes:
      run_id: stays the same as the run is resumed, wherever its directory is then.
      project: that groups runs.
      name: of the run.
      group: of the sweep that it is a cell of; None of a run alone.
      path: its directory.
      config: its resolved configuration, plain values.
    """

    run_id: str
    project: str
    name: str
    group: str | None
    path: Path
    config: Mapping[str, Any]


class Tracker(abc.ABC):
    """One tracker's record of a run. Any method may raise anything: whoever calls makes a warning of it.

    Args:
      run: what is tracked.

    Attributes:
      name: as settings have it.
    """

    name: str

    def __init__(self, run: Tracked) -> None:
        self.run = run

    @abc.abstractmethod
    def describe(self) -> str:
        """Where the record is, and how to look at it; in one line."""

    @abc.abstractmethod
    def replace(self, lines: Sequence[Line]) -> None:
        """Makes the record hold these lines and no others."""

    @abc.abstractmethod
    def write(self, line: Line) -> None:
        """Adds a line; it may be kept back for a moment."""

    @abc.abstractmethod
    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Writes what was kept back, and the summary of a run that has ended."""


class Trackio(Tracker):
    """A run in trackio's database of the project: ``TRACKIO_DIR``, or its own place in the home directory.

    Lines are written here and now, by what trackio itself writes with: its own ``Run`` would send the user's name to
    the hub for, print, and write in a thread that tells of a full disk in a traceback's words.
    """

    name = "trackio"

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        from trackio.sqlite_storage import SQLiteStorage

        self._storage = SQLiteStorage
        SQLiteStorage.validate_project_name(run.project)
        self._kept: list[Line] = []
        self._written = 0
        self._last: Line | None = None
        self._next_flush = 0.0
        created = datetime.datetime.now(datetime.UTC).isoformat()
        # What its dashboard looks for beside a run's own settings.
        self._config = {**run.config, "_Username": None, "_Created": created, "_Group": run.group}

    def describe(self) -> str:
        path = self._storage.get_project_db_path(self.run.project)
        return f"trackio: run {self.run.name} in {path}; to look: trackio show --project {self.run.project}"

    def replace(self, lines: Sequence[Line]) -> None:
        self._storage.delete_run(self.run.project, self.run.name, run_id=self.run.run_id)
        self._kept, self._written, self._last = [*lines], 0, None
        self._flush()

    def write(self, line: Line) -> None:
        self._kept.append(line)
        if time.monotonic() >= self._next_flush:
            self._flush()

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._flush()
        if summary is not None and self._last is not None:
            # Settings come with lines. This one is there, by its number, and is left out.
            self._written -= 1
            self._log([self._last], {**self._config, "summary": dict(summary)})

    def _flush(self) -> None:
        kept, self._kept = self._kept, []
        if kept:
            self._log(kept, None if self._written else self._config)
        self._next_flush = time.monotonic() + _FLUSH_SECONDS

    def _log(self, lines: Sequence[Line], config: Mapping[str, Any] | None) -> None:
        times = [datetime.datetime.fromtimestamp(line["time"], datetime.UTC).isoformat() for line in lines]
        self._storage.bulk_log(
            self.run.project,
            self.run.name,
            [_values(line) for line in lines],
            steps=[line["step"] for line in lines],
            timestamps=times,
            config=config,
            log_ids=[f"{self.run.run_id}-{self._written + index}" for index in range(len(lines))],
            run_id=self.run.run_id,
        )
        self._written += len(lines)
        self._last = lines[-1]


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases in the run's ``wandb/``; offline, unless ``WANDB_MODE`` says otherwise.

    Offline each session has a directory of its own, whose file cannot be gone on with: the newest holds all lines, and
    takes the place of those before it.
    """

    name = "wandb"

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        self._mode = os.environ.get("WANDB_MODE") or "offline"
        if self._mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        self._run = self._begin()
        self._first_step = 0 if self._mode == "offline" else int(self._run.step)
        self._has_lines = False

    def describe(self) -> str:
        if self._mode == "offline":
            path = self._directory
            return f"wandb: offline in {path}; to look: wandb leet {path}; to send: wandb sync {path}"
        return f"wandb: {self._mode}, run {self.run.name} of {self.run.project} at {self._run.url or 'no address'}"

    def replace(self, lines: Sequence[Line]) -> None:
        if self._has_lines and self._mode == "offline":
            self._run.finish(exit_code=1)
            self._run = self._begin()
        elif self._has_lines:
            self._first_step = int(self._run.step)
        for line in lines:
            self.write(line)
        # Last: who is killed before this has more than enough, which the next session takes away.
        self._remove_others()

    def write(self, line: Line) -> None:
        # What is online cannot be taken back; a run that is resumed has the same numbers at the same steps.
        if line["step"] >= self._first_step:
            self._run.log(_values(line) | {"_timestamp": line["time"]}, step=line["step"])
        self._has_lines = True

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._remove_others()
        if summary is not None:
            self._run.summary.update({"summary": dict(summary)})
        # A run that is to be gone on with has not succeeded.
        self._run.finish(exit_code=1 if summary is None else 0)

    def _remove_others(self) -> None:
        """Takes away earlier records of the run; one that has just ended may still be written for a moment."""
        for path in self._directory.parent.glob(f"offline-run-*-{self.run.run_id}"):
            if self._mode == "offline" and path != self._directory:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _directory(self) -> Path:
        return Path(self._run.settings.sync_dir)

    def _begin(self) -> Any:
        # Directories are called by the second: two of one run in the same one would be the same.
        taken = self.run.path / "wandb"
        while [*taken.glob(f"*-run-{time.strftime('%Y%m%d_%H%M%S')}-{self.run.run_id}")]:
            time.sleep(0.05)
        settings = self._wandb.Settings(
            silent=True, console="off", disable_code=True, disable_git=True, x_disable_stats=True, x_disable_meta=True
        )
        return self._wandb.init(
            mode=self._mode,
            dir=str(self.run.path),
            project=self.run.project,
            id=self.run.run_id,
            name=self.run.name,
            group=self.run.group,
            config=dict(self.run.config),
            resume=None if self._mode == "offline" else "allow",
            # Several at once, which lockstep has.
            reinit="create_new",
            settings=settings,
        )


_TRACKERS: Mapping[str, Callable[[Tracked], Tracker]] = {"trackio": Trackio, "wandb": WeightsAndBiases}


def check_trackers(names: Sequence[str] | None) -> None:
    """Raises a UserError if the package of a tracker is not installed; imports none of them."""
    for name in names or ():
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # What tests and tools put in its place.
            spec = None
        # A directory of the name, such as wandb's own files, is a package of nothing.
        if spec is None or spec.origin is None:
            raise UserError(f"track: {name} is not installed: pip install 'pd-jax[{name}]'")


def open_trackers(
    names: Sequence[str] | None, project: str, run: RunDirectory, *, warn: Callable[[str], None]
) -> list[Tracker]:
    """Opens the trackers of a run, whose directory is locked.

    Args:
      names: of `pd_jax.config.base.TrackedConfig`; None is none.
      project: that groups runs.
      run: the run's directory; its id is kept in ``tracking.json`` there.
      warn: is told, in one line, of each that cannot be opened and is left out.

    Returns:
      those that could be opened.
    """
    found: list[Tracker] = []
    for name in dict.fromkeys(names or ()):
        try:
            found.append(_TRACKERS[name](_tracked(project, run)))
        except Exception as error:
            warn(f"{name}: cannot be opened: {describe_error(error)}; the run goes on without it")
    return found


def describe_error(error: Exception) -> str:
    """What went wrong in a tracker, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _tracked(project: str, run: RunDirectory) -> Tracked:
    path = run.path.absolute()
    name, group = path.name, None
    if path.parent.name == "cells" and (path.parent.parent / "config.yaml").is_file():
        group = path.parent.parent.name
    return Tracked(_run_id(run.path / TRACKING_NAME), project, name, group, path, run.config)


def _run_id(path: Path) -> str:
    """The id that a run has, or is given now."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["run_id"]
        if isinstance(found, str) and len(found) == 2 * _ID_BYTES and found.isalnum():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    made = secrets.token_hex(_ID_BYTES)
    write_atomically(path, json.dumps({"run_id": made}) + "\n")
    return made


def _values(line: Line) -> dict[str, float]:
    """The numbers of a line, as TensorBoard's events have them."""
    return {name: float(value) for name, value in line.items() if name not in ("step", "time") and value is not None}
