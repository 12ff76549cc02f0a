"""Where and when the play takes place changes no bit of a distillation; through the real command."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pd_jax.actors.live import LivePlay
from pd_jax.learner.learner import Learner
from pd_jax.types import Trajectory
from support.commands import (
    QUICK_EVALUATION,
    options,
    read_lines,
    refusal,
    run,
    state_digests,
    succeed,
    virtual_devices,
    without_time,
)

LIVE = {
    "teacher": ["cartpole", "acrobot"],
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "student.head-hidden": 8,
    "env.num-lanes": 12,
    "env.max-episode-steps": 60,
    "learner.batch-size": 24,
    "learner.updates-per-call": 10,
    "replay.capacity": 1536,
    "schedule.rounds": 3,
    "schedule.steps-per-round": 768,
    "schedule.updates-per-round": 40,
} | QUICK_EVALUATION

TWO_LAYOUTS = """
import sys
from pd_jax.cli import main
for out, layout in zip(sys.argv[1:3], ([], ["--actors.num-devices", "2"]), strict=True):
    code = main([*sys.argv[3:], "--out", out, *layout])
    assert code == 0, code
"""


def same_run(one: Path, other: Path) -> None:
    assert state_digests(one) == state_digests(other)
    assert without_time(read_lines(one)) == without_time(read_lines(other))


@pytest.fixture(scope="module")
def alternating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose play and updates take turns. Not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "alternating"
    succeed("distill", LIVE | {"actors.overlap": "false", "out": out})
    return out


def test_a_round_is_played_while_the_updates_of_the_one_before_run_and_no_bit_changes(
    tmp_path: Path, alternating: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = threading.Semaphore(0)
    rollouts, update = LivePlay.rollouts, Learner.update_from_replay
    calls = []

    def counted(self: LivePlay, count: int) -> Iterator[Trajectory]:
        for trajectory in rollouts(self, count):
            played.release()
            yield trajectory

    def held_up(self: Learner, *arguments: Any) -> Any:
        # The two rollouts of each of the two games: those of the round itself, and before the updates of the second
        # call are let go, those of the next.
        if len(calls) in (0, 1, 5):
            for _ in range(4):
                assert played.acquire(timeout=60)
        calls.append(threading.active_count())
        return update(self, *arguments)

    monkeypatch.setattr(LivePlay, "rollouts", counted)
    monkeypatch.setattr(Learner, "update_from_replay", held_up)
    succeed("distill", LIVE | {"actors.overlap": "true", "out": tmp_path / "run"})
    assert len(calls) == 12 and not played.acquire(blocking=False)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("play")]
    same_run(tmp_path / "run", alternating)


@pytest.mark.slow
def test_with_room_for_one_rollout_the_play_waits_and_no_bit_changes(tmp_path: Path) -> None:
    # 32 steps of 400 lanes are 0.8 MB; the round has two of them.
    settings = {key: value for key, value in LIVE.items() if key != "student.head-hidden"} | {
        "teacher": "cartpole",
        "env.num-lanes": 400,
        "replay.capacity": 25_600,
        "schedule.steps-per-round": 25_600,
    }
    for overlap in ("true", "false"):
        # Without overlap nothing waits in a queue.
        queue = {"actors.queue-mib": 1} if overlap == "true" else {}
        succeed("distill", settings | queue | {"actors.overlap": overlap, "out": tmp_path / overlap})
    same_run(tmp_path / "true", tmp_path / "false")


@pytest.mark.slow
def test_games_that_play_on_devices_of_their_own_play_the_same(tmp_path: Path) -> None:
    settings = LIVE | {"learner.num-devices": 6}
    ended = run(
        [sys.executable, "-c", TWO_LAYOUTS, str(tmp_path / "6"), str(tmp_path / "6+2"), "distill", *options(settings)],
        **virtual_devices(8),
    )
    assert ended.code == 0, ended.stderr
    same_run(tmp_path / "6", tmp_path / "6+2")


def test_impossible_layouts_are_refused(tmp_path: Path, recording: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(**changes: Any) -> str:
        settings = LIVE | {name.replace("__", "."): value for name, value in changes.items()}
        message = refusal(capfd, "distill", *options(settings | {"out": tmp_path / "run"}))
        return message.removeprefix("pd-jax distill: ")

    assert "num-devices: 3 for 2 games; each game plays on one device" in refused(actors__num_devices=3)
    assert "1 besides 1 for the learner wanted, 1 cpu found" in refused(actors__num_devices=1)
    assert "true, and behaviour.policy is 'student'" in refused(actors__overlap="true", behaviour__policy="student")
    assert "recording, which needs none" in refused(teacher="cartpole", data=recording, actors__num_devices=1)
    assert "24 does not split evenly into learner.accumulate 5 parts on each of 1 devices; 20 and 25 do" in refused(
        learner__accumulate=5
    )
    assert not (tmp_path / "run").exists()
