"""``pd-jax collect`` through the real command."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.errors import UserError
from pd_jax.replay.recordings import Dataset
from pd_jax.teachers import load
from support.commands import contents, options, refusal, stop_when, succeed

PLAY = {"teacher": "cartpole", "rollout-length": 16, "env.num-lanes": 4, "seed": 3}


def recorded_steps(path: Path) -> int:
    """Steps a lane on disk, 0 before there is a data set."""
    try:
        return Dataset.open(path).num_steps
    except UserError:
        return 0


def test_a_recording_is_the_teachers_own_play(recording: Path) -> None:
    dataset = Dataset.open(recording)
    header, teacher = dataset.header, load("cartpole")
    assert (header.task, header.num_actions, header.num_lanes, header.steps) == ("cartpole", 2, 8, 128)
    assert header.complete
    assert header.teacher_fingerprint == teacher.sha256
    play = dataset.read(0, 128)
    assert play.is_first[0].all()
    q_values = np.asarray(teacher(play.observations.reshape(-1, 4)))
    np.testing.assert_allclose(play.teacher_q.reshape(-1, 2), q_values, rtol=1e-5, atol=1e-5)
    greedy = play.actions == play.teacher_q.argmax(-1)
    # One action in twenty is random, and every other one of those is greedy all the same: 1.0 - 0.05 / 2.
    assert 0.95 <= greedy.mean() < 1.0


def test_the_same_seed_records_the_same_play_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        succeed("collect", PLAY | {"out": tmp_path / name, "steps": 128, "seed": seed})
    a, b, c = (Dataset.open(tmp_path / name).read(0, 32).observations for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_recording_that_was_stopped_goes_on_with_fresh_episodes(
    tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recording"
    endless = PLAY | {"out": out, "steps": 1_000_000_000}
    ended = stop_when(lambda: recorded_steps(out) > 0, number, "collect", *options(endless))
    if number == signal.SIGTERM:
        assert ended.code == 128 + number
        assert ended.stderr.endswith("pd-jax collect: stopped by SIGTERM; add --resume to go on\n")
    else:
        assert ended.code == -number
    assert "Traceback" not in ended.stderr
    steps = recorded_steps(out)
    assert steps % 16 == 0
    before = Dataset.open(out).read(0, steps)
    settings = PLAY | {"out": out, "steps": 4 * (steps + 64)}
    message = refusal(capfd, "collect", *options(settings))
    assert message == f"pd-jax collect: {out}: holds a run; add --resume to continue it, or choose another --out"
    check_refused_changes(capfd, settings, out)
    leave_half_written_chunks(out, steps // 16)
    succeed("collect", settings | {"resume": True})
    assert f"resumed at step {4 * steps:,}, with fresh episodes" in capfd.readouterr().err
    dataset = Dataset.open(out)
    assert (dataset.num_steps, dataset.header.complete) == (steps + 64, True)
    after = dataset.read(0, steps + 64)
    for name in ("observations", "actions", "teacher_q", "is_first"):
        np.testing.assert_array_equal(getattr(after, name)[:steps], getattr(before, name))
    assert after.is_first[steps].all()
    assert (after.observations[steps : steps + 16] != before.observations[:16]).any(), "not the first games again"


def test_a_recording_killed_while_it_was_created_goes_on_and_none_is_cut_short(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recording"
    settings = PLAY | {"out": out, "steps": 256}
    succeed("collect", settings)
    message = refusal(capfd, "collect", *options(settings | {"steps": 128, "resume": True}))
    assert message == f"pd-jax collect: {out}: holds 256 steps, more than the 128 planned"
    header = json.loads((out / "dataset.json").read_text())
    for array in [path for path in out.iterdir() if path.is_dir()]:
        shutil.rmtree(array)
    (out / "dataset.json").write_text(json.dumps(header | {"steps": 0, "complete": False}))
    succeed("collect", settings | {"resume": True})
    assert Dataset.open(out).header.complete


def leave_half_written_chunks(out: Path, index: int) -> None:
    """What a process leaves that is killed while it writes a chunk, longer than the chunk that takes its place."""
    for chunk in [path for path in out.glob("*/c/0/**/*") if path.is_file()]:
        array, rest = chunk.as_posix().split("/c/0/")
        unfinished = Path(f"{array}/c/{index}/{rest}.__lock")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"x" * 100_000)


def check_refused_changes(capfd: Any, settings: dict[str, Any], out: Path) -> None:
    before = contents(out)
    for change, named in (
        ({"epsilon": 0.2}, "epsilon is 0.05 there and 0.2 here"),
        ({"env.max-episode-steps": 9}, "env.max_episode_steps is None there and 9 here"),
    ):
        message = refusal(capfd, "collect", *options(settings | change | {"resume": True}))
        assert message == f"pd-jax collect: {out}: holds a different run: {named}; choose another --out"
    assert contents(out) == before
