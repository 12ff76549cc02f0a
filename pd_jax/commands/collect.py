"""``pd-jax collect``: records a teacher's play."""

from __future__ import annotations

from pd_jax.config.collect import CollectConfig
from pd_jax.distill.collect import collect


def run(config: CollectConfig) -> None:
    """Records, and prints how much there is."""
    header = collect(config)
    print(f"{config.out}: {header.steps * header.num_lanes:,} steps of {header.task}")
