"""Where the processes of a run reach one another.

CPUs of several hosts exchange their gradients through Gloo, which listens at whatever address a host's own name
resolves to. Debian's installer has it resolve to 127.0.1.1, where nobody else can come.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import socket
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Place:
    """What a process finds out of its host.

    Attributes:
      name: of the host.
      own: the address that this name resolves to there; ``""`` if it resolves to none.
      outward: the host's address on the way to process 0; ``""`` if there is no way.
    """

    name: str
    own: str
    outward: str

    @classmethod
    def here(cls, coordinator: str) -> Place:
        """This process's.

        Args:
          coordinator: ``HOST:PORT`` of process 0.
        """
        name = socket.gethostname()
        return cls(name, own_address(name), _outward_address(coordinator))

    def to_json(self) -> str:
        """For another process's :meth:`from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Place:
        """Reads what another process of this run has written."""
        return cls(**json.loads(text))

    @property
    def is_hidden(self) -> bool:
        """Whether its own name resolves to where only its own host can come."""
        return bool(self.own) and ipaddress.ip_address(self.own).is_loopback


def own_address(name: str) -> str:
    """The first address of a host's name that something can listen at; ``""`` if there is none."""
    for family, kind, protocol, _, address in _looked_up(name, 0, socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
        return str(address[0]).partition("%")[0]
    return ""


def advice(name: str, address: str = "") -> str:
    """What to do for others to reach a host by its name.

    Args:
      name: of the host.
      address: by which others are likely to reach it, if it is known.
    """
    known = address and not ipaddress.ip_address(address).is_loopback
    wanted = f"the address {address}" if known else "the address by which other hosts reach it"
    return f"in /etc/hosts there, give the name {name} {wanted}"


def fault_in_ring(places: Sequence[Place]) -> tuple[int, str] | None:
    """What keeps the CPUs of these processes from one another, if anything: whose fault it is, and what to do.

    Of two processes the one whose address is the higher one calls the other. So a host that calls all others need not
    be reached.

    Args:
      places: by process.
    """
    for process, place in enumerate(places):
        if place.is_hidden and any(_calls(other, place) for other in places if other.outward != place.outward):
            found = f"on {place.name} its own name resolves to {place.own}, where no other host can reach it"
            return process, f"hosts: {found}: {advice(place.name, place.outward)}"
    return None


def _calls(one: Place, other: Place) -> bool:
    addresses = [ipaddress.ip_address(place.own or "0.0.0.0") for place in (one, other)]
    versions = [address.version for address in addresses]
    # With equal ones the port decides, and both are wrong.
    return versions[0] != versions[1] or addresses[0].packed >= addresses[1].packed


def _outward_address(coordinator: str) -> str:
    host, _, port = coordinator.rpartition(":")
    if not port.isdigit():
        return ""
    for family, kind, protocol, _, address in _looked_up(host.strip("[]"), int(port), socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as probe:
            try:
                # Of a datagram socket this sends nothing.
                probe.connect(address)
            except OSError:
                continue
            return str(probe.getsockname()[0]).partition("%")[0]
    return ""


def _looked_up(name: str, port: int, kind: socket.SocketKind) -> Sequence[Any]:
    try:
        return socket.getaddrinfo(name, port, type=kind)
    except OSError:
        return ()
