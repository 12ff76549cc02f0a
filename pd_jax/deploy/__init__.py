"""A finished student at work: as a policy, scored against its teachers, and as files that run without JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.deploy.audit.audit import run_audit
    from pd_jax.deploy.c_file import CPolicy
    from pd_jax.deploy.export import run_export
    from pd_jax.deploy.lineage import Verified, verify_lineage
    from pd_jax.deploy.monitor import Alarm, Monitor
    from pd_jax.deploy.policy import Policy, StudentPolicy, load_student
    from pd_jax.deploy.push import Pushed, run_push
    from pd_jax.deploy.renewal import run_renew
    from pd_jax.deploy.scoring import run_evaluate
    from pd_jax.deploy.stablehlo import StableHloPolicy
    from pd_jax.deploy.student import TrainedStudent, load_trained
    from pd_jax.deploy.thresholds import Thresholds
    from pd_jax.deploy.watching import run_monitor_fit, run_monitor_watch

__all__ = [
    "Alarm",
    "CPolicy",
    "Monitor",
    "Policy",
    "Pushed",
    "StableHloPolicy",
    "StudentPolicy",
    "Thresholds",
    "TrainedStudent",
    "Verified",
    "load_student",
    "load_trained",
    "run_audit",
    "run_evaluate",
    "run_export",
    "run_monitor_fit",
    "run_monitor_watch",
    "run_push",
    "run_renew",
    "verify_lineage",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "audit.audit": ["run_audit"],
            "c_file": ["CPolicy"],
            "export": ["run_export"],
            "lineage": ["Verified", "verify_lineage"],
            "monitor": ["Alarm", "Monitor"],
            "policy": ["Policy", "StudentPolicy", "load_student"],
            "push": ["Pushed", "run_push"],
            "renewal": ["run_renew"],
            "scoring": ["run_evaluate"],
            "stablehlo": ["StableHloPolicy"],
            "student": ["TrainedStudent", "load_trained"],
            "thresholds": ["Thresholds"],
            "watching": ["run_monitor_fit", "run_monitor_watch"],
        },
    )
