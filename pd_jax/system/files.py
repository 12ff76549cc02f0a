"""Small text files that are there as a whole or not at all, and values as YAML and JSON can say them."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError

_UNFINISHED = ".unfinished"


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file in one step: after a crash the path holds the old text or the new, never a part.

    Raises:
      OSError: it could not be written; the old file stands.
    """
    # Containers on several hosts have the same few process numbers.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{os.uname().nodename}{_UNFINISHED}")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def left_if_whole(out: Path, *, replaces: bool) -> Iterator[Path]:
    """A directory that becomes ``out`` at the end of the context, and is gone if it ends by an exception.

    Args:
      out: empty or not there; or else what is there is replaced, if so wanted.
      replaces: whether it is.

    Raises:
      UserError: it cannot be written.
    """
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}.unfinished-") as unfinished:
            # Of its own, with the permissions that any new directory has.
            directory = Path(unfinished) / "whole"
            directory.mkdir()
            yield directory
            out.parent.mkdir(parents=True, exist_ok=True)
            if replaces and out.exists():
                os.replace(out, Path(unfinished) / "before")
            # Whatever was put there meanwhile stays: only an empty directory is replaced.
            os.replace(directory, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def expand_home(path: str) -> str:
    """The path with the home directory for a leading ``~``, and that of a user for ``~user``; as it is if there is
    none."""
    return os.path.expanduser(path) if path.startswith("~") else path


def to_plain(value: Any) -> Any:
    """Mappings, sequences, paths and NumPy scalars as what YAML and JSON can say."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Arrays of NumPy and JAX, and their scalars.
    return value.tolist() if hasattr(value, "tolist") else value


def to_json(value: Any) -> Any:
    """``to_plain`` with null for NaN and infinities, which JSON cannot say."""
    value = to_plain(value)
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
