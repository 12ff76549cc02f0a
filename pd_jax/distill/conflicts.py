"""Games that pull against each other: when a run measures it, and what is told of it.

A measurement is a line of ``metrics.jsonl`` of its own: ``gradient_cosine/LAYER/GAME,GAME`` for every two games, and
``gradient_norm/LAYER/GAME``. So trackers and TensorBoard have it too, and a run that is resumed drops what came after
its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import LearnerConfig
from pd_jax.report.conflicts import COSINE, NORM, read_conflicts
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import read_metrics
from pd_jax.system.progress import warn_if_unwritable


def is_due(config: DistillConfig, before: int, updates: int) -> bool:
    """Whether a measurement is due after a call of updates: with the first call that reaches a multiple.

    Args:
      config: of the run.
      before, updates: done before the call, and after it.
    """
    every = config.learner.gradient_cosines_every
    return config.num_games > 1 and every > 0 and updates // every > before // every


def cosine_values(names: Sequence[str], found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """A measurement as metrics.

    Args:
      names: the games'.
      found: as `pd_jax.learner.learner.Learner.gradient_cosines` gives it.
    """
    values: dict[str, float | None] = {}
    for layer, (cosines, norms) in found.items():
        for place, name in enumerate(names):
            values[f"{NORM}/{layer}/{name}"] = float(norms[place])
            for other in range(place + 1, len(names)):
                values[f"{COSINE}/{layer}/{name},{names[other]}"] = float(cosines[place, other])
    return values


def balance_settings(learner: LearnerConfig, num_games: int) -> dict[str, Any]:
    """What a summary says of the weights between games: nothing where all count the same."""
    if num_games == 1 or learner.games == "alternating":
        return {}
    weights = {} if learner.game_weights is None else {"game_weights": learner.game_weights}
    return weights | ({} if learner.balance == "none" else {"balance": learner.balance})


def draw_cosines(run: RunDirectory) -> None:
    """Writes the picture of what was measured, if anything was; a full disk is a warning."""
    conflicts = read_conflicts(read_metrics(run.metrics_path))
    if conflicts is None:
        return
    # Matplotlib takes 30 MB, which a run need not have beside its replay.
    from pd_jax.report.conflict_figure import plot_conflicts

    with warn_if_unwritable(run.cosines_path):
        plot_conflicts(conflicts, run.cosines_path)
