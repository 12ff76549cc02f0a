"""Two hosts on one machine: network namespaces with names of their own, joined by a cable that can be pulled."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

_ADDRESSES = ("10.213.57.1", "10.213.57.2")
_HOLD = 'hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up && echo ready && exec cat'


class TwoHosts:
    """Hosts 0 and 1, which share all file systems but ``/etc/hosts``.

    Args:
      processes: those that hold the namespaces open.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    address = _ADDRESSES[0]
    """Of host 0."""

    def start(self, host: int, *argv: str, environment: dict[str, str]) -> subprocess.Popen[str]:
        """``pd-jax ARGV`` on a host; `support.commands.finish` reads its output."""
        command = [*self._enter(host), sys.executable, "-m", "pd_jax", *argv]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def set_cable(self, host: int, state: str) -> None:
        """Pulls the cable at one end (``"down"``), or plugs it in again (``"up"``)."""
        _run(*self._enter(host), "ip", "link", "set", "cable", state)

    def _enter(self, host: int) -> list[str]:
        return ["nsenter", "--target", str(self._processes[host].pid), "--net", "--uts", "--mount", "--"]


@contextlib.contextmanager
def two_hosts(directory: Path, own_address: Sequence[str] = _ADDRESSES) -> Iterator[TwoHosts]:
    """Makes both hosts, and skips the test where this machine cannot, saying why.

    Args:
      directory: for the files ``/etc/hosts``.
      own_address: what the own name of each host, ``pd-host-N``, resolves to on it.
    """
    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        try:
            for host in (0, 1):
                processes.append(_hold_namespaces(stack, directory, host, own_address[host]))
            first, second = (str(process.pid) for process in processes)
            _run(
                "nsenter", "--target", first, "--net", "--",
                "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", second,
            )  # fmt: skip
            for pid, address in zip((first, second), _ADDRESSES, strict=True):
                enter = ("nsenter", "--target", pid, "--net", "--")
                _run(*enter, "ip", "address", "add", f"{address}/24", "dev", "cable")
                _run(*enter, "ip", "link", "set", "cable", "up")
        except (OSError, RuntimeError) as error:
            pytest.skip(f"this machine cannot make network namespaces: {error}")
        yield TwoHosts(processes)


def _hold_namespaces(
    stack: contextlib.ExitStack, directory: Path, host: int, own_address: str
) -> subprocess.Popen[str]:
    names = directory / f"hosts-{host}"
    lines = ["127.0.0.1 localhost", f"{own_address} pd-host-{host}", f"{_ADDRESSES[1 - host]} pd-host-{1 - host}"]
    names.write_text("\n".join(lines) + "\n")
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        ["unshare", "--net", "--uts", "--mount", "sh", "-c", _HOLD, "sh", f"pd-host-{host}", str(names)],
        text=True,
        **pipes,
    )
    # It ends, and its namespaces with it, when nothing can come any more.
    stack.callback(process.communicate)
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(process.stderr.read().strip())
    return process


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr.strip())
