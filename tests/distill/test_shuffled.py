"""Runs from a recording that is larger than their replay, in another order every time."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pd_jax.actors.shuffled import ShuffledPlay
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import ReplayConfig, ScheduleConfig, StudentConfig
from pd_jax.distill.memory import ahead_part
from pd_jax.distill.setup import make_setup
from pd_jax.errors import UserError
from pd_jax.replay import rings
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    checkpoint_steps,
    options,
    read_lines,
    refusal,
    run,
    state_digests,
    stop_when,
    succeed,
    virtual_devices,
    without_time,
)

SHUFFLED = {"data-order": "shuffled", "replay.capacity": 8 * 70, "schedule.rounds": 7}
"""Of the recording's four rollouts of 32 steps the replay holds two, each with the three steps before it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recorded_run_options: dict[str, Any]) -> Path:
    """A shuffled run of ``recorded_run_options``, never interrupted."""
    out = tmp_path_factory.mktemp("shuffled") / "whole"
    succeed("distill", recorded_run_options | SHUFFLED | QUICK_EVALUATION | {"out": out})
    return out


def test_the_stream_does_not_end_and_is_another_one(whole: Path, finished_run: Path) -> None:
    assert read_lines(whole)[-1]["env_steps"] == 7 * 256, "of the 1,024 that are recorded"
    # The first round is of another part of the recording.
    assert read_lines(whole)[0]["loss"] != read_lines(finished_run)[0]["loss"]


def test_a_run_goes_on_where_the_stream_stood(
    tmp_path: Path, recorded_run_options: dict[str, Any], whole: Path
) -> None:
    out = tmp_path / "run"
    settings = recorded_run_options | SHUFFLED | {"out": out, "resume": True}
    argv = ["distill", *options(settings | ENDLESS_EVALUATION)]

    def is_in_the_fifth_round() -> bool:
        steps, lines = checkpoint_steps(out), read_lines(out)
        return bool(steps and lines) and steps[-1] >= 900 and lines[-1]["step"] > steps[-1]

    # Two rollouts of five have been written over by then, and are not read again.
    assert stop_when(is_in_the_fifth_round, signal.SIGKILL, *argv).code == -signal.SIGKILL
    assert checkpoint_steps(out)[-1] < 1400
    succeed("distill", settings | QUICK_EVALUATION)
    assert state_digests(out) == state_digests(whole)
    assert without_time(read_lines(out)) == without_time(read_lines(whole))


def test_what_is_read_of_a_resumed_run_is_what_its_replay_holds(
    tmp_path: Path, recorded_run_options: dict[str, Any], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    settings = (
        recorded_run_options | SHUFFLED | QUICK_EVALUATION | {"out": out, "resume": True, "actors.overlap": False}
    )
    succeed("distill", settings | {"schedule.rounds": 5})
    completed: list[int] = []
    complete = ShuffledPlay._completed

    def count(self: ShuffledPlay, read: Any, begin: int) -> Any:
        completed.append(begin)
        return complete(self, read, begin)

    monkeypatch.setattr(ShuffledPlay, "_completed", count)
    succeed("distill", settings)
    assert state_digests(out) == state_digests(whole)
    # Of five rollouts the last two, and those of the two rounds to come.
    assert len(completed) == 4


@pytest.mark.slow
def test_two_games_have_streams_of_their_own(tmp_path: Path, recording: Path) -> None:
    other = tmp_path / "acrobot"
    succeed("collect", {"teacher": "acrobot", "out": other, "steps": 192, "rollout-length": 16, "env.num-lanes": 2})
    settings: dict[str, Any] = {
        "teacher": ["cartpole", "acrobot"],
        "data": [recording, other],
        "data-order": "shuffled",
        "student.network": "mlp",
        "student.mlp-hidden": 8,
        "replay.capacity": 400,
        "schedule.steps-per-round": 128,
        "schedule.updates-per-round": 20,
        "schedule.rollout-length": 20,
        "checkpoint.every-updates": 20,
    } | QUICK_EVALUATION
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    succeed("distill", settings | {"schedule.rounds": 4, "out": runs[0]})
    succeed("distill", settings | {"schedule.rounds": 3, "out": runs[1]})
    succeed("distill", settings | {"schedule.rounds": 4, "out": runs[1], "resume": True})
    assert state_digests(runs[0]) == state_digests(runs[1])


def test_a_run_from_before_there_was_an_order_goes_on_as_recorded_and_in_no_other(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = recorded_run_options | QUICK_EVALUATION | {"out": out, "resume": True}
    succeed("distill", settings | {"schedule.rounds": 2})
    text = (out / "config.yaml").read_text()
    assert "data_order: recorded\n" in text
    (out / "config.yaml").write_text(text.replace("data_order: recorded\n", ""))
    message = refusal(capfd, "distill", *options(settings | {"data-order": "shuffled"}))
    assert "data_order is absent there and 'shuffled' here" in message
    succeed("distill", settings)
    assert state_digests(out) == state_digests(finished_run)


@pytest.mark.slow
def test_two_devices_take_up_what_one_has_begun(
    tmp_path: Path, recorded_run_options: dict[str, Any], whole: Path
) -> None:
    out = tmp_path / "run"
    settings = recorded_run_options | SHUFFLED | QUICK_EVALUATION | {"out": out, "resume": True}
    succeed("distill", settings | {"schedule.rounds": 4, "learner.num-devices": 1})
    command = [sys.executable, "-m", "pd_jax", "distill", *options(settings | {"learner.num-devices": 2})]
    assert run(command, **virtual_devices(2)).code == 0
    one, two = (read_lines(path)[-1] for path in (whole, out))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)


def shuffled_config(recording: Path, **changes: Any) -> DistillConfig:
    config = DistillConfig(
        teacher="cartpole", out="-", data=str(recording), data_order="shuffled", student=StudentConfig(network="mlp"),
        replay=ReplayConfig(capacity=600), schedule=ScheduleConfig(rounds=8, steps_per_round=256, rollout_length=32),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def test_rings_hold_whole_rollouts_and_what_is_held_is_told(recording: Path) -> None:
    setup = make_setup(shuffled_config(recording))
    assert setup.config.steps_before == rings.STACK - 1
    # 600 steps are 75 of each of 8 lanes: two rollouts of 32 and 3 steps.
    assert (setup.config.capacity_per_lane(), setup.config.rollouts_held()) == (70, 2)
    assert setup.total_env_steps([128]) == (8 * 256,)
    assert setup.notes_on_recordings([2048]) == [
        f"{recording} is gone through 2.0 times; the replay holds 50 % of it at a time"
    ]
    roomy = make_setup(shuffled_config(recording, replay=ReplayConfig(capacity=4096)))
    assert roomy.notes_on_recordings([2048]) == [
        f"{recording} fits into the replay; data_order 'recorded' holds each of its steps once"
    ]
    # Of a float32 vector of 4, two flags, an action, a reward and two outputs.
    assert ahead_part(setup.config, setup.tasks).num_bytes == 35 * 8 * (16 + 2 + 4 + 4 + 8)


def test_a_replay_that_holds_no_rollout_is_refused(recording: Path) -> None:
    with pytest.raises(UserError) as error:
        make_setup(shuffled_config(recording, replay=ReplayConfig(capacity=8 * 34)))
    assert str(error.value) == (
        f"replay.capacity: 272 holds less than one rollout of {recording} with the 3 before it, 280 steps"
    )
