"""What seeds and games say together: interquartile means and their like, and which design is likely the better one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from pd_jax.environments.tasks import TASKS
from pd_jax.evaluation.aggregates import (
    Aggregate,
    interquartile_mean,
    mean_of_runs,
    median_of_games,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from pd_jax.report.groups import Cell, Design, Section
from pd_jax.report.statistics import Percent

Reference = Literal["teacher", "human"]
_REFERENCES: tuple[Reference, ...] = ("teacher", "human")
_LEAST_SEEDS = 2
_LEAST_RUNS = 4
_STEP = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Aggregates:
    """A design's runs of all its games, each as a share of what the reference has above random play.

    Attributes:
      design: of the students.
      games: by name, in the order of the columns of ``scores``.
      reference: whose score is 100 %.
      scores: ``[seeds, games]``, 1 is the reference's.
      iqm, median, mean, optimality_gap: in percent, with intervals of a bootstrap that is stratified by games.
    """

    design: Design
    games: tuple[str, ...]
    reference: Reference
    scores: np.ndarray
    iqm: Percent
    median: Percent
    mean: Percent
    optimality_gap: Percent

    @property
    def seeds(self) -> int:
        """That every game has."""
        return len(self.scores)

    def profile(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Thresholds ``[T]`` in percent, the share of runs above each, and the ends of its interval."""
        highest = max(float(self.scores.max()), 1.0)
        thresholds = np.arange(0.0, highest + 2 * _STEP, _STEP)
        ends = stratified_bootstrap(lambda scores: performance_profile(scores, thresholds), self.scores, resamples=500)
        return 100 * thresholds, performance_profile(self.scores, thresholds), ends


@dataclasses.dataclass(frozen=True)
class Improvement:
    """How likely a run of one design is better than a run of another in one of the games that both have.

    Attributes:
      design, other: the two.
      games: that both have.
      probability: in percent; an even chance is 50.
    """

    design: Design
    other: Design
    games: tuple[str, ...]
    probability: Percent


def aggregates_of(section: Section) -> tuple[Aggregates, ...]:
    """Of each design that has several seeds in all of its games: against its teachers, and against humans."""
    found = []
    for mean in section.means:
        for reference in _REFERENCES:
            scores = _scores(mean.cells, reference)
            if mean.problem is None and scores is not None:
                games = tuple(cell.game for cell in mean.cells)
                values = (
                    _percent(of, scores) for of in (interquartile_mean, median_of_games, mean_of_runs, optimality_gap)
                )
                found.append(Aggregates(mean.design, games, reference, scores, *values))
    return tuple(found)


def improvements_of(section: Section) -> tuple[Improvement, ...]:
    """Of each pair of designs with several seeds, in the games that both have."""
    found = []
    for ours, theirs in itertools.combinations(section.means, 2):
        shared = {cell.game for cell in ours.cells} & {cell.game for cell in theirs.cells}
        cells = [[cell for cell in mean.cells if cell.game in shared] for mean in (ours, theirs)]
        x, y = (_scores(sorted(own, key=lambda cell: cell.game), "teacher") for own in cells)
        if ours.problem is None and theirs.problem is None and x is not None and y is not None:
            probability = _percent(probability_of_improvement, x, y)
            found.append(Improvement(ours.design, theirs.design, tuple(sorted(shared)), probability))
    return tuple(found)


def _scores(cells: Sequence[Cell], reference: Reference) -> np.ndarray | None:
    """``[seeds, games]``, of the seeds that every game has; None where there are too few, or no reference."""
    columns = [_column(cell, reference) for cell in cells]
    if not columns or any(column is None for column in columns):
        return None
    known = [column for column in columns if column is not None]
    seeds = sorted(set.intersection(*(set(column) for column in known)), key=str)
    if len(seeds) < _LEAST_SEEDS or len(seeds) * len(known) < _LEAST_RUNS:
        return None
    return np.array([[column[seed] for column in known] for seed in seeds])


def _column(cell: Cell, reference: Reference) -> dict[int | str, float] | None:
    """By seed, the share of what the reference has above random play."""
    best = cell.teacher.mean if cell.teacher is not None else None
    if reference == "human":
        best = TASKS[cell.game].human_score if cell.game in TASKS else None
    random = cell.random_score
    if best is None or random is None or best <= random:
        return None
    return {
        result.seed: (result.student.mean - random) / (best - random)
        for result in cell.results
        if result.student is not None
    }


def _percent(aggregate: Aggregate | Callable[..., np.ndarray], *scores: np.ndarray) -> Percent:
    low, high = stratified_bootstrap(aggregate, *scores)
    return Percent(100 * float(aggregate(*scores)), 100 * float(low), 100 * float(high))
