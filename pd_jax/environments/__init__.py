"""Tasks (what there is to play), and EnvPool behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.environments.envpool import Environment, EpisodeStatistics, TimeStep
    from pd_jax.environments.registered import register_gymnasium, register_jax
    from pd_jax.environments.tasks import PAPER_GAMES, TASKS, Task, get_task

__all__ = [
    "PAPER_GAMES",
    "TASKS",
    "Environment",
    "EpisodeStatistics",
    "Task",
    "TimeStep",
    "get_task",
    "register_gymnasium",
    "register_jax",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "envpool": ["Environment", "EpisodeStatistics", "TimeStep"],
            "registered": ["register_gymnasium", "register_jax"],
            "tasks": ["PAPER_GAMES", "TASKS", "Task", "get_task"],
        },
    )
