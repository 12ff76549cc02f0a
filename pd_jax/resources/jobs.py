"""How many tasks are done at once, by processes of their own, and what memory that takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pd_jax.errors import UserError
from pd_jax.resources.memory import MemoryEstimate, Part
from pd_jax.resources.parts import programs_part
from pd_jax.system.cores import count_cores, usable_cores
from pd_jax.system.text import spell_count

# Measured: what a worker has for itself alone once JAX, Orbax and EnvPool are imported.
_PROCESS_BYTES = 160 * 2**20


def choose_jobs(
    wanted: int | Literal["auto"], tasks: Sequence[MemoryEstimate], noun: str, alone: str | None = None
) -> tuple[int, str]:
    """How many tasks are to be done at once, and why.

    Args:
      wanted: the setting ``jobs``.
      tasks: what each one takes.
      noun: for one of them.
      alone: why no other process can do any; None if others can.

    Returns:
      at least 1, which stands for this process, and at most one for each task and for each core.

    Raises:
      UserError: so many cannot be done at once.
    """
    if wanted == 1:
        return 1, f"one {noun} after another"
    if alone is not None:
        if wanted != "auto":
            raise UserError(f"jobs: {wanted}, and {alone}; leave it out")
        return 1, alone
    there = spell_count(len(tasks), noun)
    if wanted != "auto":
        cores = len(usable_cores())
        if wanted > cores:
            raise UserError(
                f"jobs: {wanted}, and this process may use {spell_count(cores, 'core')}; each job takes one"
            )
        jobs = max(1, min(wanted, len(tasks)))
        most = _most_that_fit(tasks, jobs)
        if most < jobs:
            needed = jobs_memory(tasks, jobs).describe()
            raise UserError(f"jobs: {jobs} {noun}s at once take more than there is ({needed}); at most {most} fit")
        return jobs, f"of {there}, as was asked for"
    cores = count_cores()
    jobs, why = max(1, min(cores, len(tasks))), f"{spell_count(cores, 'core')}, {there}"
    most = _most_that_fit(tasks, jobs)
    return most, why if most == jobs else f"{why}, and memory for {most} at once"


def jobs_memory(tasks: Sequence[MemoryEstimate], jobs: int) -> MemoryEstimate:
    """What some tasks take that are done at once by processes of their own: those that take the most.

    Args:
      tasks: each one's, at least one.
      jobs: how many at once.
    """
    largest = sorted(tasks, key=lambda memory: memory.total)[-jobs:]
    processes = Part("processes", _PROCESS_BYTES * len(largest), on_host=True)
    # This process has worked before, and waits.
    return MemoryEstimate.together(largest, processes, programs_part())


def _most_that_fit(tasks: Sequence[MemoryEstimate], jobs: int) -> int:
    while jobs > 1 and not jobs_memory(tasks, jobs).fits:
        jobs -= 1
    return jobs
