"""Rows of the peers' own loops, from what :mod:`benchmarks.rivals.peers` has measured of them beside ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.measure import Spread
from benchmarks.harness.rows import Against, Row
from pd_jax.errors import UserError

STAGE = "peers"
FILE = "peers.json"
COMMAND = "python -m benchmarks.rivals.peers"
_RATES = {"steps_per_second": "steps/s", "updates_per_second": "updates/s"}


@dataclasses.dataclass(frozen=True)
class Peers:
    """What is there of the peers' loops.

    Attributes:
      rows: environment steps and updates a second of ours and of each peer.
      note: where they come from, or why there are none.
    """

    rows: list[Row]
    note: str


def read_peers(directory: Path, machine: Mapping[str, Any]) -> Peers:
    """The rows of the file in a directory, if it is there and of this machine.

    Args:
      directory: of the result files.
      machine: this one, as of :func:`benchmarks.harness.record.machine`.

    Raises:
      UserError: the file is another one.
    """
    path = directory / FILE
    if not path.exists():
        return Peers([], f"peers' loops: no {FILE} in {directory}; {COMMAND} measures them")
    try:
        content = json.loads(path.read_text())
        results, there = content["results"], content["machine"]
        if (other := record.difference(there, machine)) is not None:
            return Peers([], f"peers' loops: left out, as {path} is of another machine ({other.name}: {other.there})")
        rows = [row for peer in results["ours_over_peer"] for row in _rows(results, peer)]
        return Peers(rows, f"peers' loops: revision {there['revision']}")
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what {COMMAND} writes") from error


def _rows(results: Mapping[str, Any], peer: str) -> list[Row]:
    turns, rows = results["settings"]["turns"], []

    def spread(values: Mapping[str, float]) -> Spread:
        return Spread(values["median"], values["lowest"], values["highest"], turns)

    for ours, ratios in results["ours_over_peer"][peer].items():
        for rate, unit in _RATES.items():
            own, its = (spread(results["loops"][loop]["live"][rate]) for loop in (ours, peer))
            setting = {"ours": ours, "student": results["settings"]["student"]}
            rows.append(Row(STAGE, setting, unit, own, rival=Against(peer, its, spread(ratios[rate]))))
    return rows
