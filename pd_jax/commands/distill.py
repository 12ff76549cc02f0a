"""``pd-jax distill``: distils teachers into a student."""

from __future__ import annotations

from pd_jax.config.distill import DistillConfig
from pd_jax.distill.session import distill
from pd_jax.report.terminal import print_distillation
from pd_jax.system import hosts


def run(config: DistillConfig) -> None:
    """Distils, and prints the scores; of several processes process 0 does."""
    summary = distill(config)
    if hosts.is_primary():
        print_distillation(summary, config.out)
