"""``pd-jax sweep``: a grid of distillations over shared recordings, one table at the end."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.loading import from_mapping, to_mapping
from pd_jax.config.sweep import SweepConfig
from pd_jax.distill.collect import collect
from pd_jax.distill.lockstep import distill_together
from pd_jax.distill.session import distill
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.teacher_scores import TeacherScore, read_teacher_score, score_teacher, write_teacher_score
from pd_jax.replay.recordings import Dataset
from pd_jax.report.terminal import print_distillation
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.summary import Summary
from pd_jax.sweep.setup import Cell, Game, Plan, make_plan
from pd_jax.sweep.summary import Table, build_table, format_table
from pd_jax.sweep.workers import failure_reason, train_side_by_side
from pd_jax.system.computing import computing
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import print_line, warn_if_unwritable
from pd_jax.system.text import format_seconds
from pd_jax.teachers import Teacher

_GROWS = frozenset({"grid", "teacher", "game", "data"})
"""What a resumed sweep may have more of; `_check_resumed` sees to it that no cell is lost."""
_MAY_CHANGE = _GROWS | {"together", "learner.num_devices"}


@stoppable
@computing()
def sweep(
    config: SweepConfig, teachers: Sequence[Teacher] | None = None, *, stop: threading.Event | None = None
) -> Table:
    """Runs or resumes every cell of a grid.

    Args:
      config: the sweep's.
      teachers: who play instead of the teachers that the configuration names, whose names are then only labels.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the table, in which failed cells have their reasons; of the cells that this process was to train.

    Raises:
      UserError: something the user gave does not fit, and nothing was written.
      Interrupted: a signal came, or ``stop`` was set; the cells or the recording in hand were saved.
    """
    plan = make_plan(config, teachers)
    check = functools.partial(_check_resumed, plan)
    # Processes with a part of the cells each come and go in any order.
    shared = config.cells is not None
    with RunDirectory.create(
        config.out,
        "sweep",
        to_mapping(plan.config),
        resume=config.resume or shared,
        may_change=_MAY_CHANGE,
        check=check,
        shared=shared,
    ) as run:
        return _Sweep(plan, run).run()


def _check_resumed(plan: Plan, there: Mapping[str, Any]) -> None:
    """Raises a UserError if a cell of the sweep that is there is none of this one's, or had another teacher."""
    before = from_mapping(SweepConfig, there, f"{plan.config.out}: ")
    names = {cell.name for cell in plan.cells}
    had = (before.cell_name(index, variant) for index in range(before.num_games) for variant in before.variants)
    dropped = [name for name in had if name not in names]
    if dropped:
        more = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
        raise UserError(
            f"grid: drops cells that {plan.config.out} has ({dropped[0]}{more}); a sweep can only grow, "
            "keep them or choose another --out"
        )
    for game in plan.games:
        score = read_teacher_score(_score_path(plan, game))
        if score is not None and score.fingerprint != game.teacher.sha256:
            raise UserError(
                f"{plan.config.out}: was begun with another teacher of {game.task.name} "
                f"({score.fingerprint[:12]}, now {game.teacher.sha256[:12]})"
            )


def _score_path(plan: Plan, game: Game) -> Path:
    return Path(plan.config.out) / "teachers" / f"{game.task.name}.json"


class _Sweep:
    """One session of a sweep."""

    def __init__(self, plan: Plan, run: RunDirectory) -> None:
        self.plan = plan
        self.run_directory = run
        self.summaries: dict[str, Summary] = {}
        self.failures: dict[str, str] = {}
        self.seconds: list[float] = []
        """What each cell of this session took."""

    def run(self) -> Table:
        """Records, scores the teachers, runs the cells that are not finished, and writes the table."""
        for line in self.plan.describe():
            print_line(line, sys.stderr)
        if self.plan.config.cells is None:
            scores = self._prepare()
        else:
            with (
                Interrupts() as interrupts,
                self.run_directory.preparing(interrupts.check, functools.partial(print_line, file=sys.stderr)),
            ):
                scores = self._prepare()
        for cell in self.plan.own_cells:
            if (summary := _finished(cell)) is not None:
                self.summaries[cell.name] = summary
        left = [cell for cell in self.plan.own_cells if cell.name not in self.summaries]
        if self.plan.jobs > 1 and len(left) > 1:
            train_side_by_side(self.plan, left, lambda cell: _score_path(self.plan, cell.game), self._note)
            return self._finish()
        for cells in self._groups():
            self._announce(cells)
            started = time.monotonic()
            self._run_cells(cells, scores)
            self.seconds += [(time.monotonic() - started) / len(cells)] * len(cells)
            # Now and then, so that what is known outlives a power cut.
            self._write()
        return self._finish()

    def _finish(self) -> Table:
        """The table, and all cells on one page."""
        table = self._write()
        if self.plan.config.cells is None:
            # Matplotlib and what reports are made of: not before there is something to report.
            from pd_jax.report.report import leave_runs_page

            with warn_if_unwritable(self.run_directory.report_path):
                leave_runs_page(self.run_directory.path, f"Sweep {self.run_directory.path.absolute().name}")
        return table

    def _prepare(self) -> dict[str, TeacherScore]:
        """Records what is to be recorded, and scores the teachers: of the games of this process's cells."""
        games = [game for game in self.plan.games if any(cell.game is game for cell in self.plan.own_cells)]
        for game in games:
            if game.recording is not None and not _is_recorded(game):
                collect(game.recording, game.teacher, tells_memory=False)
        return {game.task.name: self._score(game) for game in games}

    def _groups(self) -> list[list[Cell]]:
        """The cells that are to be run, in order, each with those that it trains together with."""
        left = [cell for cell in self.plan.own_cells if cell.name not in self.summaries]
        if not self.plan.together:
            return [[cell] for cell in left]
        return [[cell for cell in left if cell.shape == shape] for shape in dict.fromkeys(cell.shape for cell in left)]

    def _run_cells(self, cells: Sequence[Cell], scores: Mapping[str, TeacherScore]) -> None:
        """Runs cells together, or one that is alone; notes their summaries, or why they failed."""
        outcomes: Sequence[Summary | Exception]
        try:
            if len(cells) == 1:
                outcomes = [distill(cells[0].config, cells[0].game.teacher, scores, tells_memory=False)]
            else:
                outcomes = distill_together([cell.config for cell in cells], cells[0].game.teacher, scores)
        except Exception as error:
            reason = failure_reason(error)
            if len(cells) > 1:
                print_line(f"{len(cells)} cells failed together ({reason}); now one after another", sys.stderr)
                for cell in cells:
                    self._run_cells([cell], scores)
                return
            outcomes = [error]
        for cell, outcome in zip(cells, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._note_failure(cell, failure_reason(outcome))
            else:
                self._note_summary(cell, outcome, shows=len(cells) == 1)

    def _note(self, cell: Cell, failure: str | None) -> None:
        """A cell that another process trained is over."""
        summary = _finished(cell) if failure is None else None
        if summary is not None:
            self._note_summary(cell, summary, shows=True)
        else:
            self._note_failure(cell, failure or f"{cell.config.out}: has no summary of all updates")
        self._write()

    def _note_failure(self, cell: Cell, reason: str) -> None:
        self.failures[cell.name] = reason
        print_line(f"{cell.name}: failed: {reason}", sys.stderr)

    def _note_summary(self, cell: Cell, summary: Summary, *, shows: bool) -> None:
        self.summaries[cell.name] = summary
        if shows:
            # The table of the sweep is its output; those of its cells are how it gets on.
            with contextlib.suppress(OSError):
                print_distillation(summary, cell.config.out, file=sys.stderr)

    def _announce(self, cells: Sequence[Cell]) -> None:
        number = 1 + self.plan.cells.index(cells[0])
        together = f" and {len(cells) - 1} like it together" if len(cells) > 1 else ""
        left = len(self.plan.own_cells) - len(self.summaries) - len(self.failures)
        time_left = ""
        if self.seconds:
            time_left = f", about {format_seconds(left * sum(self.seconds) / len(self.seconds))} left"
        print_line(f"cell {number} of {len(self.plan.cells)}{together}{time_left}: {cells[0].name}", sys.stderr)

    def _score(self, game: Game) -> TeacherScore:
        """The teacher's score, taken once for all cells and sessions."""
        path = _score_path(self.plan, game)
        config = next(cell.config for cell in self.plan.cells if cell.game is game)
        protocol = Protocol.of(config, game.task)
        score = read_teacher_score(path)
        if score is None:
            score = score_teacher(protocol, game.task, game.teacher)
            write_teacher_score(path, score)
        score.check_fits(protocol, game.task, game.teacher)
        return score

    def _write(self) -> Table:
        """The table of this process's cells; written if these are all."""
        table = build_table([self._entry(cell) for cell in self.plan.own_cells])
        if self.plan.config.cells is not None:
            return table
        text = json.dumps(to_json(table), indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.run_directory.path / "table.json", text)
        write_atomically(self.run_directory.path / "table.md", format_table(table))
        return table

    def _entry(self, cell: Cell) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "cell": cell.name,
            "game": cell.game.task.name,
            "network": cell.variant.network,
            "loss": cell.variant.loss,
            "temperature": cell.temperature,
            "learning_rate": cell.variant.learning_rate,
            "seed": cell.variant.seed,
        }
        if cell.name in self.failures:
            return entry | {"failure": self.failures[cell.name]}
        summary = self.summaries.get(cell.name)
        if summary is None:
            return entry
        shared = {key: summary.get(key) for key in ("student_parameters", "teacher_parameters", "env_steps", "updates")}
        return entry | summary.games[cell.game.task.name].to_json() | shared


def _is_recorded(game: Game) -> bool:
    """Whether the game's recording is there and as long as planned; whether it fits is the cells' to check."""
    assert game.recording is not None
    if not (Path(game.recording.out) / "dataset.json").exists():
        return False
    try:
        header = Dataset.open(game.recording.out).header
    except UserError:
        return False
    return header.steps >= game.recording.num_rollouts * game.recording.rollout_length


def _finished(cell: Cell) -> Summary | None:
    """The summary of a cell that is done, None if there is still something to do."""
    path = Path(cell.config.out)
    if not (path / "summary.json").exists():
        return None
    try:
        summary = read_run(path).read_summary()
    except UserError:
        return None
    schedule = cell.config.schedule
    return summary if summary and summary.updates == schedule.rounds * schedule.updates_per_round else None
