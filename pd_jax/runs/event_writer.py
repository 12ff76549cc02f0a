"""TensorBoard's event files, as its readers want them, without a library of its own.

A file is a row of records: a length in 8 bytes, its checksum in 4, an event, the event's checksum in 4, all little
endian. An event is a protocol buffer; of its fields these are written:

| message | fields |
|---|---|
| event | 1 time (double), 2 step (int64), 3 version of the file (string), 5 summary, 7 session |
| summary | 1 value, any number of them |
| value | 1 tag (string), 2 number (float) |
| session | 1 status (an enumeration: 1 is a start) |
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_START = 1


class EventWriter:
    """One event file, in the calling thread.

    Args:
      directory: of the file.
      suffix: of its name, which has the time in whole seconds only.

    Raises:
      OSError: in all methods too, the disk is full or failing.
    """

    def __init__(self, directory: Path, suffix: str) -> None:
        now = time.time()
        self._file = open(directory / f"events.out.tfevents.{int(now)}.{socket.gethostname()}{suffix}", "wb")
        self._write(_double(1, now) + _bytes(3, b"brain.Event:2"))

    def start_session(self) -> None:
        """Has a TensorBoard that is looking on forget what it has read."""
        self._write(_double(1, time.time()) + _bytes(7, _varint(1, _START)))

    def write(self, step: int, wall_time: float, scalars: Mapping[str, float]) -> None:
        """Writes some numbers, in float32, by their names."""
        values = (_bytes(1, _bytes(1, tag.encode()) + _float(2, scalar)) for tag, scalar in scalars.items())
        # As messages do, a step of 0 is left out.
        self._write(_double(1, wall_time) + (_varint(2, step) if step else b"") + _bytes(5, b"".join(values)))

    def flush(self) -> None:
        """Returns once all is on disk to stay."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes, and lets go of the file."""
        try:
            self.flush()
        finally:
            self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _varint(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint_bytes(value)


def _varint_bytes(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative ones as 64 bits."""
    value %= 2**64
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _double(field: int, value: float) -> bytes:
    return _key(field, _DOUBLE) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _key(field, _FLOAT) + packed


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint_bytes(len(value)) + value


def _crc_table() -> tuple[int, ...]:
    """Of CRC-32C (Castagnoli 1993), bits reversed."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, turned and shifted: a checksum of data that holds checksums is none otherwise."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)
