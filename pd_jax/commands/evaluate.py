"""``pd-jax evaluate``: scores a teacher, a run's student, or one against the other."""

from __future__ import annotations

from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.deploy.scoring import run_evaluate
from pd_jax.report.terminal import print_evaluation


def run(config: EvaluateConfig) -> None:
    """Plays, and prints the scores."""
    print_evaluation(run_evaluate(config))
