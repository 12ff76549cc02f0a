"""What checkpoints cost the main job, and whether its memory grows.

    python -m benchmarks.studies.checkpointing --minutes 30

trains for so long, saving every ``--seconds``, and writes ``benchmarks/results/checkpointing.json`` and ``.png``;
``--replay`` saves the replay as well.

The cost is at least what the training waits for in saves (``blocked``), and at most the time from the beginning of
each to its end on disk (``bound``), as if nothing else could be done meanwhile. What the calls of updates that overlap
a save take longer than the median call is given too (``slowed``), but is mostly noise.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.harness import record
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.distill.session import distill
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.system.interrupts import Interrupted

CONFIG = Path(__file__).parents[2] / "configs" / "pong.yaml"
SAMPLE_SECONDS = 1.0


@dataclasses.dataclass
class Save:
    """One checkpoint, of the student or of the replay; seconds since the process began to train."""

    what: str
    began: float
    blocked: float = 0.0
    written: float = 0.0


class Watch:
    """Notes when checkpoints are saved, what they wait for, and how much memory the process has."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.saves: list[Save] = []
        self.memory: list[tuple[float, int]] = []
        self._is_over = threading.Event()

    def now(self) -> float:
        return time.monotonic() - self.started

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Times every ``Checkpointer.save``, and samples the memory, until it is left."""
        real, thread = Checkpointer.save, threading.Thread(target=self._sample_memory)

        def timed(checkpointer: Checkpointer, step: int, *arguments: Any, **options: Any) -> bool:
            save = Save(checkpointer.directory.name, self.now())
            began = real(checkpointer, step, *arguments, **options)
            save.blocked = self.now() - save.began
            if began:
                self.saves.append(save)
                threading.Thread(target=self._note_written, args=(save, checkpointer.directory / str(step))).start()
            return began

        thread.start()
        try:
            with mock.patch.object(Checkpointer, "save", timed):
                yield
        finally:
            self._is_over.set()
            thread.join()

    def _note_written(self, save: Save, path: Path) -> None:
        while not path.exists() and not self._is_over.wait(0.02):
            pass
        save.written = self.now()

    def _sample_memory(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._is_over.wait(SAMPLE_SECONDS):
            self.memory.append((self.now(), int(Path("/proc/self/statm").read_text().split()[1]) * page))


def main() -> None:
    """Writes what was measured, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="between checkpoints")
    parser.add_argument("--replay", action="store_true", help="save the replay as well")
    parser.add_argument("--name", default="checkpointing", help="of the result files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        config = main_job(Path(directory) / "run", options.seconds, options.replay)
        watch = Watch()
        timer = threading.Timer(60 * options.minutes, lambda: os.kill(os.getpid(), signal.SIGTERM))
        timer.start()
        with watch.watching(), contextlib.suppress(Interrupted):
            distill(config)
        lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
        sizes = {
            f"{what}_bytes": sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
            for what in sorted({save.what for save in watch.saves})
            if (newest := max((Path(config.out) / what).glob("[0-9]*"), key=lambda path: path.stat().st_mtime))
        }
    results = summarise(watch, [line["wall_seconds"] for line in lines if "loss" in line]) | sizes
    settings = {"minutes": options.minutes, "seconds": options.seconds, "replay": options.replay}
    path = record.write(options.name, {"settings": settings, **results})
    draw(watch, path.with_suffix(".png"))
    print(json.dumps({name: value for name, value in results.items() if name != "saves"}, indent=2))
    print(path)


def main_job(out: Path, seconds: float, replay: bool) -> DistillConfig:
    """The main job, without an end and without evaluations on the way."""
    config = read_config(DistillConfig, CONFIG)
    return dataclasses.replace(
        config,
        out=str(out),
        learner=dataclasses.replace(config.learner, learning_rate_decay=False),
        schedule=dataclasses.replace(config.schedule, rounds=10_000),
        evaluation=dataclasses.replace(config.evaluation, every_rounds=0),
        checkpoint=dataclasses.replace(
            config.checkpoint, every_updates=2**31 - 1, every_seconds=seconds, replay=replay
        ),
    )


def summarise(watch: Watch, ends: Sequence[float]) -> dict[str, Any]:
    """Shares of the wall time, and the memory in the run's second and last quarter."""
    # What a run saves when it is stopped is no part of an interval.
    saves = watch.saves[: -len({save.what for save in watch.saves})]
    wall = watch.memory[-1][0]
    ends_array = np.asarray(ends)
    took = np.diff(ends_array)
    median = float(np.median(took))
    blocked = sum(save.blocked for save in saves)
    overlaps = np.zeros(len(took), bool)
    for save in saves:
        overlaps |= (ends_array[1:] > save.began + save.blocked) & (ends_array[:-1] < save.written)
    # Play lies between the calls of two rounds.
    overlaps &= took < 10 * median
    slowed = float(took[overlaps].sum() - median * overlaps.sum())
    bound = sum(save.written - save.began for save in saves)
    times, memory = np.asarray(watch.memory).T
    quarters = [
        float(np.median(memory[(times > low * wall) & (times <= high * wall)]))
        for low, high in ((0.25, 0.5), (0.75, 1))
    ]
    return {
        "wall_seconds": wall,
        "num_saves": len(saves),
        "blocked_seconds": blocked,
        "blocked_share": blocked / wall,
        "bound_seconds": bound,
        "bound_share": bound / wall,
        "slowed_seconds": slowed,
        "write_seconds_median": float(np.median([save.written - save.began for save in saves])),
        "call_seconds_median": median,
        "memory_second_quarter_bytes": quarters[0],
        "memory_last_quarter_bytes": quarters[1],
        "saves": [dataclasses.asdict(save) for save in saves],
    }


def draw(watch: Watch, path: Path) -> None:
    """Memory over time, with the saves marked."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    times, memory = np.asarray(watch.memory).T
    axes.plot(times / 60, memory / 2**20, linewidth=1)
    for save in watch.saves:
        axes.axvline(save.began / 60, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlabel="minutes", ylabel="resident memory (MiB)", title="Main job; grey: checkpoints", ylim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
