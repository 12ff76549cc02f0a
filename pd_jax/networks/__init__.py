"""The paper's networks by name, and users' own: torsos and heads, students, and the greedy policies of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.networks.greedy import GreedyPolicy, epsilon_greedy, greedy_actions
    from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork, count_params
    from pd_jax.networks.registry import NETWORK_NAMES, TorsoOptions, make_network, register_network
    from pd_jax.networks.student import Student, make_student

__all__ = [
    "NETWORK_NAMES",
    "GreedyPolicy",
    "MultiGameNetwork",
    "PolicyNetwork",
    "Student",
    "TorsoOptions",
    "count_params",
    "epsilon_greedy",
    "greedy_actions",
    "make_network",
    "make_student",
    "register_network",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greedy": ["GreedyPolicy", "epsilon_greedy", "greedy_actions"],
            "policy": ["MultiGameNetwork", "PolicyNetwork", "count_params"],
            "registry": ["NETWORK_NAMES", "TorsoOptions", "make_network", "register_network"],
            "student": ["Student", "make_student"],
        },
    )
