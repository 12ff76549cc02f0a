"""What tells better weights from worse ones: a score, or, of several games, one number for the scores of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pd_jax.environments.tasks import Task
from pd_jax.evaluation.scores import Score
from pd_jax.teachers.catalogue import bundled_files, find


@dataclasses.dataclass(frozen=True)
class Reference:
    """A score that a game's scores are compared with: ``human``, or that of a bundled teacher, such as ``acrobot``."""

    name: str
    score: float


def reference_of(task: Task) -> Reference | None:
    """A human's score where there is one, else the bundled teacher's.

    None where there is neither, or where the score of random play is not known, or is no worse.
    """
    if task.random_score is None:
        return None
    if task.human_score is not None:
        return Reference("human", task.human_score)
    if task.name not in bundled_files():
        return None
    score = find(task.name).metadata.evaluation.get("mean")
    return None if score is None or score <= task.random_score else Reference(f"teacher {task.name}", score)


def normalised_score(score: float, task: Task, reference: Reference | None) -> float | None:
    """``(score - random) / (reference - random)``; None without a reference."""
    if reference is None or task.random_score is None:
        return None
    return (score - task.random_score) / (reference.score - task.random_score)


class NormalisedScore:
    """One number for the scores of a network: a single game's score; of several, the mean of the normalised ones.

    Attributes:
      references: of every game, None where there is none: such a game counts for nothing.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.references = tuple(map(reference_of, tasks)) if len(tasks) > 1 else ()

    @property
    def unknown(self) -> list[str]:
        """Those of several games that have no reference."""
        pairs = zip(self.tasks, self.references, strict=False)
        return [task.name for task, reference in pairs if reference is None]

    def of(self, scores: Mapping[str, Score]) -> float | None:
        """The number for scores by game.

        None if no game has a reference: nothing says then which weights are better.
        """
        if len(self.tasks) == 1:
            return scores[self.tasks[0].name].mean
        known = [share for share in self.normalised(scores).values() if share is not None]
        return sum(known) / len(known) if known else None

    def normalised(self, scores: Mapping[str, Score]) -> dict[str, float | None]:
        """The share of every game's reference that its score is above random play, 1 being the reference."""
        return {
            task.name: normalised_score(scores[task.name].mean, task, reference)
            for task, reference in zip(self.tasks, self.references, strict=True)
        }
