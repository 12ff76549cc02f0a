"""``pd-jax export``: writes a policy as files that run without JAX, and proves that they are it."""

from __future__ import annotations

from pathlib import Path

from pd_jax.config.export import ExportConfig
from pd_jax.deploy.export import run_export
from pd_jax.report.exports import print_export


def run(config: ExportConfig) -> None:
    """Exports, and prints what each file has stood."""
    print_export(run_export(config), str(Path(config.out)))
