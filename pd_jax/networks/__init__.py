"""The paper's networks by name, readable first: torsos and heads, and how a CPU takes large batches through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork, count_params
    from pd_jax.networks.registry import NETWORK_NAMES, make_network
    from pd_jax.networks.student import Student, make_student

__all__ = [
    "NETWORK_NAMES",
    "MultiGameNetwork",
    "PolicyNetwork",
    "Student",
    "count_params",
    "make_network",
    "make_student",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "policy": ["MultiGameNetwork", "PolicyNetwork", "count_params"],
        "registry": ["NETWORK_NAMES", "make_network"],
        "student": ["Student", "make_student"],
    },
)
