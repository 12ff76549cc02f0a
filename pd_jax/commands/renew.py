"""``pd-jax renew``: distils an exported student anew, and replaces its export if the new one is not worse."""

from __future__ import annotations

from pd_jax.config.renew import RenewConfig
from pd_jax.deploy.renewal import run_renew
from pd_jax.report.renewals import print_renewal

KEPT = 3
"""The exit code where the champion stays."""


def run(config: RenewConfig) -> int:
    """Renews, and prints both scores and the decision."""
    report = run_renew(config)
    print_renewal(report, config.export)
    return 0 if report["replaced"] else KEPT
