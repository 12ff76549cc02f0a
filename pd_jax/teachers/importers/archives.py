"""Compressed files from strangers: what a zip archive announces is checked before any of it is read, and of a gzip
file, which announces nothing, no more is unpacked than an agent can have."""

from __future__ import annotations

import gzip
import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

from pd_jax.teachers.formats import GZIP
from pd_jax.teachers.metadata import Malformed

_MAX_MEMBERS = 1000
_MAX_TOTAL_BYTES = 2**30
# Weights do not compress; JSON seldom does by more than 20. Below a mebibyte no ratio does harm.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 2**20
# A network and its target, with the moments of an optimiser, have some tens of megabytes.
_MAX_GZIP_BYTES = 2**28
_GZIP_PART_BYTES = 2**20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
# What zipfile raises over a file that is damaged, or made to hurt.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError)


def read_members(file: BinaryIO, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Reads some members of a zip archive, in memory; nothing is ever extracted to disk.

    Args:
      file: the archive.
      limits: the members to read, and the most bytes that each may have.

    Returns:
      Those of the members that are there.

    Raises:
      Malformed: it is no zip archive, is cut short, or has a member that no honest archive has: a name that leaves
        the archive or occurs twice, a link, encryption, a rare compression, or a size or a ratio beyond reason.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = _checked_members(archive)
            for name in limits.keys() & members.keys():
                if members[name].file_size > limits[name]:
                    raise Malformed(f"member {name!r} has {members[name].file_size:,} bytes, more than any agent's")
            return {name: archive.read(members[name]) for name in limits if name in members}
    except _DAMAGE as error:
        raise Malformed(f"not a zip archive, or a damaged one ({_one_line(error)})") from None


def member_names(file: BinaryIO) -> list[str]:
    """The names of all members; raises `Malformed` for what :func:`read_members` would refuse.

    There are none where the archive begins later than the file: such a file was cut short, and ends in an archive that
    was a member of it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = _checked_members(archive)
            is_whole = min((info.header_offset for info in members.values()), default=0) == 0
            return list(members) if is_whole else []
    except _DAMAGE as error:
        raise Malformed(f"not a zip archive, or a damaged one ({_one_line(error)})") from None


def check_archive(file: BinaryIO) -> None:
    """Raises `Malformed` for what :func:`read_members` would refuse, without reading any member."""
    read_members(file, {})


def gunzip(data: bytes) -> bytes:
    """What a gzip file holds.

    Raises:
      Malformed: it is none, is damaged or cut short, or unpacks to more than an agent has, or than weights can shrink
        to.
    """
    limit = min(_MAX_GZIP_BYTES, max(_RATIO_FREE_BYTES, _MAX_RATIO * len(data)))
    unpacked = bytearray()
    if not data.startswith(GZIP):  # An empty file would unpack to nothing.
        raise Malformed("not a gzip file, or a damaged one (it begins otherwise)")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(_GZIP_PART_BYTES):
                unpacked += part
                if len(unpacked) > limit:
                    raise Malformed(
                        f"would unpack from {len(data):,} to more than {limit:,} bytes; no more of it was unpacked"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise Malformed(f"not a gzip file, or a damaged one ({_one_line(error)})") from None
    return bytes(unpacked)


def _checked_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise Malformed(f"holds {len(infos):,} members; an agent has a few")
    for info in infos:
        # zipfile cuts names at a null byte; what was there before is what others would see.
        name = info.orig_filename
        if name in members or info.filename in members:
            raise Malformed(f"holds {name!r} twice")
        _check_name(name)
        _check_member(name, info)
        members[name] = info
    total = sum(info.file_size for info in infos)
    if total > _MAX_TOTAL_BYTES:
        raise Malformed(f"would unpack to {total:,} bytes, more than any agent's")
    return members


def _check_name(name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or not name.isprintable():
        raise Malformed(f"member {name!r} lies outside the archive; nothing was unpacked")


def _check_member(name: str, info: zipfile.ZipInfo) -> None:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise Malformed(f"member {name!r} is a link; nothing was unpacked")
    if info.flag_bits & _ENCRYPTED:
        raise Malformed(f"member {name!r} is encrypted")
    if info.compress_type not in _METHODS:
        raise Malformed(f"member {name!r} has compression {info.compress_type}; only stored and deflated ones are read")
    if info.file_size > max(_RATIO_FREE_BYTES, _MAX_RATIO * info.compress_size):
        raise Malformed(
            f"member {name!r} would unpack from {info.compress_size:,} to {info.file_size:,} bytes; it was not"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
