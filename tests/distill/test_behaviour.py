"""Whose states: distillations in which the student acts, through the real command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.distill.experience import Experience
from pd_jax.runs.leaves import checksum, named_leaves
from support.commands import (
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    run,
    state_digests,
    succeed,
    virtual_devices,
    without_time,
)

ROOT = Path(__file__).parents[2]

LIVE = {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 8,
    "learner.updates-per-call": 10,
    "replay.capacity": 1024,
    "schedule.rounds": 2,
    "schedule.steps-per-round": 512,
    "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 20,
    "checkpoint.keep": 10,
} | QUICK_EVALUATION

MIXTURE = LIVE | {
    "behaviour.policy": "mixture",
    "behaviour.student-share-start": 0.25,
    "behaviour.student-share-end": 0.75,
    "behaviour.student-share-change-fraction": 1,
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a mixture. Not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "mixed"
    succeed("distill", MIXTURE | {"out": out})
    return out


def shares(out: Path) -> list[tuple[int, float]]:
    """At which steps which share was logged."""
    return [(line["step"], line["student_share"]) for line in read_lines(out) if "student_share" in line]


@pytest.mark.slow
def test_a_student_that_acts_reaches_its_teacher(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = ROOT / "configs" / "cartpole.yaml"
    succeed("distill", {"config": config, "behaviour.policy": "student", "out": out})
    summary = json.loads((out / "summary.json").read_text())
    assert summary["behaviour"] == "student"
    assert summary["games"]["cartpole"]["percent_of_teacher"] >= 95
    assert (summary["env_steps"], summary["updates"]) == (16_384, 4_000)
    lines = read_lines(out)
    assert shares(out) == [(50 + 1_000 * index, 1.0) for index in range(4)]
    returns = [line["play_return"] for line in lines if "play_return" in line]
    # It begins with what a network that has learnt nothing scores: its teacher never loses a pole before step 500.
    assert returns[0] < 100 < returns[-1]
    assert not any(name.startswith(("teacher_return", "teacher_episodes")) for line in lines for name in line)
    assert all("teacher_action_gap" in lines[index] for index in (0, 20, 40, 60))


def test_a_mixture_without_a_share_is_the_papers_play_bit_for_bit(tmp_path: Path) -> None:
    paper, none = tmp_path / "paper", tmp_path / "none"
    # Games of 20 steps end in every round.
    short = LIVE | {"env.max-episode-steps": 20}
    succeed("distill", short | {"out": paper})
    succeed("distill", short | {"behaviour.policy": "mixture", "behaviour.student-share-end": 0, "out": none})
    assert state_digests(paper) == state_digests(none)
    names = {"play_return": "teacher_return", "play_episodes": "teacher_episodes"}
    lines = [{names.get(name, name): value for name, value in line.items()} for line in without_time(read_lines(none))]
    assert shares(none) == [(10, 0.0), (50, 0.0)]
    for line in lines:
        line.pop("student_share", None)
    assert lines == without_time(read_lines(paper))
    assert "teacher_return" in lines[0]
    behaviours = [json.loads((out / "summary.json").read_text())["behaviour"] for out in (paper, none)]
    assert behaviours == ["teacher", "mixture"]


def test_a_resumed_run_hands_the_restored_student_to_the_play(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shares(mixed) == [(10, 0.25), (50, 0.5)]
    out = tmp_path / "run"
    shutil.copytree(mixed, out)
    # As if it had been killed in the middle of the second round.
    shutil.rmtree(out / "checkpoints" / "80")
    (out / "summary.json").unlink()
    handed: list[tuple[dict[str, str], float]] = []
    let_act = Experience.let_act

    def spy(experience: Experience, student: Any) -> None:
        leaves = named_leaves({"variables": jax.device_get(student.variables)})
        handed.append(({name: checksum(leaf) for name, leaf in leaves.items()}, student.share))
        let_act(experience, student)

    monkeypatch.setattr(Experience, "let_act", spy)
    succeed("distill", MIXTURE | {"out": out, "resume": True})
    assert "resumed at update 60" in capfd.readouterr().err
    ((digests, share),) = handed
    stored = state_digests(out, 60)
    assert digests == {name: stored[name] for name in digests}
    assert len(digests) == 4
    assert stored != state_digests(out, 40)
    assert share == 0.5
    # The replay's play in the round that goes on is the mixture's again.
    assert shares(out) == [(10, 0.25), (50, 0.5), (70, 0.5)]
    assert checkpoint_steps(out)[-1] == 80


EIGHT_DEVICES = """
import sys
from pd_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_student_of_two_games_acts_in_both_on_eight_devices(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = LIVE | {
        "teacher": ["cartpole", "acrobot"],
        "student.head-hidden": 8,
        "learner.batch-size": 64,
        "env.max-episode-steps": 60,
        # Not 0, whose student balances a pole before it has learnt anything.
        "seed": 1,
        "behaviour.policy": "student",
        "out": out,
    }
    ended = run(
        [sys.executable, "-c", EIGHT_DEVICES, "distill", *options(settings)],
        **virtual_devices(8),
    )
    assert ended.code == 0, ended.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["devices"], summary["behaviour"]) == (8, "student")
    assert shares(out) == [(10, 1.0), (50, 1.0)]
    lines = read_lines(out)
    # Acrobot pays -1 a step and nobody is done in 60; CartPole's teacher balances as long, and its student not yet.
    assert lines[0]["acrobot/play_return"] == -60
    assert 5 < lines[0]["cartpole/play_return"] < 30
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_whose_states_cannot_be_changed_on_the_way(mixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(mixed)

    def refused(**changes: Any) -> str:
        settings = MIXTURE | {name.replace("__", "."): value for name, value in changes.items()}
        if changes.get("behaviour__policy") == "student":
            settings = {name: value for name, value in settings.items() if "share" not in name}
        message = refusal(capfd, "distill", *options(settings | {"out": mixed, "resume": True}))
        return message.removeprefix("pd-jax distill: ")

    assert refused(behaviour__policy="student") == (
        f"{mixed}: holds a different run: behaviour.policy is 'mixture' there and 'student' here; choose another --out"
    )
    assert refused(schedule__rounds=3) == (
        f"schedule.rounds: 3 is more than {mixed} has (2), and the student's share of the actions changes over these; "
        "choose another --out"
    )
    assert contents(mixed) == before


@pytest.mark.parametrize("policy", ["student", "mixture"])
def test_a_recording_has_been_acted(
    policy: str, recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = options(LIVE | {"data": recording, "behaviour.policy": policy, "out": out})
    assert refusal(capfd, "distill", *argv) == (
        f"pd-jax distill: --behaviour.policy: {policy!r} needs live play, and data is a recording of the teacher's; "
        "leave one out"
    )
    assert not out.exists()
