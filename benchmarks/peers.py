"""Rows of the peers' own loops, from what :mod:`benchmarks.rivals.peers` has measured of them beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread
from benchmarks.rows import Against, Row
from pd_jax.errors import UserError

STAGE = "peers"
FILE = "peers.json"
COMMAND = "python -m benchmarks.rivals.peers"
_RATES = {"steps_per_second": "steps/s", "updates_per_second": "updates/s"}


def read_peers(directory: Path) -> list[Row]:
    """Environment steps and updates a second of ours and of each peer; nothing if the file is not there.

    Raises:
      UserError: the file is another one.
    """
    path = directory / FILE
    if not path.exists():
        return []
    try:
        results = json.loads(path.read_text())["results"]
        return [row for peer in results["ours_over_peer"] for row in _rows(results, peer)]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
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
