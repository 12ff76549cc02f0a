"""The formula of scaling, of measured and of planned figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies.scaling import efficiency, planned_rows


@pytest.mark.parametrize("num_devices", [1, 2, 8, 64])
def test_efficiency_is_the_time_that_a_ring_leaves(num_devices: int) -> None:
    # Brute force: each device sends a D-th of the bytes to the next one, D - 1 times to add up and as often to share.
    link = sum(6_750_000 / num_devices / 12.5e9 for _ in range(2 * (num_devices - 1)))
    assert efficiency(2e-4, 6_750_000, num_devices, 12.5e9) == pytest.approx(2e-4 / (2e-4 + link))


def test_a_plan_gives_the_update_its_bytes_and_its_link(tmp_path: Path) -> None:
    update = {"estimated_seconds": None, "floor_seconds": 3e-3, "link_seconds": 1e-3, "all_reduces": [20_000_000]}
    plan = {
        "topology": "v5e:2x4", "devices": 8, "learners": 8, "student": "net2", "minibatch": 64, "games": ["pong"],
        "rates": None, "needed_bytes": 1, "memory_bytes": 2,
        "programs": {"insert pong": {}, "update net2": update},
    }  # fmt: skip
    alone, searched = tmp_path / "alone.json", tmp_path / "searched.json"
    alone.write_text(json.dumps(plan))
    searched.write_text(json.dumps({"plan": plan, "search": [plan]}))
    first, second = planned_rows([alone, searched], [8, 64])
    assert first == second and first["share"] == 8 and first["update_seconds"] == pytest.approx(2e-3)
    assert first["efficiency"] == first["efficiency_over_link"]["8"] > first["efficiency_over_link"]["64"]
    assert first["efficiency"] == pytest.approx(efficiency(2e-3, 20_000_000, 8, first["link_bandwidth"]))
