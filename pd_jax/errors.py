"""Errors meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ObservationsError", "UnsoundObservationsError", "UnsoundTeacherError", "UserError"]

OUT_OF_MEMORY = "out of memory: make the network, the batch, the lanes or the replay smaller"


class UserError(Exception):
    """Something the user can put right: a bad file, name, number or directory.

    The message is one line that says what was wrong, where, and what would be right. The command line prints it on
    stderr and exits with code 2.
    """


class UnsoundTeacherError(UserError):
    """A teacher's outputs are NaN or infinite, and without its game the run cannot go on. What was learnt is sound."""


class UnsoundObservationsError(UserError):
    """What an environment shows is NaN or infinite, and without its game the run cannot go on. What was learnt is
    sound."""


class ObservationsError(UserError, ValueError):
    """Observations of another shape or dtype than the task's."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the closest of ``choices``, or an empty string when none is close."""
    candidates = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.5)
    return f"; did you mean {candidates[matches[0]]!r}?" if matches else ""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, the host's or a device's."""
    # JAX raises a RuntimeError of its own, whose status differs between backends.
    text = str(error)
    is_jax = isinstance(error, RuntimeError) and ("RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower())
    return isinstance(error, MemoryError) or is_jax
