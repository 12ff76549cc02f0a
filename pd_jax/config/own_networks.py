"""The user's own networks, as settings name them; `pd_jax.networks.registry.register_network` adds to them."""

from __future__ import annotations

from typing import Any

registered: dict[str, Any] = {}
"""What builds the torso, by the network's name."""


def own_networks() -> tuple[str, ...]:
    """The names, in the order in which they were registered first."""
    return tuple(registered)
