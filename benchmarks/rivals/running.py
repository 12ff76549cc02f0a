"""Runs one loop for a while in a process of its own, a peer's or ours, and says what it got done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

from pd_jax.errors import UserError
from pd_jax.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
_START_UP_SECONDS = 240.0
_LINES_SHOWN = 15


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a loop did in one window of time."""

    seconds: float
    steps: float
    updates: float

    @property
    def steps_per_second(self) -> float:
        """Control steps of the environments, four frames each."""
        return self.steps / self.seconds

    @property
    def updates_per_second(self) -> float:
        """Gradient steps of the student."""
        return self.updates / self.seconds


@dataclasses.dataclass(frozen=True)
class Peer:
    """A loop of somebody else's.

    Attributes:
      name: in the tables.
      project: whose it is.
      module: that runs it under the peer's interpreter, see :mod:`benchmarks.rivals.window`.
      checkout: its repository.
      needs: a file of the repository.
      options: more of them, for the module.
    """

    name: str
    project: str
    module: str
    checkout: Path
    needs: str
    options: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError if the repository is not there."""
        if not self.checkout.is_dir():
            raise UserError(f"{self.checkout}: no such directory; it must be a checkout of {self.project}")
        if not (self.checkout / self.needs).is_file():
            raise UserError(f"{self.checkout}: has no {self.needs}; it must be a checkout of {self.project}")


@dataclasses.dataclass(frozen=True)
class PeerReport:
    """What a peer's process wrote: see :func:`benchmarks.rivals.window.write_report`."""

    phases: Mapping[str, Phase]
    steps_per_update: int
    about: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> PeerReport:
        """Reads the report of a process that has ended."""
        report = json.loads(path.read_text())
        phases = {name: Phase(**counts) for name, counts in report.pop("phases").items()}
        return cls(phases, report["steps_per_update"], report)


def find_python(name: str) -> str:
    """The path of an interpreter, a path or a command; UserError if there is none."""
    path = shutil.which(name)
    if path is None:
        raise UserError(f"--python {name}: no such program")
    # Not resolved: an environment's interpreter is a link, and knows its packages by where the link is.
    return os.path.abspath(path)


def revision(checkout: Path) -> str | None:
    """The git revision of a checkout, with a mark if it was changed; None if it is no repository of its own."""

    def git(*command: str) -> str | None:
        with contextlib.suppress(OSError):
            ended = subprocess.run(["git", "-C", str(checkout), *command], capture_output=True, text=True, check=False)
            return ended.stdout.strip() if ended.returncode == 0 else None
        return None

    if not (checkout / ".git").exists() or (head := git("rev-parse", "--short=10", "HEAD")) is None:
        return None
    return f"{head} (changed)" if git("status", "--porcelain", "--untracked-files=no") else head


def run_peer(peer: Peer, python: str, *, warm_up_seconds: float, seconds: float, batch_size: int) -> PeerReport:
    """Runs a peer's loop for about its warm-up and its seconds.

    Raises:
      UserError: it failed, or did not come to an end; with the last lines it wrote.
    """
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [python, "-m", peer.module, "--checkout", str(peer.checkout.resolve()), "--report", str(report)]
        command += ["--warm-up-seconds", str(warm_up_seconds), "--seconds", str(seconds)]
        command += ["--batch-size", str(batch_size), *peer.options]
        # Phases of their own take up to as long again.
        limit = _START_UP_SECONDS + 3 * (warm_up_seconds + seconds)
        with _started(command, Path(directory)) as (process, output):
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                raise UserError(f"{peer.name}: was not done after {limit:.0f} s{_last_lines(output)}") from None
            if code:
                raise UserError(f"{peer.name}: ended with code {code}{_last_lines(output)}")
            if not report.exists():
                raise UserError(f"{peer.name}: ended without a report{_last_lines(output)}")
        return PeerReport.read(report)


@dataclasses.dataclass(frozen=True)
class OurSchedule:
    """A round of ours, of whole rollouts."""

    steps: int
    updates: int

    @classmethod
    def of_ratio(cls, steps_per_update: Fraction, rollout_steps: int, at_least: int) -> OurSchedule:
        """The shortest round with exactly this ratio, whole rollouts, and at least so many steps.

        Args:
          steps_per_update: environment steps for each update.
          rollout_steps: of one rollout, in all lanes together.
          at_least: steps of the round.
        """
        unit = math.lcm(rollout_steps, steps_per_update.numerator)
        steps = math.ceil(at_least / unit) * unit
        return cls(steps, int(steps / steps_per_update))


def run_ours(config: Path, schedule: OurSchedule, *, seconds: float, options: Sequence[str] = ()) -> Phase:
    """Runs ``pd-jax distill`` on whole rounds for at least that long, without checkpoints and evaluations on the way.

    The first round, which compiles, is left out.

    Args:
      config: file of the run's settings.
      schedule: steps and updates of a round instead of the file's.
      seconds: that count, at least.
      options: more of the command line.

    Raises:
      UserError: it failed; with the last lines it wrote.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        endless = 100_000
        command = [sys.executable, "-m", "pd_jax", "distill", "--config", str(config), "--out", str(out)]
        command += ["--schedule.steps-per-round", str(schedule.steps)]
        command += ["--schedule.updates-per-round", str(schedule.updates), "--schedule.rounds", str(endless)]
        command += ["--evaluation.every-rounds", "0", "--checkpoint.every-updates", str(endless * schedule.updates)]
        with _started([*command, *options], Path(directory)) as (process, output):
            limit = time.monotonic() + _START_UP_SECONDS + 10 * seconds
            phase = None
            while phase is None:
                time.sleep(0.2)
                if process.poll() is not None:
                    raise UserError(f"pd-jax distill: ended with code {process.returncode}{_last_lines(output)}")
                if time.monotonic() > limit:
                    raise UserError(f"pd-jax distill: no round in time{_last_lines(output)}")
                phase = whole_rounds(out / "metrics.jsonl", schedule, seconds)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        return phase


def whole_rounds(metrics: Path, schedule: OurSchedule, seconds: float) -> Phase | None:
    """The rounds after the first up to now; None while they took less than ``seconds``."""
    ends = {line["step"]: line["wall_seconds"] for line in read_metrics(metrics) if "wall_seconds" in line}
    rounds = max((step for step in ends if step % schedule.updates == 0), default=0) // schedule.updates
    timed = rounds - 1
    if timed < 1 or (took := ends[rounds * schedule.updates] - ends[schedule.updates]) < seconds:
        return None
    return Phase(took, timed * schedule.steps, timed * schedule.updates)


@contextlib.contextmanager
def _started(command: list[str], directory: Path) -> Any:
    """A process with its output in a file; it and all that it started are gone in the end."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Bytecode would change the checkout.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with (directory / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=directory, env=environment, start_new_session=True
        )
        try:
            yield process, output
        finally:
            # Also the workers of a peer that failed: they are in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_lines(output: TextIO) -> str:
    output.seek(0)
    lines = output.read().rstrip().splitlines()[-_LINES_SHOWN:]
    return "\n".join(["; its last lines:", *(f"  {line}" for line in lines)]) if lines else ", without a word"
