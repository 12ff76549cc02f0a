"""Topologies and files of devices: what is known of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.loading import from_mapping
from pd_jax.config.plan import PlanConfig
from pd_jax.config.sections import EnvConfig
from pd_jax.errors import UserError
from pd_jax.resources.plan.devices import DeviceKind, parse_topology, read_kinds
from pd_jax.resources.plan.plan import _steps_in_jit, make_plan

KINDS = read_kinds()


def test_what_we_know_of_devices_is_complete_and_in_proportion() -> None:
    assert set(KINDS) == {"v5e", "v5p", "v6e", "h100", "h200", "a100"}
    for kind in KINDS.values():
        assert kind.sources and all(source.startswith("https://") for source in kind.sources)
        # A word of arithmetic costs far more memory traffic than arithmetic: else a digit is missing.
        assert 50 < kind.peak_flops / kind.memory_bandwidth < 1000
        assert 1 < kind.memory_bandwidth / kind.link_bandwidth < 20
        assert 5 < kind.memory_bytes / 1e9 < 200


@pytest.mark.parametrize(
    ("text", "size", "hosts"),
    [
        ("v5e:2x4", 8, 1),
        ("v5e:4x8", 32, 8),
        ("v5e:16x16", 256, 64),
        ("v5p:4x4x4", 64, 16),
        ("h100:8", 8, 1),
        ("a100:16", 16, 2),
    ],
)
def test_a_topology_says_how_many_devices_and_hosts_there_are(text: str, size: int, hosts: int) -> None:
    topology = parse_topology(text, KINDS)
    assert (topology.size, topology.num_hosts, topology.name) == (size, hosts, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5:2x4", "topology: 'v5' is not a device; did you mean 'v5"),
        ("", "topology: '' is not a device"),
        ("b200:8", "is not a device"),
        ("v5e", "topology: 'v5e' has no shape; v5e: and then 2x4, 4x8 or 16x16"),
        ("v5e:", "has no shape"),
        ("v5e:0x4", "topology: '0x4' is no shape of v5e, such as 2x4"),
        ("v5e:2x-4", "is no shape of v5e"),
        ("v5e:8", "topology: the shape of v5e is 2 numbers with x between them, such as 2x4"),
        ("v5p:2x4", "the shape of v5p is 3 numbers"),
        ("h100:2x4", "topology: the shape of h100 is one number, such as 1, 4 or 8, not '2x4'"),
    ],
)
def test_other_topologies_are_refused_with_what_is_known(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_topology(text, KINDS)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("stepping", "topology", "envpool"),
    [("auto", "here", True), ("auto", "h100:8", True), ("jit", "h100:8", True), ("host", "here", False),
     ("host", "h100:8", False), ("auto", "v5e:2x4", False)],
)  # fmt: skip
def test_what_is_planned_for_ale_py_is_never_stepped_in_jit(stepping: Any, topology: str, envpool: bool) -> None:
    devices = parse_topology(topology, KINDS)
    assert _steps_in_jit(EnvConfig(stepping=stepping), devices) == envpool
    if stepping != "jit":
        assert not _steps_in_jit(EnvConfig(stepping=stepping, backend="ale"), devices)
    settings: dict[str, Any] = {"topology": topology, "game": ["pong"], "env": {"backend": "ale", "stepping": "jit"}}
    with pytest.raises(UserError, match=r"env.stepping: 'jit', and env.backend is 'ale'"):
        make_plan(from_mapping(PlanConfig, settings))


SOUND = """\
mine:
  compiler: tpu
  shape_axes: 2
  memory_bytes: 16_000_000_000
  memory_bandwidth: 8.0e11
  peak_flops: 2.0e14
  link_bandwidth: 2.0e11
  devices_per_host: 4
  host_cores: 100
  sources: [a data sheet]
"""


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(SOUND)
    (kind,) = read_kinds(path).values()
    assert isinstance(kind, DeviceKind) and (kind.name, kind.memory_bandwidth) == ("mine", 8e11)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes", "memory_byte", "mine: 'memory_byte' is not a field; did you mean 'memory_bytes'?"),
        ("  host_cores: 100\n", "", "mine.host_cores is missing"),
        ("host_cores: 100", "host_cores: many", "mine.host_cores: 'many' is not a whole number above 0"),
        ("host_cores: 100", "host_cores: 0", "mine.host_cores: 0 is not a whole number above 0"),
        ("peak_flops: 2.0e14", "peak_flops: .inf", "mine.peak_flops: inf is not a number above 0"),
        ("[a data sheet]", "a data sheet", "mine.sources: 'a data sheet' is not a list of texts"),
        ("compiler: tpu", "compiler: gcc", "mine.compiler: 'gcc' is not a compiler (tpu, cuda)"),
        ("compiler: tpu", "compiler: cuda", "mine.target is missing"),
        ("mine:", "'my device':", "'my device' is not a device's name"),
        (SOUND, "mine: 3\n", "mine: 3 is not a mapping of fields"),
        (SOUND, "[1, 2]\n", "not a mapping of settings"),
    ],
)
def test_a_file_with_a_fault_is_refused_in_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    assert old in SOUND
    path.write_text(SOUND.replace(old, new))
    with pytest.raises(UserError) as raised:
        read_kinds(path)
    assert str(path) in str(raised.value) and message in str(raised.value)
    assert "\n" not in str(raised.value)
