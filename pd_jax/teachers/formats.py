"""What a file is, from how it begins and only then from its name; without JAX."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

HUB_SCHEME = "hf://"
PUBLISHED_NAME = "model.safetensors"
"""The teacher file in what ``pd-jax push`` leaves."""
Format = Literal["teacher", "zip", "gzip", "flax", "torch", "pickle", "other", "none"]
"""A teacher file of ours, or another safetensors file; a zip archive; a gzip file; msgpack as Flax writes it; PyTorch's
format before 1.6; another pickle; anything else; no regular file."""
_SUFFIXES: dict[str, Format] = {".zip": "zip", ".gz": "gzip", ".cleanrl_model": "flax"}
TORCH_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""Its magic number, pickled."""
GZIP = b"\x1f\x8b"
"""The magic number of a gzip file."""
# A map of msgpack; the empty one is no model, and pickles begin with the same byte.
_FLAX = frozenset({*range(0x81, 0x90), 0xDE, 0xDF})
_PICKLE_PROTOCOLS = frozenset(range(2, 6))


def format_of(path: str | os.PathLike[str]) -> Format:
    """What a file is. Of one that begins in no known way, the name decides."""
    try:
        # Asked first: opening a FIFO would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "none"
        with open(path, "rb") as file:
            start = file.read(16)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return "none"
    return _format_of_start(start, size) or _SUFFIXES.get(Path(path).suffix.lower(), "other")


def file_of(path: str | os.PathLike[str]) -> Path:
    """The teacher file of a run directory, or of what ``pd-jax push`` left; anything else stands for itself."""
    for name in ("teacher.safetensors", PUBLISHED_NAME):
        try:
            if (inner := Path(path) / name).is_file():
                return inner
        except ValueError:  # A name that no file can have.
            break
    return Path(path)


def is_run_of_students(path: str | os.PathLike[str]) -> bool:
    """Whether it is the directory of a run, and not of one that leaves a teacher file."""
    return file_of(path) == Path(path) and (Path(path) / "config.yaml").is_file()


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether it is a file that only an importer reads: of another library, or on the hub. It need not exist."""
    text = os.fspath(path)
    if text.startswith(HUB_SCHEME):
        return True
    found = format_of(text)
    if found == "none":
        return Path(text).suffix.lower() in _SUFFIXES
    return found not in ("teacher", "other")


def _format_of_start(start: bytes, size: int) -> Format | None:
    if start.startswith(b"PK"):
        return "zip"
    if start.startswith(GZIP):
        return "gzip"
    if start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") <= size - 8:
        return "teacher"
    if start.startswith(TORCH_BEFORE_1_6):
        return "torch"
    if start[:1] == b"\x80" and start[1:2] and start[1] in _PICKLE_PROTOCOLS:
        return "pickle"
    return "flax" if start and start[0] in _FLAX else None
