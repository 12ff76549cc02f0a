"""What befalls a run that nobody watches: kills, full disks, clocks, divergence, other devices, other teachers."""

from __future__ import annotations

import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.learner.learner import Learner
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.metrics import MetricsWriter
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    finish,
    options,
    read_lines,
    refusal,
    run,
    start,
    state_digests,
    stop_when,
    succeed,
    virtual_devices,
    wait_until,
    without_time,
    write_teacher,
)

LIVE = QUICK_EVALUATION | {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 4,
    "learner.updates-per-call": 10,
    "replay.capacity": 512,
    "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 20,
}


def kill_and_rerun(out: Path, settings: dict[str, Any], *, kills: int) -> None:
    """Reruns one command until it has been killed so often, at random moments from its start to its last updates."""
    chance = random.Random(0)
    argv = ["distill", *options(settings | ENDLESS_EVALUATION | {"out": out, "resume": "auto"})]
    call = settings["learner.updates-per-call"]
    calls = settings["schedule.rounds"] * settings["schedule.updates-per-round"] // call
    for number in range(kills):
        done = len(read_lines(out))
        target = min(calls, done + chance.randint(1, max(1, (calls - done) // (kills - number))))
        process = start(*argv)
        try:
            if chance.random() < 0.25:
                moment = chance.uniform(0, 8)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(moment)
            else:
                wait_until(lambda: len(read_lines(out)) >= target, process)  # noqa: B023
                time.sleep(chance.uniform(0, 0.02))
        finally:
            process.kill()
        assert finish(process).code == -signal.SIGKILL
        steps, saved = [line["step"] for line in read_lines(out)], checkpoint_steps(out)
        print(f"kill {number + 1}: at update {max(steps, default=0)}, checkpoints {saved}")
        assert steps == list(range(call, max(steps, default=0) + 1, call)), "no gap and no repeat"
        # The save that the kill cut short, and the interval after the one before it.
        assert max(steps, default=0) - max(saved, default=0) <= 2 * settings["checkpoint.every-updates"]


@pytest.mark.parametrize(("kills", "updates_per_round"), [(1, 100), (20, 4_000)], ids=["1", "20"])
@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_and_rerun_ends_with_the_same_bits(
    kills: int, updates_per_round: int, tmp_path: Path, recorded_run_options: dict[str, Any]
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    settings = recorded_run_options | {"schedule.updates-per-round": updates_per_round}
    kill_and_rerun(out, settings, kills=kills)
    for path in (out, whole):
        succeed("distill", settings | QUICK_EVALUATION | {"out": path, "resume": "auto"})
    assert state_digests(out) == state_digests(whole)
    assert without_time(read_lines(out)) == without_time(read_lines(whole))


@pytest.mark.parametrize(
    "rounds_and_devices",
    [((4, 8), (5, 1)), ((2, 8), (4, 4), (5, 1))],
    ids=["8-1", "8-4-1"],
)
@pytest.mark.slow
def test_a_run_goes_on_alike_on_fewer_devices(
    rounds_and_devices: tuple[tuple[int, int], ...],
    tmp_path: Path,
    recorded_run_options: dict[str, Any],
    finished_run: Path,
) -> None:
    out = tmp_path / "run"
    for rounds, devices in rounds_and_devices:
        settings = recorded_run_options | QUICK_EVALUATION | {"schedule.rounds": rounds, "out": out, "resume": "auto"}
        settings |= {"learner.num-devices": devices}
        if devices == 1:
            succeed("distill", settings)
            continue
        ended = run([sys.executable, "-m", "pd_jax", "distill", *options(settings)], **virtual_devices(devices))
        assert ended.code == 0, ended.stderr
    expected, found = (
        [[line[name] for name in ("step", "env_steps", "loss", "agreement")] for line in read_lines(path)]
        for path in (finished_run, out)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_clocks_that_jump_by_hours_change_nothing_but_the_time_of_day(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, write, written = time.time, MetricsWriter.write, []
    # The last jump is at update 800: it may cut short a save that is on its way then, but none that comes later.
    monkeypatch.setattr(time, "time", lambda: real() + [0, 7200, -86400, 3600, 0][min(4, len(written) // 10)])
    monkeypatch.setattr(MetricsWriter, "write", lambda *given: (written.append(given), write(*given)))
    out = tmp_path / "run"
    began = time.monotonic()
    seconds = {"checkpoint.every-seconds": 1800}
    succeed("distill", recorded_run_options | QUICK_EVALUATION | seconds | {"out": out})
    took = time.monotonic() - began
    lines = read_lines(out)
    assert max(line["time"] for line in lines) - min(line["time"] for line in lines) > 80_000, "the clock did jump"
    elapsed = [line["wall_seconds"] for line in lines]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0 and elapsed[-1] <= took
    assert without_time(lines) == without_time(read_lines(finished_run))
    assert state_digests(out) == state_digests(finished_run)
    assert set(checkpoint_steps(out)) <= set(range(100, 1001, 100)), "none was due for the clock's sake"


@pytest.mark.slow
def test_checkpoints_are_saved_by_time_as_well_and_that_changes_no_bit(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path
) -> None:
    out = tmp_path / "run"
    often = {"checkpoint.every-updates": 1_000_000, "checkpoint.every-seconds": 0.001, "checkpoint.keep": 1000}
    succeed("distill", recorded_run_options | QUICK_EVALUATION | often | {"out": out})
    saved = checkpoint_steps(out)
    assert len(saved) > 10 and set(saved) <= set(range(20, 1001, 20)), "after most calls, each of which takes a moment"
    assert state_digests(out) == state_digests(finished_run)


def test_training_outlasts_a_full_disk_and_saves_again_once_there_is_room(
    tmp_path: Path, recorded_run_options: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    # A parameter file of 100 kB; metrics and messages have room.
    settings = recorded_run_options | {"student.mlp-hidden": [128, 128], "schedule.rounds": 1000, "out": out}
    process = start("distill", *options(settings | {"replay.capacity": 8192}))
    try:
        wait_until(lambda: checkpoint_steps(out), process)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        begun = len(read_lines(out))
        wait_until(lambda: len(read_lines(out)) > begun + 30, process)
        before = checkpoint_steps(out)[-1]
        with Checkpointer(out / "checkpoints", read_only=True) as checkpointer:
            assert checkpointer.steps()[-1] == before, "what is on disk is whole"
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: checkpoint_steps(out)[-1] > before + 200, process)
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    finally:
        process.kill()
    assert ended.code == 128 + signal.SIGTERM
    assert re.search(r"warning: .*checkpoint \d+ was not saved: .*File too large \(on disk: ", ended.stderr)
    assert "Traceback" not in ended.stderr


def poison(monkeypatch: pytest.MonkeyPatch, *poisoned_calls: int) -> None:
    """Makes all weights NaN after certain calls of updates, counted from 1 over all that this process makes."""
    real, calls = Learner.update_from_replay, iter(range(1, 1_000_000))

    def update_from_replay(self: Learner, state: Any, stored: Any, num_updates: int, games: Any = None) -> Any:
        state, metrics = real(self, state, stored, num_updates, games)
        if next(calls) in poisoned_calls:
            state = state.replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, state.variables))
        return state, metrics

    monkeypatch.setattr(Learner, "update_from_replay", update_from_replay)


def test_a_student_that_diverges_is_kept_for_inspection_when_the_run_stops(
    tmp_path: Path, recorded_run_options: dict[str, Any], capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    poison(monkeypatch, 13)
    out = tmp_path / "run"
    assert main(["distill", *options(recorded_run_options | {"out": out})]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last.startswith("pd-jax distill: the loss became nan by update 280; the checkpoints before it are sound: ")
    assert last.endswith(f"; the state is kept in {out}/diverged/1")
    assert checkpoint_steps(out) == [100, 200]
    # Detected one call later; the state is the one at hand then.
    kept = out / "diverged" / "1" / "280"
    assert kept.is_dir()
    assert read_lines(out)[-1]["step"] == 260


def test_a_run_that_diverges_goes_on_from_its_newest_checkpoint_with_other_samples(
    tmp_path: Path,
    recorded_run_options: dict[str, Any],
    finished_run: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    poison(monkeypatch, 13)
    out = tmp_path / "run"
    rolling = {"checkpoint.on-divergence": "roll_back", "out": out}
    succeed("distill", recorded_run_options | QUICK_EVALUATION | rolling)
    errors = capfd.readouterr().err
    assert f"the state is kept in {out}/diverged/1; rolls back, 1 of at most 3 times" in errors
    assert "resumed at update 200" in errors
    lines, untroubled = without_time(read_lines(out)), without_time(read_lines(finished_run))
    assert [line["step"] for line in lines] == [line["step"] for line in untroubled]
    assert lines[:10] == untroubled[:10]
    assert all(line != other for line, other in zip(lines[10:], untroubled[10:], strict=True)), "other minibatches"
    assert checkpoint_steps(out)[-1] == 1000


def test_a_run_that_diverges_again_and_again_is_not_rolled_back_for_ever(
    tmp_path: Path, recorded_run_options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    diverging = {"loss.kind": "mse", "learner.learning-rate": 1e6, "student.mlp-hidden": [16] * 5}
    rolling = {"checkpoint.on-divergence": "roll_back", "checkpoint.max-roll-backs": 2, "out": out}
    assert main(["distill", *options(recorded_run_options | diverging | rolling)]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last.endswith(f"; the state is kept in {out}/diverged/3; it was rolled back 2 times before")
    assert sorted(path.name for path in (out / "diverged").iterdir()) == ["1", "2", "3"]


@pytest.mark.slow
def test_another_teacher_is_accepted_if_that_is_asked_for_and_from_then_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, teacher = tmp_path / "run", tmp_path / "teacher.safetensors"
    write_teacher(teacher, "cartpole")
    settings = LIVE | {"teacher": teacher, "schedule.rounds": 1, "out": out, "resume": "auto"}
    succeed("distill", settings)
    write_teacher(teacher, "cartpole", name="another")
    before = contents(out)
    settings |= {"schedule.rounds": 2}
    message = refusal(capfd, "distill", *options(settings))
    assert message.startswith(f"pd-jax distill: {out}: was begun with another teacher file (")
    assert message.endswith("; --accept-other-teacher goes on with it")
    assert contents(out)["metrics.jsonl"] == before["metrics.jsonl"]
    succeed("distill", settings | {"accept-other-teacher": True})
    assert "goes on with another teacher file (" in capfd.readouterr().err
    assert "accept_other_teacher" not in (out / "config.yaml").read_text(), "it is said once"
    succeed("distill", settings)
    assert "another teacher" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_live_run_finds_its_replay_again_on_another_number_of_devices(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = LIVE | {"schedule.rounds": 20, "checkpoint.replay": True, "out": out, "resume": "auto"}
    ended = stop_when(lambda: checkpoint_steps(out), signal.SIGTERM, "distill", *options(settings | ENDLESS_EVALUATION))
    assert ended.code == 128 + signal.SIGTERM
    step = checkpoint_steps(out)[-1]
    assert (out / "replay" / str(step)).is_dir()
    ended = run(
        [sys.executable, "-m", "pd_jax", "distill", *options(settings)],
        **virtual_devices(2),
    )
    assert ended.code == 0, ended.stderr
    assert f"resumed at update {step:,}" in ended.stderr
    assert "the replay is as it was; the play goes on with fresh episodes" in ended.stderr
    assert "starts again" not in ended.stderr
    assert len(list((out / "replay").glob("[0-9]*"))) == 2, "of the newest two checkpoints"


@pytest.mark.parametrize("out", ["gs://bucket/run", "s3://bucket/run"])
def test_an_object_store_is_refused_and_not_taken_for_a_directory(
    out: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(capfd, "distill", "--teacher", "cartpole", "--student.network", "mlp", "--out", out)
    assert message.startswith(f"pd-jax distill: {out}: {out[:2]} is not supported: ")
    assert not list(tmp_path.iterdir())
