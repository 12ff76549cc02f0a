"""TensorBoard's event files, which hold what ``metrics.jsonl`` holds."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.runs.event_writer import EventWriter

_FLUSH_SECONDS = 10.0
# After a failure, such as a full disk. All is written anew then, which takes a moment for every thousand lines.
_RETRY_SECONDS = 60.0
_PATTERN = "events.out.tfevents.*"


class EventFiles:
    """Scalars as TensorBoard events, written in the calling thread, and made to follow the metrics.

    Events are buffered, so a kill loses some that ``metrics.jsonl`` has; a run that goes on from a checkpoint drops
    lines that had been events. Whatever the reason, files that do not hold the metrics' steps and times are replaced.

    Args:
      directory: of the files, made if need be.
      are_old: whether there may be files of an earlier session.
    """

    def __init__(self, directory: Path, are_old: bool) -> None:
        self.directory = directory
        self._are_sure = not are_old
        self._writer: Any = None
        self._next_flush = 0.0
        self._next_try = 0.0

    def doubt(self) -> None:
        """The metrics have been cut, or an event may not have been written: the files are compared before long."""
        self._are_sure = False

    def write(self, line: Mapping[str, Any], read_lines: Callable[[], list[dict[str, Any]]]) -> None:
        """Writes one line of the metrics, which is in their file already.

        Args:
          line: ``step``, ``time`` and values.
          read_lines: gives all lines, this one included.

        Raises:
          OSError: the disk is full or failing. It is tried again later.
        """
        if not self._are_sure and self._follow(read_lines, behind=1):
            return
        if self._are_sure:
            with self._failing():
                self._write_line(line)
                if time.monotonic() >= self._next_flush:
                    self._writer.flush()
                    self._next_flush = time.monotonic() + _FLUSH_SECONDS

    def close(self, read_lines: Callable[[], list[dict[str, Any]]]) -> None:
        """Has the files hold all lines, and closes them; raises as :meth:`write` does."""
        self._next_try = 0.0
        if not self._are_sure:
            self._follow(read_lines, behind=0)
        if self._writer is not None:
            with self._failing():
                self._writer.close()
                self._writer = None

    def _follow(self, read_lines: Callable[[], list[dict[str, Any]]], behind: int) -> bool:
        """Replaces the files unless they hold all lines but the last ``behind``; returns whether it did."""
        if time.monotonic() < self._next_try:
            return False
        with self._failing():
            if self._writer is not None:
                self._writer.flush()
            lines: Sequence[Mapping[str, Any]] = read_lines()
            there = sorted(self.directory.glob(_PATTERN))
            found = [event for path in there for event in _events_in(path.read_bytes())]
            is_wrong = sorted(found) != sorted((line["step"], line["time"]) for line in lines[: len(lines) - behind])
            if is_wrong:
                self._replace(there, lines)
        self._are_sure = True
        return is_wrong

    def _replace(self, there: Sequence[Path], lines: Sequence[Mapping[str, Any]]) -> None:
        self._let_go()
        if lines:
            self._open(starts_anew=True)
            for line in lines:
                self._write_line(line)
            self._writer.flush()
        # Last: who is killed before this has more than enough, and finds it out the next time.
        for path in there:
            path.unlink(missing_ok=True)

    def _write_line(self, line: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._open(starts_anew=False)
        values = {name: value for name, value in line.items() if name not in ("step", "time") and value is not None}
        self._writer.write(line["step"], line["time"], {name: float(value) for name, value in values.items()})

    def _open(self, *, starts_anew: bool) -> None:
        self.directory.mkdir(exist_ok=True)
        # The name has the time in whole seconds only.
        self._writer = EventWriter(self.directory, f".{os.getpid()}.{time.monotonic_ns()}")
        if starts_anew:
            self._writer.start_session()

    def _let_go(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._let_go()
            self._are_sure, self._next_try = False, time.monotonic() + _RETRY_SECONDS
            raise


def _events_in(content: bytes) -> Iterator[tuple[int, float]]:
    """Step and time of the events with values in a file; what a kill has cut short is left out.

    A record is a length in 8 bytes, its checksum in 4, an event (a protocol buffer), and a checksum in 4.
    """
    position = 0
    while position + 16 <= len(content):
        end = position + 12 + int.from_bytes(content[position : position + 8], "little")
        if end + 4 > len(content):
            return
        if (event := _parse(content[position + 12 : end])) is not None:
            yield event
        position = end + 4


def _parse(event: bytes) -> tuple[int, float] | None:
    """Step (field 2) and time (field 1) of an event; None if it has no summary (field 5)."""
    step, wall_time, has_summary, position = 0, 0.0, False, 0
    while position < len(event):
        key, position = _varint(event, position)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(event, position)
            # Negative ones are written as 64 bits.
            step = value - 2**64 * (value >> 63) if field == 2 else step
        elif kind == 2:
            length, position = _varint(event, position)
            position += length
            has_summary |= field == 5
        else:
            size = 8 if kind == 1 else 4
            if field == 1 and size == 8 and position + 8 <= len(event):
                (wall_time,) = struct.unpack("<d", event[position : position + 8])
            position += size
    return (step, wall_time) if has_summary else None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return value, position
