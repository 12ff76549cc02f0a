"""Single decisions by each way, at a toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import record
from benchmarks.studies import latency


@pytest.mark.slow
def test_each_way_takes_its_decisions_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    latency.main(["--quick"])
    (row,) = json.loads((tmp_path / "latency_quick.json").read_text())["results"]
    assert (row["network"], row["decisions"]) == ("net3", 40) and set(row["ways"]) == set(latency.WAYS)
    for told in row["ways"].values():
        assert 0 < told["p50_us"] <= told["p99_us"] and len(told["p50_us_of_turns"]) == 2
    sizes = {way: told["bytes"] for way, told in row["ways"].items()}
    peaks = {way: told["peak_mib"] for way, told in row["ways"].items()}
    assert sizes["ONNX Runtime int8"] < 0.3 * sizes["ONNX Runtime"] and sizes["C int8"] < 80_000
    assert peaks["C"] < peaks["ONNX Runtime"] < peaks["JAX"], "neither holds what the other needs"
    assert set(row["ratios"]) == {f"{over} / {under}" for over, under in latency.RATIOS}
