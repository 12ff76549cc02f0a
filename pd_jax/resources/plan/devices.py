"""Kinds of devices, and topologies of them: what is known of either without having one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pd_jax.config.yaml import read_yaml
from pd_jax.errors import UserError, nearest
from pd_jax.system.text import printable, show

HERE = "here"
"""The topology of the devices that there are."""
_TPU_SHAPES = {"v5e": "2x4, 4x8 or 16x16", "v5p": "2x2x1 or 4x4x4", "v6e": "2x4, 4x4 or 16x16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CudaTarget:
    """What XLA's compiler is told of a card.

    Attributes:
      name: the card's.
      compute_capability: such as ``"9.0"``.
      cores: streaming multiprocessors.
      clock_ghz: their clock.
      l2_bytes: of the second cache.
      shared_memory_per_core, shared_memory_per_block: bytes; the latter with the program's consent.
    """

    name: str
    compute_capability: str
    cores: int
    clock_ghz: float
    l2_bytes: int
    shared_memory_per_core: int
    shared_memory_per_block: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """A kind of device; the fields are those of ``devices.yaml``, which says what they are.

    Attributes:
      name: such as ``v5e``.
    """

    name: str
    compiler: str
    shape_axes: int
    memory_bytes: int
    memory_bandwidth: float
    peak_flops: float
    link_bandwidth: float
    devices_per_host: int
    host_cores: int
    sources: tuple[str, ...]
    machine_link_bandwidth: float | None = None
    single_host_devices: int | None = None
    single_host_cores: int | None = None
    target: CudaTarget | None = None


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind, as they are linked.

    Attributes:
      kind: theirs; None for the devices that there are.
      shape: such as ``(4, 8)``.
    """

    kind: DeviceKind | None
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Devices."""
        return math.prod(self.shape)

    @property
    def num_hosts(self) -> int:
        """Machines that they are in."""
        if self.kind is None or self.size <= (self.kind.single_host_devices or 0):
            return 1
        return math.ceil(self.size / self.kind.devices_per_host)

    @property
    def cores_per_host(self) -> int | None:
        """Virtual cores of a machine; None if unknown."""
        if self.kind is None:
            return None
        return (self.num_hosts == 1 and self.kind.single_host_cores) or self.kind.host_cores

    @property
    def link_bandwidth(self) -> float | None:
        """Bytes a second that a device sends over the slowest link that an all-reduce takes; None if unknown."""
        if self.kind is None:
            return None
        return (self.num_hosts > 1 and self.kind.machine_link_bandwidth) or self.kind.link_bandwidth

    @property
    def name(self) -> str:
        """As on the command line."""
        return HERE if self.kind is None else f"{self.kind.name}:{'x'.join(map(str, self.shape))}"


def read_kinds(path: str | Path | None = None) -> dict[str, DeviceKind]:
    """The kinds of devices that are known, by name.

    Args:
      path: of a file to read instead of our own.

    Raises:
      UserError: the file cannot be read, or a kind lacks a field, has an unknown one, or one of the wrong type.
    """
    if path is not None:
        where = printable(str(path))
        return _parse_kinds(read_yaml(path), where)
    with resources.as_file(resources.files(__package__) / "devices.yaml") as own:
        return _parse_kinds(read_yaml(own), "devices.yaml")


def parse_topology(text: str, kinds: Mapping[str, DeviceKind]) -> Topology:
    """Reads ``v5e:4x8``, ``h100:8`` or ``here``.

    Raises:
      UserError: there is no such kind, or the shape is none of its.
    """
    name, _, shape_text = text.partition(":")
    if name == HERE:
        if text != HERE:
            raise UserError(f"topology: here is all devices that there are, and has no shape, not {show(text)}")
        return Topology(None, ())
    if name not in kinds:
        known = (*kinds, HERE)
        raise UserError(f"topology: {show(name)} is not a device{nearest(name[:60], known)} ({', '.join(known)})")
    kind = kinds[name]
    wanted = _TPU_SHAPES.get(name, "x".join("2" * kind.shape_axes)) if kind.compiler == "tpu" else "1, 4 or 8"
    if not shape_text:
        raise UserError(f"topology: {show(text)} has no shape; {name}: and then {wanted}")
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){0,3}", shape_text):
        raise UserError(f"topology: {show(shape_text)} is no shape of {name}, such as {wanted}")
    shape = tuple(map(int, shape_text.split("x")))
    if len(shape) != kind.shape_axes:
        axes = "one number" if kind.shape_axes == 1 else f"{kind.shape_axes} numbers with x between them"
        raise UserError(f"topology: the shape of {name} is {axes}, such as {wanted}, not {show(shape_text)}")
    return Topology(kind, shape)


def _parse_kinds(content: Mapping[Any, Any], where: str) -> dict[str, DeviceKind]:
    kinds = {}
    for name, fields in content.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
            raise UserError(f"{where}: {show(name)} is not a device's name: letters, digits, - and _")
        if isinstance(fields, dict) and isinstance(fields.get("sources"), list):
            fields = fields | {"sources": tuple(fields["sources"])}
        kind: DeviceKind = _parse(DeviceKind, fields, f"{where}: {name}", {"name": name})
        if kind.compiler not in ("tpu", "cuda"):
            raise UserError(f"{where}: {name}.compiler: {show(kind.compiler)} is not a compiler (tpu, cuda)")
        if not kind.sources:
            raise UserError(f"{where}: {name}.sources: is empty; say where the numbers are from")
        if kind.compiler == "cuda" and kind.target is None:
            raise UserError(f"{where}: {name}.target is missing")
        if kind.target is not None and not re.fullmatch(r"\d{1,2}\.\d", kind.target.compute_capability):
            shown = show(kind.target.compute_capability)
            raise UserError(f"{where}: {name}.target.compute_capability: {shown} is not such as '9.0'")
        if kind.target is not None and re.search(r'["\\]', kind.target.name):
            raise UserError(f"{where}: {name}.target.name: {show(kind.target.name)} has a quotation mark or backslash")
        kinds[name] = kind
    return kinds


def _parse(of: Any, fields: Any, where: str, given: Mapping[str, Any] | None = None) -> Any:
    if not isinstance(fields, dict):
        raise UserError(f"{where}: {show(fields)} is not a mapping of fields")
    known = {field.name: field for field in dataclasses.fields(of) if field.name not in (given or {})}
    values = dict(given or {})
    for key, value in fields.items():
        if key not in known:
            raise UserError(f"{where}: {show(key)} is not a field{nearest(str(key)[:60], known)} ({', '.join(known)})")
        values[key] = _checked(str(known[key].type), value, f"{where}.{key}")
    for key, field in known.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise UserError(f"{where}.{key} is missing")
    return of(**values)


def _checked(wanted: str, value: Any, where: str) -> Any:
    if wanted.startswith("CudaTarget"):
        return _parse(CudaTarget, value, where)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = wanted.removesuffix(" | None")
    if wanted == "int" and isinstance(value, int) and is_number and 0 < value < 2**63:
        return value
    if wanted == "float" and is_number and 0 < value < 1e30:
        return float(value)
    if wanted == "str" and isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200:
        return value
    if wanted.startswith("tuple") and isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return value
    kinds = {"int": "a whole number above 0", "float": "a number above 0", "str": "a short text"}
    raise UserError(f"{where}: {show(value)} is not {kinds.get(wanted, 'a list of texts')}")
