"""Cells trained side by side, by worker processes that each have cores of their own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import from_mapping, to_mapping
from pd_jax.distill.session import distill
from pd_jax.errors import OUT_OF_MEMORY, UserError, is_out_of_memory
from pd_jax.evaluation.teacher_scores import read_teacher_score
from pd_jax.runs.students import load_teacher
from pd_jax.sweep.setup import Cell, Plan
from pd_jax.system.cores import describe_cores
from pd_jax.system.files import to_plain
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress
from pd_jax.system.text import spell_count
from pd_jax.system.workers import Advanced, Began, Ended, Task, TaskMeters, Workers
from pd_jax.teachers import Teacher


def train_side_by_side(
    plan: Plan, cells: Sequence[Cell], score_of: Callable[[Cell], Path], note: Callable[[Cell, str | None], None]
) -> None:
    """Trains cells, as many at once as the plan says.

    Args:
      plan: the sweep's.
      cells: that are not finished.
      score_of: where the score of a cell's teacher is.
      note: called with each cell that is over, and with why it failed, None if it did not.

    Raises:
      Interrupted: an end was asked for; the cells in hand were saved.
    """
    by_name = {cell.name: cell for cell in cells}
    tasks = [
        Task(cell.name, {"config": to_plain(to_mapping(cell.config)), "score": str(score_of(cell))}) for cell in cells
    ]
    with (
        Interrupts() as interrupts,
        Progress(f"sweep of {spell_count(len(plan.own_cells), 'cell')}") as progress,
        Workers("pd_jax.sweep.workers:train_cell", min(plan.jobs, len(cells))) as workers,
    ):
        finished = progress.add("cells", len(plan.own_cells), completed=len(plan.own_cells) - len(cells))
        meters = TaskMeters(progress)
        for event in workers.run(tasks, interrupts):
            if isinstance(event, Began):
                cell = by_name[event.task.name]
                number = 1 + plan.cells.index(cell)
                progress.print(f"cell {number} of {len(plan.cells)} on {describe_cores(event.cores)}: {cell.name}")
            elif isinstance(event, Advanced):
                meters.show(event)
            elif isinstance(event, Ended):
                meters.remove(event.task)
                failure = event.failure or event.result["failure"]
                note(by_name[event.task.name], failure)
                finished.advance()
            else:
                progress.print(event.text)


def train_cell(payload: dict[str, Any], stop: threading.Event) -> dict[str, str | None]:
    """Trains one cell, in a worker.

    Args:
      payload: ``config`` of the cell, and the path of its teacher's ``score``.
      stop: ends it, saved.

    Returns:
      ``failure``: why it failed, None if it did not; its results are in its directory.

    Raises:
      Interrupted: ``stop`` was set.
    """
    try:
        config = from_mapping(DistillConfig, payload["config"])
        assert config.game is not None
        score = read_teacher_score(Path(payload["score"]))
        scores = {} if score is None else {score.game: score}
        teacher = _teacher(config.teacher[0], config.game[0], config.credibility)
        distill(config, teacher, scores, tells_memory=False, stop=stop)
    except Exception as error:
        return {"failure": failure_reason(error)}
    return {"failure": None}


@functools.cache
def _teacher(source: str, game: str, credibility: CredibilityConfig) -> Teacher:
    return load_teacher(source, game, credibility)


def failure_reason(error: Exception) -> str:
    """Why a cell failed, in one line; raises what is no failure of the cell but of this program."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        return str(error.strerror or error)
    raise error
