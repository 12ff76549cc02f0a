"""The skeleton of a run, with a student that is one number: what it asks for, saves, writes and goes on from."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import DistillCheckpointConfig, LearnerConfig, ScheduleConfig
from pd_jax.errors import UnsoundTeacherError, UserError
from pd_jax.runs.counters import StudentCounters
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.metrics import read_metrics
from pd_jax.runs.requests import Dispatched, Update, drive
from pd_jax.runs.session import StudentSession
from pd_jax.runs.tools import Tools, open_tools
from pd_jax.system.interrupts import Interrupted

CONFIG = DistillConfig(
    teacher="cartpole",
    out="-",
    schedule=ScheduleConfig(rounds=3, updates_per_round=5, steps_per_round=64),
    learner=LearnerConfig(updates_per_call=2),
    checkpoint=DistillCheckpointConfig(every_updates=4),
)


@dataclasses.dataclass(kw_only=True)
class OneNumbersCounters(StudentCounters):
    rounds_played: int = 0

    @property
    def step(self) -> int:
        return self.updates

    @property
    def env_steps(self) -> int:
        return 64 * self.rounds_played


class OneNumber(StudentSession[OneNumbersCounters]):
    """Every update adds 1 to the number; what it is asked for is noted."""

    def __init__(self, tools: Tools, loss: float = 0.5) -> None:
        super().__init__(tools, OneNumbersCounters(network="one number"), CONFIG)
        self.loss, self.done = loss, []
        state = self.restore({"number": jnp.zeros(())}, "one number", lambda counters: f"update {counters.updates}")
        self.number = 0.0 if state is None else float(state["number"])
        self.begin_updates()

    def snapshot(self) -> Any:
        return {"number": jnp.float32(self.number)}

    def begin(self, rounds: int, *, in_mid_round: bool) -> Generator[Any, Any, None]:
        self.done.append(("begin", rounds, in_mid_round))
        yield from ()

    def play(self, index: int, *, is_new: bool) -> Generator[Any, Any, None]:
        self.counters.rounds_played += is_new
        self.done.append(("play", index, is_new))
        yield from ()

    def is_scored_after(self, rounds: int) -> bool:
        return rounds == 2

    def score_round(self, rounds: int) -> float:
        self.done.append(("score", rounds))
        return 7.0

    def write_call(self, metrics: Mapping[str, Any], values: dict[str, float]) -> None:
        self.metrics.write(self.counters.updates, values)

    def perform(self, request: Update) -> Dispatched:
        self.done.append(request.count)
        self.number += request.count
        metrics = {"loss": np.float32(self.loss), "agreement": np.float32(1), "grad_norm": np.float32(2)}
        return Dispatched(lambda: metrics, lambda: {"beside": self.number})


def run(path: Path, perform: Any = None, **session: Any) -> OneNumber:
    with (
        RunDirectory.create(path, "distill", {"a": 1}, resume=True) as directory,
        open_tools(directory, CONFIG, 2, "one number") as tools,
    ):
        student = OneNumber(tools, **session)
        drive(student.training(), (lambda request: perform(student, request)) if perform else student.perform)
    return student


def test_rounds_are_played_updated_and_scored_in_turn(tmp_path: Path) -> None:
    student = run(tmp_path / "run")
    rounds = [("play", 0, True), 2, 2, 1, ("play", 1, True), 2, 2, 1, ("score", 2), ("play", 2, True), 2, 2, 1]
    assert student.done == [("begin", 0, False), *rounds]
    assert student.number == 15
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert [line["beside"] for line in lines] == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert [line["env_steps"] for line in lines] == [64] * 3 + [128] * 3 + [192] * 3
    assert student.checkpointer.best_step() == 10


def test_a_signal_saves_what_is_learnt_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    def perform(student: OneNumber, request: Update) -> Dispatched:
        if student.counters.updates == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return student.perform(request)

    with pytest.raises(Interrupted):
        run(tmp_path / "run", perform)
    student = run(tmp_path / "run")
    # The call in hand when the signal came was its last: 9 of 15 updates, in the middle of the second round.
    assert student.done == [("begin", 1, True), ("play", 1, False), 1, ("score", 2), ("play", 2, True), 2, 2, 1]
    assert student.number == 15
    assert student.counters.rounds_played == 3
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [
        2,
        4,
        5,
        7,
        9,
        10,
        12,
        14,
        15,
    ]


def test_time_is_that_of_all_sessions_together(tmp_path: Path) -> None:
    run(tmp_path / "run")
    student = run(tmp_path / "run")
    assert 0 < student.counters.wall_seconds < student.wall_seconds()


def test_a_loss_that_is_no_number_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the loss became nan by update 2; "):
        run(tmp_path / "run", loss=float("nan"))
    assert [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()] == []


def test_a_teacher_that_fails_leaves_what_was_learnt(tmp_path: Path) -> None:
    def perform(student: OneNumber, request: Update) -> Dispatched:
        if student.counters.updates == 5:
            raise UnsoundTeacherError("pong: teacher x gave NaN")
        return student.perform(request)

    path = tmp_path / "run"
    with pytest.raises(UserError, match=rf"^pong: teacher x gave NaN; {path} is saved at update 5$"):
        run(path, perform)
    assert run(path).done[:2] == [("begin", 1, False), ("play", 1, True)]


def test_what_cannot_be_performed_is_raised_where_it_was_asked_for() -> None:
    heard: list[str] = []

    def session() -> Generator[str, int, None]:
        try:
            heard.append(f"{yield 'one'}")
            yield "two"
        except ValueError as error:
            heard.append(str(error))
            yield "three"

    def perform(request: str) -> int:
        if request == "two":
            raise ValueError("no two")
        return len(request)

    drive(session(), perform)
    assert heard == ["3", "no two"]
