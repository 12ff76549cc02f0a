"""When a run is saved."""

from __future__ import annotations

import time

from pd_jax.system import hosts


class SaveTimer:
    """Says when the next checkpoint is due.

    Args:
      interval: what may be done between checkpoints, in updates or steps.
      seconds: how old the last checkpoint may become; None goes by ``interval`` alone.
      done: where the run stands.

    Attributes:
      saved: where it stood at the last checkpoint.
    """

    def __init__(self, interval: int, seconds: float | None, done: int) -> None:
        self._interval, self._seconds = interval, seconds
        self.note_saved(done)

    def note_saved(self, done: int) -> None:
        """A checkpoint has just been saved."""
        # Never the wall clock, which may be set back or forward by hours.
        self.saved, self._saved_at = done, time.monotonic()

    def is_due(self, done: int) -> bool:
        """Whether a multiple of the interval was passed since the last checkpoint, or that one is too old.

        Of several processes each has a clock of its own: there, what has been done counts alone.
        """
        return self._is_passed(done) or (hosts.current() is None and self.is_old(done))

    def is_old(self, done: int) -> bool:
        """Whether more has been done since the last checkpoint, and that one is too old."""
        if self._seconds is None or done <= self.saved:
            return False
        return time.monotonic() - self._saved_at >= self._seconds

    def is_due_for_all(self, done: int) -> bool:
        """As :meth:`is_due`, after each call of updates: several processes save after the same one."""
        among = hosts.current()
        if among is None or self._seconds is None:
            return self.is_due(done)
        # The clock of process 0 counts.
        wish = "save" if among.process_id == 0 and self.is_old(done) else None
        return among.meet("save", wish) is not None or self._is_passed(done)

    def _is_passed(self, done: int) -> bool:
        return done // self._interval > self.saved // self._interval
