"""JAX looks for accelerators where there may be one, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pd_jax.system import accelerators
from pd_jax.system.accelerators import is_there, spare_the_search


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One without accelerators, with JAX's plugins for them, in a process that has not imported JAX yet."""
    monkeypatch.setattr(accelerators, "GPU_FILES", (str(tmp_path / "nvidia[0-9]*"),))
    monkeypatch.setattr(accelerators, "TPU_FILES", (str(tmp_path / "accel*"),))
    monkeypatch.setattr(accelerators, "_PLUGINS", ("json",))
    monkeypatch.setattr(accelerators.sys, "modules", {name: it for name, it in sys.modules.items() if name != "jax"})
    for name in accelerators._CHOSEN_BY:
        # Set first: what the code sets is taken back at the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def test_where_there_is_none_jax_is_told_to_look_for_none(machine: Path) -> None:
    spare_the_search()
    assert os.environ["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("file", ["nvidia0", "accel3"])
def test_where_there_is_one_jax_looks_for_it(machine: Path, file: str) -> None:
    assert not is_there(accelerators.GPU_FILES) and not is_there(accelerators.TPU_FILES)
    (machine / file).touch()
    spare_the_search()
    assert "JAX_PLATFORMS" not in os.environ


@pytest.mark.parametrize(("name", "value"), [("JAX_PLATFORMS", "cuda,cpu"), ("TPU_LIBRARY_PATH", "/opt/libtpu.so")])
def test_what_somebody_has_chosen_stays(machine: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    spare_the_search()
    assert os.environ.get("JAX_PLATFORMS", "unset") == (value if name == "JAX_PLATFORMS" else "unset")


def test_without_plugins_there_is_nothing_to_spare(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "_PLUGINS", ("no_such_plugin",))
    spare_the_search()
    assert "JAX_PLATFORMS" not in os.environ
