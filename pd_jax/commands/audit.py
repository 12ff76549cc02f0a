"""``pd-jax audit``: finds out what a student has inherited from its teacher, and what it has not."""

from __future__ import annotations

from pathlib import Path

from pd_jax.config.audit import AuditConfig
from pd_jax.deploy.audit.audit import run_audit
from pd_jax.report.audits import print_audit


def run(config: AuditConfig) -> None:
    """Audits, and prints what stands out."""
    print_audit(run_audit(config), str(Path(config.out)))
