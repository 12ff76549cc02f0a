"""How many cells of a sweep are trained at once."""

from __future__ import annotations

from collections.abc import Sequence

from pd_jax.config.sweep import SweepConfig
from pd_jax.errors import UserError
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.sweep.memory import jobs_memory
from pd_jax.system.cores import count_cores, usable_cores
from pd_jax.system.text import spell_count


def choose_jobs(
    config: SweepConfig, cells: Sequence[MemoryEstimate], platform: str, *, together: bool, can_load: bool
) -> tuple[int, str]:
    """How many cells are to be trained at once, and why.

    Args:
      config: the sweep's.
      cells: what each of those that are to be trained takes.
      platform: that students train on.
      together: whether cells of one shape train in one program.
      can_load: whether the teachers are those that the configuration names, so that other processes find them.

    Raises:
      UserError: so many cannot be trained at once.
    """
    wanted = config.jobs
    if wanted == 1:
        return 1, "one cell after another"
    alone = None
    if platform != "cpu":
        alone = f"students train on {platform}, which is one process's at a time"
    elif not can_load:
        alone = "the teachers are objects of this process, which no other has"
    if together:
        # Said by the settings, of which one is idle; or `alone` holds as well.
        alone = alone or "cells of one shape train together, in this process"
        wanted = "auto" if config.together else wanted
    if alone is not None:
        if wanted != "auto":
            raise UserError(f"jobs: {wanted}, and {alone}; leave it out")
        return 1, alone
    if wanted != "auto":
        cores = len(usable_cores())
        if wanted > cores:
            raise UserError(
                f"jobs: {wanted}, and this process may use {spell_count(cores, 'core')}; each job takes one"
            )
        jobs = max(1, min(wanted, len(cells)))
        _check_fits(cells, jobs)
        return jobs, f"of {spell_count(len(cells), 'cell')}, as was asked for"
    cores = count_cores()
    jobs, why = max(1, min(cores, len(cells))), f"{spell_count(cores, 'core')}, {spell_count(len(cells), 'cell')}"
    most = _most_that_fit(cells, jobs)
    return most, why if most == jobs else f"{why}, and memory for {most} at once"


def _most_that_fit(cells: Sequence[MemoryEstimate], jobs: int) -> int:
    while jobs > 1 and not jobs_memory(cells, jobs).fits:
        jobs -= 1
    return jobs


def _check_fits(cells: Sequence[MemoryEstimate], jobs: int) -> None:
    most = _most_that_fit(cells, jobs)
    if most < jobs:
        needed = jobs_memory(cells, jobs).describe()
        raise UserError(f"jobs: {jobs} cells at once take more than there is ({needed}); at most {most} fit")
