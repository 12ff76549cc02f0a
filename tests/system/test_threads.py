"""Runs off the main thread, as notebooks, servers and schedulers of trials start them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.loading import load_config
from pd_jax.system.interrupts import Interrupted
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    checkpoint_steps,
    options,
    read_lines,
    state_digests,
    without_time,
)

LEARNER = {
    "game": "cartpole", "mlp-hidden": 8, "pqn.total-steps": 1024, "pqn.num-lanes": 4, "pqn.rollout-length": 16,
    "pqn.minibatches": 4, "pqn.epochs": 1,
}  # fmt: skip
STUDENT = {
    "student.network": "mlp", "student.mlp-hidden": 8, "env.num-lanes": 4, "replay.capacity": 512,
    "learner.updates-per-call": 10, "schedule.rounds": 2, "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 40,
}  # fmt: skip


@pytest.fixture
def settings(recording: Path, tmp_path: Path) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Of each function that takes long: itself, and settings of a second or two."""

    def of(settings: type, **values: Any) -> Any:
        return load_config(settings, options({name.replace("__", "."): value for name, value in values.items()}), "")

    out = tmp_path / "out"
    swept = STUDENT | {"schedule.rounds": 1, "out": out, "teacher": "cartpole", "data": recording}
    # Recorded play has lanes of its own.
    del swept["env.num-lanes"]
    return {
        "distill": (pd_jax.run_distill, of(pd_jax.DistillConfig, **STUDENT | {"teacher": "cartpole", "out": out})),
        "collect": (
            pd_jax.run_collect,
            of(pd_jax.CollectConfig, teacher="cartpole", out=out, steps=4096, env__num_lanes=8),
        ),
        "evaluate": (
            pd_jax.run_evaluate,
            of(pd_jax.EvaluateConfig, teacher="cartpole", **ENDLESS_EVALUATION),
        ),
        "online": (pd_jax.run_online, of(pd_jax.OnlineConfig, **LEARNER | STUDENT | {"out": out})),
        "sweep": (
            pd_jax.run_sweep,
            of(pd_jax.SweepConfig, **{"grid.seeds": [0]}, **swept),
        ),
        "train-teacher": (
            pd_jax.run_train_teacher,
            of(pd_jax.TrainTeacherConfig, **LEARNER | {"out": out, "network": "mlp"}),
        ),
    }


@pytest.mark.parametrize("command", ["distill", "collect", "evaluate", "online", "sweep", "train-teacher"])
def test_what_takes_long_runs_in_an_event_loops_thread_and_ends_when_told(
    command: str, settings: dict[str, tuple[Callable[..., Any], Any]]
) -> None:
    run, config = settings[command]
    stop = threading.Event()
    stop.set()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted):
        asyncio.run(asyncio.to_thread(run, config, stop=stop))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_several_at_once_are_what_each_is_alone(
    tmp_path: Path, finished_run: Path, recorded_run_options: dict[str, Any]
) -> None:
    def distill(name: str) -> Path:
        values = recorded_run_options | QUICK_EVALUATION | {"out": tmp_path / name}
        pd_jax.run_distill(load_config(pd_jax.DistillConfig, options(values), "distill"))
        return tmp_path / name

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(distill, ["first", "second"]))
    for run in found:
        assert state_digests(run) == state_digests(finished_run)
        assert without_time(read_lines(run)) == without_time(read_lines(finished_run))


def test_a_run_that_was_stopped_in_a_thread_goes_on_where_it_was(
    tmp_path: Path, finished_run: Path, recorded_run_options: dict[str, Any]
) -> None:
    values = recorded_run_options | QUICK_EVALUATION | {"out": tmp_path / "run", "schedule.rounds": 5}
    stop = threading.Event()
    ended: list[BaseException] = []

    def distill() -> None:
        try:
            pd_jax.run_distill(load_config(pd_jax.DistillConfig, options(values), "distill"), stop=stop)
        except Interrupted as error:
            ended.append(error)

    thread = threading.Thread(target=distill)
    thread.start()
    while thread.is_alive() and not read_lines(tmp_path / "run"):
        thread.join(0.001)
    stop.set()
    thread.join(120)
    assert [type(error) for error in ended] == [Interrupted]
    (saved,) = checkpoint_steps(tmp_path / "run")[-1:]
    assert 0 < saved < 1000
    assert main(["distill", *options(values | {"resume": True})]) == 0
    assert state_digests(tmp_path / "run") == state_digests(finished_run)


def test_a_command_can_be_run_in_a_thread(capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(main, ["teachers"]).result() == 0
    assert "cartpole" in capfd.readouterr().out
