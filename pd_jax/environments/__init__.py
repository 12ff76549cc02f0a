"""Tasks, and EnvPool behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.environments.envpool import Environment, TimeStep
    from pd_jax.environments.tasks import Task, get_task

__all__ = [
    "Environment",
    "Task",
    "TimeStep",
    "get_task",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "envpool": ["Environment", "TimeStep"],
        "tasks": ["Task", "get_task"],
    },
)
