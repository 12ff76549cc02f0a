"""Where hosts reach one another: what a name that leads nowhere does to whom."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pd_jax.system import addresses
from pd_jax.system.addresses import Place, fault_in_ring, own_address


@pytest.mark.parametrize(
    ("own", "outward", "at_fault"),
    [
        # One machine, whatever its name resolves to.
        (["127.0.1.1", "127.0.1.1"], ["127.0.0.1", "127.0.0.1"], None),
        (["127.0.1.1", "127.0.1.1"], ["10.0.0.1", "10.0.0.1"], None),
        # Two, as Debian sets them up, and as they should be.
        (["127.0.1.1", "127.0.1.1"], ["10.0.0.1", "10.0.0.2"], 0),
        (["10.0.0.1", "10.0.0.2"], ["10.0.0.1", "10.0.0.2"], None),
        # Seen with Gloo of jaxlib 0.10.2 between two network namespaces: the higher address calls the lower one.
        (["192.168.0.1", "127.0.1.1"], ["192.168.0.1", "192.168.0.2"], 1),
        (["127.0.1.1", "192.168.0.2"], ["192.168.0.1", "192.168.0.2"], 0),
        (["10.0.0.1", "127.0.1.1"], ["10.0.0.1", "10.0.0.2"], None),
        (["127.0.1.1", "10.0.0.2"], ["127.0.0.1", "10.0.0.2"], None),
        # Two processes on each of two machines.
        (["10.0.0.1"] * 2 + ["127.0.1.1"] * 2, ["10.0.0.1"] * 2 + ["10.0.0.2"] * 2, None),
        (["172.16.0.1"] * 2 + ["127.0.1.1"] * 2, ["172.16.0.1"] * 2 + ["172.16.0.2"] * 2, 2),
        (["fd00::1", "::1"], ["fd00::1", "fd00::2"], 1),
    ],
)
def test_whose_name_keeps_cpus_from_one_another(own: list[str], outward: list[str], at_fault: int | None) -> None:
    places = [Place(f"host-{place[1]}", *place) for place in zip(own, outward, strict=True)]
    fault = fault_in_ring([Place.from_json(place.to_json()) for place in places])
    assert (fault and fault[0]) == at_fault
    if fault is not None:
        place = places[fault[0]]
        assert f"on {place.name} its own name resolves to {place.own}, where no other host can reach it" in fault[1]
        assert fault[1].endswith(f"in /etc/hosts there, give the name {place.name} the address {place.outward}")


def test_no_address_is_advised_that_would_be_as_bad() -> None:
    places = [Place("host-0", "127.0.1.1", "127.0.0.1"), Place("host-1", "192.168.0.2", "192.168.0.2")]
    fault = fault_in_ring(places)
    assert fault is not None and fault[1].endswith("give the name host-0 the address by which other hosts reach it")


def test_a_names_address_is_the_first_that_can_be_listened_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address("localhost") in ("127.0.0.1", "::1")
    # 192.0.2.0/24 is for documents, and no machine has an address of it (RFC 5737).
    found: list[Any] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in ("192.0.2.1", "127.0.0.3")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert own_address("host") == "127.0.0.3"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:1])
    assert own_address("host") == ""


def test_a_name_that_nobody_knows_has_no_address() -> None:
    assert own_address("no-such-host.invalid") == ""
    assert addresses.Place.here("no-such-host.invalid:1").outward == ""
    assert addresses.Place.here("localhost").outward == ""
    assert addresses.Place.here("localhost:1").outward in ("127.0.0.1", "::1")
