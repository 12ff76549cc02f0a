"""What Weights & Biases wrote offline, read back by its own messages.

A file is a header of 7 bytes and then records as LevelDB's logs have them: blocks of 32 KiB, in each a row of
fragments of a checksum (4 bytes), a length (2), a kind (1: whole, 2: first, 3: middle, 4: last) and data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32 * 1024


def read_offline(path: Path) -> dict[str, Any]:
    """Rows of the history (``{"step": ..., name: value}``), the configuration, the summary and what the run is."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"history": [], "config": {}, "summary": {}, "run": None, "exit_code": None}
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {_name(item): json.loads(item.value_json) for item in record.history.item}
            found["history"].append({"step": record.history.step.num} | row)
        elif kind == "run":
            found["run"] = record.run
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            found["config"] |= {_name(item): json.loads(item.value_json) for item in record.config.update}
        elif kind == "summary":
            found["summary"] |= {_name(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    return found


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _records(content: bytes) -> Iterator[bytes]:
    position, whole = _HEADER, b""
    while position + 7 <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""
