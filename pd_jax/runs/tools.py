"""What a session writes with and listens to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from pd_jax.config.base import ProfiledConfig
from pd_jax.resources.ledger import Ledger
from pd_jax.resources.profiler import profiling
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import MetricsWriter, NoMetrics
from pd_jax.system import hosts
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress


@dataclasses.dataclass
class Tools:
    """Open as long as a session runs.

    Attributes:
      run: its directory, locked.
      checkpointer: of what it goes on from.
      metrics: numbers on the way.
      progress: what the terminal shows.
      interrupts: signals, noted.
      ledger: where the time goes.
    """

    run: RunDirectory
    checkpointer: Checkpointer
    metrics: MetricsWriter | NoMetrics
    progress: Progress
    interrupts: Interrupts
    ledger: Ledger


@contextlib.contextmanager
def open_tools(run: RunDirectory, config: ProfiledConfig, keep: int, title: str) -> Iterator[Tools]:
    """Opens all that a session needs, and closes it in the end, whatever happens; process 0 alone writes metrics."""
    with (
        Interrupts() as interrupts,
        Progress(title) as progress,
        Checkpointer(run.checkpoints, keep=keep) as checkpointer,
        MetricsWriter(run.path) if hosts.is_primary() else NoMetrics() as metrics,
        profiling(config, run.path, progress.print) as on_stage,
    ):
        yield Tools(run, checkpointer, metrics, progress, interrupts, Ledger(on_stage))
