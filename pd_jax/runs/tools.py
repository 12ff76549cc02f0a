"""What a session writes with and listens to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from pd_jax.config.base import TrackedConfig
from pd_jax.errors import UserError
from pd_jax.resources.ledger import Ledger
from pd_jax.resources.profiler import profiling
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import MetricsWriter, NoMetrics
from pd_jax.runs.trackers import open_trackers
from pd_jax.system import hosts
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress, print_warning


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
def open_tools(run: RunDirectory, config: TrackedConfig, keep: int, title: str) -> Iterator[Tools]:
    """Opens all that a session needs, and closes it in the end, whatever happens; process 0 alone writes metrics."""
    with (
        Interrupts() as interrupts,
        Progress(title) as progress,
        Checkpointer(run.checkpoints, keep=keep) as checkpointer,
        open_metrics(run, config, progress.print) if hosts.is_primary() else NoMetrics() as metrics,
        profiling(config, run.path, progress.print) as on_stage,
    ):
        yield Tools(run, checkpointer, metrics, progress, interrupts, Ledger(on_stage))


@contextlib.contextmanager
def open_metrics(run: RunDirectory, config: TrackedConfig, say: Callable[[str], None]) -> Iterator[MetricsWriter]:
    """The metrics of a run, in its directory and in the trackers that are asked for.

    Args:
      run: its directory, locked.
      config: the run's.
      say: is told where each tracker's record is.
    """
    trackers = open_trackers(config.track, config.track_project, run, warn=print_warning)
    for tracker in trackers:
        say(tracker.describe())
    with MetricsWriter(run.path, trackers=trackers) as metrics:
        try:
            yield metrics
        finally:
            summary = None
            with contextlib.suppress(UserError):
                summary = run.read_summary_json()
            metrics.close(summary)
