"""Where EnvPool is stepped: by platform, by wish, and by what a trial in a process of its own finds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest

from pd_jax.actors import stepping
from pd_jax.actors.stepping import stepping_options
from pd_jax.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_is_known() -> Any:
    stepping._works_on_gpu.cache_clear()
    yield
    stepping._works_on_gpu.cache_clear()


@pytest.mark.parametrize(
    ("wanted", "platform", "expected"),
    [
        ("auto", "cpu", ("jit", 1)),
        ("jit", "cpu", ("jit", 1)),
        ("host", "cpu", ("host", 1)),
        ("auto", "tpu", ("host", 4)),
        ("host", "tpu", ("host", 4)),
        ("host", "gpu", ("host", 4)),
        ("jit", "gpu", ("jit", 1)),
        ("auto", None, ("jit", 1)),
    ],
)
def test_the_platform_that_plays_decides(wanted: Any, platform: str | None, expected: tuple[str, int]) -> None:
    options = stepping_options(wanted, platform)
    assert (options["stepping"], options["num_groups"]) == expected


def test_in_jit_on_a_tpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"env\.stepping: .* exists for CPUs and CUDA, not for a tpu"):
        stepping_options("jit", "tpu")


def test_a_trial_in_a_process_of_its_own_works_here() -> None:
    assert stepping.probe_in_jit() == ""


@pytest.mark.parametrize(
    ("probe", "fault"),
    [
        ("import os; os.abort()", "signal 6"),
        ("raise SystemExit('EnvPool is not itself')", "EnvPool is not itself"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
)
def test_what_ends_the_trial_is_told(probe: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "_PROBE", probe)
    assert stepping.probe_in_jit() == fault


def test_a_trial_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(stepping, "_PROBE_SECONDS", 0.5)
    assert "no answer" in stepping.probe_in_jit()


def gpu_with_cache(directory: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str]) -> list[None]:
    """A GPU whose trials find one fault after another; returns the list of trials."""
    trials: list[None] = []

    def probe() -> str:
        trials.append(None)
        return faults[len(trials) - 1]

    class Card:
        device_kind = "Some GPU"

    monkeypatch.setattr(stepping, "probe_in_jit", probe)
    monkeypatch.setattr(jax, "devices", lambda platform: [Card()])
    monkeypatch.setattr(stepping, "_notes_path", lambda: directory / "envpool_in_jit.json")
    return trials


def test_a_gpu_is_tried_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trials = gpu_with_cache(tmp_path, monkeypatch, ["signal 6", ""])
    for _ in range(3):
        stepping._works_on_gpu.cache_clear()
        assert stepping_options("auto", "gpu")["stepping"] == "host"
        assert capfd.readouterr().err == (
            "warning: EnvPool's step inside jit fails on this GPU (signal 6); it is stepped from the host\n"
        )
    assert len(trials) == 1
    # Other versions are another matter.
    notes = json.loads((tmp_path / "envpool_in_jit.json").read_text())
    assert len(notes) == 1 and next(iter(notes)).startswith("Some GPU ")
    (tmp_path / "envpool_in_jit.json").write_text(json.dumps({"Some GPU of old": "signal 6"}))
    stepping._works_on_gpu.cache_clear()
    assert stepping_options("auto", "gpu")["stepping"] == "jit"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("notes", ["", "[1]", '{"a": 3}', "{"])
def test_damaged_notes_are_written_anew(notes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_with_cache(tmp_path, monkeypatch, [""])
    (tmp_path / "envpool_in_jit.json").write_text(notes)
    assert stepping_options("auto", "gpu")["stepping"] == "jit"
    assert list(json.loads((tmp_path / "envpool_in_jit.json").read_text()).values()) == [""]


def test_notes_that_cannot_be_written_cost_no_more_than_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = gpu_with_cache(tmp_path / "nowhere" / "else", monkeypatch, ["", ""])
    for _ in range(2):
        stepping._works_on_gpu.cache_clear()
        assert stepping_options("auto", "gpu")["stepping"] == "jit"
    assert len(trials) in (1, 2)


def test_no_process_for_a_trial_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert stepping.probe_in_jit() == "no process for a trial: Cannot allocate memory"
