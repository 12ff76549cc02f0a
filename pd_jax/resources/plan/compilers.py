"""The compilers of devices that are not there: libtpu, and XLA's for CUDA, from the packages that JAX asks for.

Neither needs a device, a driver or a network. libtpu would ask a metadata server what machine it is on; it is told not
to.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
from jax.experimental import topologies

from pd_jax.errors import UserError
from pd_jax.resources.plan.devices import CudaTarget, DeviceKind, Topology
from pd_jax.system.devices import DeviceGroup

# libtpu looks at these before anything else, and at the network for what they do not say.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    # One process at a time may have the devices; here there are none.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Of a GPU's memory, taken at the start of a process.
_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_TARGET = """gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {target.shared_memory_per_core}
  threads_per_core_limit: 2048
  core_count: {target.cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {target.l2_bytes}
  clock_rate_ghz: {target.clock_ghz}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {target.shared_memory_per_block}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
device_description_str: "{target.name}"
"""


def prepare_environment() -> None:
    """Tells the compilers, before JAX is asked for anything, that there is no device and nothing to ask the network."""
    for name, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compiles without JAX's cache: it keeps programs for devices that are not there, and cannot read them back."""
    config: Any = jax.config
    before = config.jax_enable_compilation_cache
    config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        config.update("jax_enable_compilation_cache", before)


def memory_of(kind: DeviceKind) -> int:
    """Bytes of a device that JAX uses: three quarters of a GPU's, unless its own variable says another share.

    Raises:
      UserError: the variable's value is no share.
    """
    if kind.compiler != "cuda":
        return kind.memory_bytes
    share = os.environ.get(_SHARE, "0.75")
    try:
        if not 0 < float(share) <= 1:
            raise ValueError
    except ValueError:
        raise UserError(f"{_SHARE}: {share!r} is not a number above 0, and 1 at the most") from None
    return int(kind.memory_bytes * float(share))


def devices_of(topology: Topology) -> DeviceGroup:
    """The devices of a topology, for which programs can be compiled; those that there are for ``here``.

    Raises:
      UserError: the compiler is not installed, not of the version that JAX asks for, or knows no such topology.
    """
    kind = topology.kind
    if kind is None:
        return DeviceGroup.local()
    described = _describe_tpu(topology) if kind.compiler == "tpu" else _describe_cuda(topology)
    return DeviceGroup(tuple(described.devices))


def _describe_tpu(topology: Topology) -> Any:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"topology: {topology.name} needs libtpu; pip install 'pd-jax[plan-tpu]'")
    wanted, found = libtpu_wanted(), metadata.version("libtpu")
    if wanted is not None and not found.startswith(wanted):
        raise UserError(f"topology: libtpu is {found}, and JAX {jax.__version__} asks for {wanted}*; install that one")
    prepare_environment()
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
    except Exception as error:
        raise UserError(f"topology: libtpu knows no {topology.name} ({_first_line(error)})") from None


def _describe_cuda(topology: Topology) -> Any:
    plugins = [f"jax_plugins.xla_cuda{version}" for version in (13, 12)]
    if importlib.util.find_spec("jax_plugins") is None or not any(map(importlib.util.find_spec, plugins)):
        raise UserError(f"topology: {topology.name} needs XLA's compiler for CUDA; pip install 'pd-jax[plan-cuda]'")
    assert topology.kind is not None and topology.kind.target is not None
    try:
        return topologies.get_topology_desc(
            topology_name=topology.name,
            platform="cuda",
            target_config=target_text(topology.kind.target, topology.kind.memory_bandwidth, topology.kind.memory_bytes),
            topology=f"1x1x{topology.size}",
        )
    except Exception as error:
        raise UserError(f"topology: XLA's compiler for CUDA knows no {topology.name} ({_first_line(error)})") from None


def target_text(target: CudaTarget, memory_bandwidth: float, memory_bytes: int) -> str:
    """What XLA reads of a card that is not there: a protocol buffer's text."""
    major, _, minor = target.compute_capability.partition(".")
    # A100's multiprocessors have 64 units for float32, later ones 128.
    fpus = 64 if major == "8" and minor == "0" else 128
    return _TARGET.format(
        target=target, major=major, minor=minor or "0", fpus=fpus, bandwidth=memory_bandwidth, memory=memory_bytes
    )


def libtpu_wanted() -> str | None:
    """The beginning of the versions of libtpu that JAX was made for, such as ``0.0.42.``; None if it names none."""
    for requirement in metadata.requires("jax") or ():
        match = re.match(r"libtpu\s*==\s*([\d.]+)\*?\s*;", requirement)
        if match:
            return match.group(1)
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
