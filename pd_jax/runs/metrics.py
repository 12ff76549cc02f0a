"""Numbers on the way: ``metrics.jsonl``, one JSON object a line, and the same as TensorBoard events and in trackers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.runs.events import EventFiles
from pd_jax.runs.trackers import Tracker, describe_error
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.progress import print_warning


class MetricsWriter:
    """Appends to a run's ``metrics.jsonl`` and ``tb/``; use as a context manager, or call ``close``.

    A line is written whole or not at all, at once: after kill -9 at most one torn line is left, which the next writer
    removes. A full disk costs lines and a warning, and does not stop the run.
    """

    def __init__(
        self,
        run_path: str | os.PathLike[str],
        *,
        tensorboard: bool = True,
        trackers: Sequence[Tracker] = (),
        warn: Callable[[str], None] = print_warning,
    ) -> None:
        """Opens the metrics of a run, new or old.

        Args:
          run_path: the run's directory, which exists.
          tensorboard: whether to write TensorBoard events as well.
          trackers: that have the same; one that fails is left out from then on.
          warn: is told, in one line and once, when the disk takes no more, or what a tracker fails with.
        """
        self.path = Path(run_path) / "metrics.jsonl"
        self._warn = warn
        self._failed = False
        # Of events without metrics nobody can say whether they are right.
        is_old = self.path.exists()
        self._file = self._open()
        self._events = EventFiles(Path(run_path) / "tb", are_old=is_old) if tensorboard else None
        self._trackers = list(trackers)
        self._trackers_follow = False
        """Whether trackers hold the lines before the next one, and no others."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes ``{"step": step, "time": Unix seconds, **values}``; NaN and infinities become null.

        Args:
          step: the step the values belong to.
          values: numbers (Python, NumPy or JAX scalars) or None, by name. TensorBoard groups names such as
            ``pong/loss`` by what precedes the slash.
        """
        if not values.keys().isdisjoint(("step", "time")):
            raise ValueError("step and time are the writer's own names")
        line = {"step": int(step), "time": round(time.time(), 3), **to_json(values)}
        try:
            self._append((json.dumps(line, allow_nan=False) + "\n").encode())
            if self._events is not None:
                self._events.write(line, self._read)
        except OSError as error:
            if not self._failed:
                self._warn(f"{self.path}: metrics cannot be written: {error.strerror}; training goes on without them")
            self._failed = True
        self._track(line)

    def truncate_after(self, step: int) -> int:
        """Drops what was written after the checkpoint that a run resumes from, in the file and in TensorBoard.

        Args:
          step: the last step to keep.

        Returns:
          How many lines were dropped.
        """
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _parse(line, self.path)["step"] <= step]
        if len(kept) < len(lines):
            os.close(self._file)
            write_atomically(self.path, b"".join(kept).decode())
            self._file = self._open()
        if self._events is not None:
            self._events.doubt()
        self._trackers_follow = False
        return len(lines) - len(kept)

    def close(self, summary: Mapping[str, Any] | None = None) -> None:
        """Flushes and closes all.

        Args:
          summary: of a run that has ended, for trackers.
        """
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            try:
                if self._events is not None:
                    self._events.close(self._read)
            except OSError as error:
                self._warn(f"{self.path.parent / 'tb'}: cannot be written: {error.strerror}")
            self._track(None)
            self._each_tracker(lambda tracker: tracker.close(summary))
            self._trackers = []

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _track(self, line: Mapping[str, Any] | None) -> None:
        """Hands trackers a new line, or all that they ought to hold; None is only to see to the latter."""
        if not self._trackers:
            return
        if not self._trackers_follow:
            lines = self._read()
            if line is not None and (not lines or lines[-1] != line):
                # The disk did not take it.
                lines.append(dict(line))
            self._each_tracker(lambda tracker: tracker.replace(lines))
            self._trackers_follow = True
        elif line is not None:
            self._each_tracker(lambda tracker: tracker.write(line))

    def _each_tracker(self, action: Callable[[Tracker], None]) -> None:
        for tracker in [*self._trackers]:
            try:
                action(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                self._warn(f"{tracker.name}: {describe_error(error)}; the run goes on without it")

    def _read(self) -> list[dict[str, Any]]:
        return read_metrics(self.path)

    def _open(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            os.ftruncate(file, content.rfind(b"\n") + 1)
        return file

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(0, "the disk took only a part of a line")
        except OSError:
            os.ftruncate(self._file, size)
            raise


class NoMetrics:
    """A `MetricsWriter` that writes nothing, for processes beside the one that does."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes nothing."""

    def truncate_after(self, step: int) -> int:
        """Drops nothing."""
        return 0

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *exception: object) -> None:
        """There is nothing to close."""


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl`` in the order it was written; null is None, and a torn last line is left out.

    Args:
      path: the file.

    Returns:
      One mapping a line, with ``step``, ``time`` and the values. Empty when there is no such file.

    Raises:
      UserError: a line before the last is no metrics line, or the file cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    *lines, _ = content.split(b"\n")
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def score_values(game: str, score: Score) -> dict[str, float | None]:
    """What `pd_jax.report.figures` draws of an evaluation on the way, to pass to ``MetricsWriter.write``.

    Args:
      game: the task's name.
      score: the student's, or the teacher's in training.

    Returns:
      ``score/GAME`` and the 95 % interval's ends, ``score_low/GAME`` and ``score_high/GAME``.
    """
    return {f"score/{game}": score.mean, f"score_low/{game}": score.low, f"score_high/{game}": score.high}


def _parse(line: bytes, path: Path, number: int | None = None) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
        if not isinstance(record["step"], int):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        where = f"{path}:{number}" if number else str(path)
        raise UserError(f"{where}: is not a line of metrics: {line[:60]!r}") from None
    return record
