"""Several games in one student, through the real command."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.config.yaml import read_yaml, write_yaml
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    state_digests,
    stop_when,
    succeed,
    without_time,
    write_teacher,
)
from support.unsound import steps_until_right_of, write_overflowing_teacher

ROOT = Path(__file__).parents[2]
GAMES = ["cartpole", "acrobot"]


@pytest.fixture(scope="module")
def acrobot_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play of the bundled Acrobot teacher: 4 lanes x 192 steps."""
    path = tmp_path_factory.mktemp("recording") / "acrobot"
    succeed("collect", {"teacher": "acrobot", "out": path, "steps": 768, "rollout-length": 32, "env.num-lanes": 4})
    return path


@pytest.fixture(scope="module")
def two_games(recording: Path, acrobot_recording: Path) -> dict[str, Any]:
    """A distillation of two games of unlike lanes, lengths, observations and actions."""
    return {
        "teacher": GAMES,
        "data": [recording, acrobot_recording],
        "student.network": "mlp",
        "student.mlp-hidden": 16,
        "student.head-hidden": 8,
        "loss.temperature": [0.1, 0.3],
        "learner.updates-per-call": 20,
        "replay.capacity": 512,
        "schedule.rounds": 4,
        "schedule.steps-per-round": 256,
        "schedule.updates-per-round": 100,
        "checkpoint.every-updates": 100,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, two_games: dict[str, Any]) -> Path:
    """That distillation, never interrupted. Not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    on_the_way = {"evaluation.every-rounds": 2, "evaluation.progress-episodes": 4}
    succeed("distill", two_games | QUICK_EVALUATION | on_the_way | {"out": out})
    return out


@pytest.mark.slow
def test_one_student_plays_two_games_as_well_as_their_teachers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    succeed("distill", {"config": ROOT / "configs" / "quick" / "cartpole_acrobot.yaml", "out": out})
    table = capfd.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    cartpole, acrobot = (summary["games"][game] for game in GAMES)
    assert cartpole["percent_of_teacher"] >= 95
    # Acrobot counts steps from 0 down, so there is no share of a score; of what the teacher gains over random play,
    # there is. As a ratio of lengths the student may be 1/0.95 as slow.
    assert acrobot["percent_of_teacher"] is None
    assert acrobot["percent_of_teacher_normalised"] >= 95
    assert acrobot["student_score"] >= acrobot["teacher_score"] / 0.95
    assert summary["geometric_mean_percent"] is None
    mean = math.sqrt(cartpole["percent_of_teacher_normalised"] * acrobot["percent_of_teacher_normalised"])
    assert summary["geometric_mean_percent_normalised"] == pytest.approx(mean)
    assert (summary["env_steps"], summary["updates"]) == (2 * 16_384, 4_000)
    assert (cartpole["env_steps"], acrobot["env_steps"]) == (16_384, 16_384)
    # 6 inputs (CartPole's 4 are padded), 64, 64; for each game 64 to 32 to its actions.
    torso, heads = 7 * 64 + 65 * 64, 2 * 65 * 32 + 33 * (2 + 3)
    assert summary["student_parameters"] == torso + heads
    assert summary["teacher_parameters"] == 17_922 + 18_307
    assert all(word in table for word in (*GAMES, "geometric mean", "of its teachers"))
    page = (out / "report.html").read_text()
    assert "<h1>cartpole, acrobot into mlp</h1>" in page and "geometric mean" in page


def test_metrics_are_of_every_game(finished: Path) -> None:
    lines = [line for line in read_lines(finished) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(20, 401, 20))
    for line in lines:
        for name in ("loss", "agreement"):
            parts = [line[f"{game}/{name}"] for game in GAMES]
            assert line[name] == pytest.approx(np.mean(parts), rel=1e-5)
        # Of a KL student the loss is the KL.
        assert all(line[f"{game}/kl"] == pytest.approx(line[f"{game}/loss"]) for game in GAMES)
    assert {f"{game}/teacher_action_gap" for game in GAMES} <= lines[0].keys()
    # Rounds of 256 steps: CartPole's recording of 1,024 lasts for four, Acrobot's of 768 for three.
    assert [line["env_steps"] for line in lines[::5]] == [512, 1024, 1536, 1792]
    games = json.loads((finished / "summary.json").read_text())["games"]
    assert (games["cartpole"]["env_steps"], games["acrobot"]["env_steps"]) == (1024, 768)
    for game in GAMES:
        first, last = (np.mean([line[f"{game}/loss"] for line in part]) for part in (lines[:5], lines[-5:]))
        assert last < first


def test_the_best_checkpoint_is_the_best_over_all_games(finished: Path) -> None:
    (scored,) = (line for line in read_lines(finished) if "mean_percent" in line)
    assert scored["step"] == 200
    # Every game is cut after 40 steps: of reward 1 in CartPole, of reward -1 in Acrobot, where nobody is as fast.
    assert (scored["score/acrobot"], scored["score_low/acrobot"], scored["score_high/acrobot"]) == (-40, -40, -40)
    percents = [100 * (scored["score/cartpole"] - 22.2) / (40 - 22.2), 100.0]
    assert scored["mean_percent"] == pytest.approx(np.mean(percents))
    (record,) = (path for path in (finished / "checkpoints" / "200").rglob("metadata") if path.is_file())
    assert json.loads(record.read_text())["score"] == scored["mean_percent"]


def test_a_run_of_several_games_that_is_stopped_ends_with_the_same_bits(
    tmp_path: Path, two_games: dict[str, Any], finished: Path
) -> None:
    out = tmp_path / "run"
    on_the_way = {"evaluation.every-rounds": 2, "evaluation.progress-episodes": 4}
    argv = ["distill", *options(two_games | ENDLESS_EVALUATION | {"out": out, "resume": True})]
    assert stop_when(lambda: 100 in checkpoint_steps(out), signal.SIGKILL, *argv).code == -signal.SIGKILL
    ended = stop_when(lambda: 400 in checkpoint_steps(out), signal.SIGTERM, *argv)
    assert ended.code == 128 + signal.SIGTERM
    assert "Traceback" not in ended.stderr
    shutil.rmtree(out / "checkpoints" / "400")
    succeed("distill", two_games | QUICK_EVALUATION | on_the_way | {"out": out, "resume": True})
    assert state_digests(out) == state_digests(finished)
    learning = [[line for line in without_time(read_lines(run)) if "loss" in line] for run in (out, finished)]
    assert learning[0] == learning[1]


@pytest.mark.slow
def test_lanes_of_live_play_are_each_games_own_and_ctrl_c_ends_its_threads(
    tmp_path: Path, two_games: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    # The second round's play takes until it is stopped.
    endless = {"schedule.steps-per-round": 2_000_000, "env.lanes": [4, 8], "out": out}
    live = {key: value for key, value in two_games.items() if key != "data"}
    begun = live | {
        "schedule.steps-per-round": 64,
        "schedule.rounds": 1,
        "env.lanes": [4, 8],
        "out": tmp_path / "whole",
    }
    succeed("distill", begun | QUICK_EVALUATION)
    games = json.loads((tmp_path / "whole" / "summary.json").read_text())["games"]
    # A rollout is 32 steps of 4 or of 8 lanes; both are more than the 64 that are asked for.
    assert (games["cartpole"]["env_steps"], games["acrobot"]["env_steps"]) == (128, 256)
    ended = stop_when(
        (out / "metrics.jsonl").exists, signal.SIGINT, "distill", *options(live | endless | QUICK_EVALUATION)
    )
    assert ended.code == 128 + signal.SIGINT
    assert ended.stderr.endswith("pd-jax distill: stopped by SIGINT; add --resume to go on\n")
    assert "Traceback" not in ended.stderr
    assert checkpoint_steps(out) == [0]


@pytest.mark.parametrize("teachers", [["cartpole"], ["acrobot", "cartpole"], ["cartpole", "acrobot", "lunarlander"]])
def test_games_are_not_added_dropped_or_reordered_on_the_way(
    teachers: list[str], tmp_path: Path, two_games: dict[str, Any], finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = contents(out)
    settings = {key: value for key, value in two_games.items() if key not in ("data", "loss.temperature")}
    # Heads of one game have no layers of their own.
    settings = {key: value for key, value in settings.items() if key != "student.head-hidden"} | {"env.num-lanes": 4}
    message = refusal(capfd, "distill", *options(settings | {"teacher": teachers, "out": out, "resume": True}))
    assert message.startswith(
        f"pd-jax distill: {out}: holds a different run: game is ['cartpole', 'acrobot'] there and "
    )
    assert contents(out) == before


def edit_games(out: Path, games: list[str]) -> None:
    """As if the run's configuration had always named these."""
    config = read_yaml(out / "config.yaml")
    config |= {"game": games, "teacher": list(games), "data": None}
    config["loss"]["temperature"] = config["env"]["lanes"] = None
    config["env"]["num_lanes"] = 4
    (out / "config.yaml").write_text(f"# pd-jax distill\n{write_yaml(config)}")


def test_a_checkpoint_with_other_heads_is_refused(
    tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    edit_games(out, ["cartpole", "acrobot", "lunarlander"])
    before = contents(out)
    message = refusal(capfd, "evaluate", "--run", str(out))
    assert message.startswith(
        f"pd-jax evaluate: {out}/checkpoints: checkpoint 400 holds network mlp for cartpole, acrobot, "
        "the run wants mlp for cartpole, acrobot, lunarlander ("
    )
    assert contents(out) == before


def test_what_does_not_go_together_is_refused_before_anything_is_made(
    two_games: dict[str, Any], acrobot_recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pong, other = (str(write_teacher(tmp_path / f"{game}.safetensors", game)) for game in ("pong", "cartpole"))
    out = tmp_path / "out"

    def refused(**changes: Any) -> str:
        settings = two_games | {"env.num-lanes": 4 if changes.get("data", "") is None else None, "out": out}
        settings |= {name.replace("__", "."): value for name, value in changes.items()}
        settings = {key: value for key, value in settings.items() if value is not None}
        return refusal(capfd, "distill", *options(settings)).removeprefix("pd-jax distill: ")

    one_each = "give one for each teacher, in the same order"
    assert refused(teacher="cartpole", data=None, loss__temperature=None, game=GAMES) == (
        f"--game: 2 games for 1 teacher: acrobot has no teacher; {one_each}"
    )
    assert refused(game="cartpole") == f"--game: 1 game for 2 teachers: acrobot has none; {one_each}"
    assert refused(data=acrobot_recording) == f"--data: 1 data set for 2 teachers: acrobot has none; {one_each}"
    assert refused(env__lanes=[4, 4, 4]) == f"--env.lanes: 3 numbers for 2 teachers; {one_each}"
    assert refused(loss__temperature=[1, 1, 1]) == f"--loss.temperature: 3 numbers for 2 teachers; {one_each}"
    twice = "cartpole is there 2 times; a game has one teacher, and a student one head for it"
    assert refused(teacher=["cartpole", other], data=None) == twice
    assert refused(game=["cartpole", "CartPole-v1"]) == f"--game: {twice}"
    mixed = "'mlp' sees vectors, and pong shows frames; use one of dqn, net1, net2, net3"
    assert refused(teacher=["cartpole", pong], data=None) == f"student.network: {mixed}"
    assert refused(game=["cartpole", "pong"]) == f"--student.network: {mixed}"
    swapped = [acrobot_recording, two_games["data"][0]]
    assert refused(data=swapped) == (
        f"{acrobot_recording}: recorded with task 'acrobot', and the run has task 'cartpole'"
    )
    assert refused(data=None, env__lanes=[4, 600]) == (
        "--replay.capacity: 512 holds less than one rollout, 19200 steps (env.lanes 600 x schedule.rollout_length 32)"
    )
    assert refused(data=None, env__lanes=[4, 9], **{"learner__num-devices": 2}) == (
        "--env.lanes: 9 does not split evenly over 2 devices; 8 and 10 do"
    )
    assert not out.exists()


# With epsilon 1 nobody asks the teacher what to do, so that any other teacher tells what is seen.
UNSOUND = {
    "seed": 3,
    "epsilon": 1.0,
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 4,
    "learner.updates-per-call": 10,
    "replay.capacity": 1024,
    "schedule.rounds": 4,
    "schedule.steps-per-round": 128,
    "schedule.rollout-length": 16,
    "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 1_000,
}


def test_a_teacher_that_gives_nan_stops_its_game_and_no_other_and_a_resumed_run_does_not_begin_it_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    step = steps_until_right_of(0.15)
    # In the fifth rollout of 64 steps, in the third round.
    assert 4 * 64 < step < 5 * 64
    teacher, out = write_overflowing_teacher(tmp_path / "wild.safetensors", 0.15), tmp_path / "run"
    values = UNSOUND | QUICK_EVALUATION | {"teacher": [teacher, "acrobot"], "out": out}
    succeed("distill", values)
    printed = capfd.readouterr()
    found = f"cartpole: teacher {teacher} gave NaN or infinite outputs at step {step}"
    assert f"warning: {found}; its play stops there, and the other games go on\n" in printed.err
    assert f"cartpole: its teacher gave NaN or infinite outputs at step {step}; of its play" in printed.out
    games = json.loads((out / "summary.json").read_text())["games"]
    assert (games["cartpole"]["env_steps"], games["acrobot"]["env_steps"]) == (256, 512)
    assert games["cartpole"]["play_stopped_at"] == step
    assert "play_stopped_at" not in games["acrobot"]
    lines = read_lines(out)
    assert [line["step"] for line in lines if "cartpole/play_stopped_at" in line] == [90]
    assert all(math.isfinite(line[f"{game}/loss"]) for line in lines for game in GAMES)
    assert [line["env_steps"] for line in lines[::4]] == [256, 512, 640, 768]
    succeed("distill", values | {"schedule.rounds": 6, "resume": True})
    assert f"warning: {found}; it does not play again, and the other games go on\n" in capfd.readouterr().err
    games = json.loads((out / "summary.json").read_text())["games"]
    assert (games["cartpole"]["env_steps"], games["acrobot"]["env_steps"]) == (256, 768)
    assert games["cartpole"]["play_stopped_at"] == step
    # Of live play nothing is kept: there is nothing left to learn of the game that stopped.
    assert [line["step"] for line in read_lines(out) if "cartpole/loss" in line] == list(range(10, 161, 10))
    assert [line["step"] for line in read_lines(out) if "acrobot/loss" in line] == list(range(10, 241, 10))


def test_a_run_whose_only_teacher_gives_nan_is_saved_and_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    step = steps_until_right_of(0.15)
    teacher, out = write_overflowing_teacher(tmp_path / "wild.safetensors", 0.15), tmp_path / "run"
    assert main(["distill", *options(UNSOUND | QUICK_EVALUATION | {"teacher": teacher, "out": out})]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    found = f"cartpole: teacher {teacher} gave NaN or infinite outputs at step {step}"
    assert last == f"pd-jax distill: {found}; {out} is saved at update 80"
    assert checkpoint_steps(out) == [80]
    assert not (out / "summary.json").exists()
    succeed("evaluate", QUICK_EVALUATION | {"run": out})
    assert capfd.readouterr().out.startswith("cartpole student: ")


@pytest.mark.parametrize("schedule", ["together", pytest.param("alternating", marks=pytest.mark.slow)])
def test_a_game_whose_teacher_gives_nothing_but_nan_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    # A teacher file that is nothing but NaN is refused; one that only fails in the game itself would not be.
    monkeypatch.setattr("pd_jax.teachers.checks._LARGE_WEIGHT", np.inf)
    teacher, out = write_overflowing_teacher(tmp_path / "wild.safetensors", -100.0), tmp_path / "run"
    values = {"teacher": ["acrobot", teacher], "learner.games": schedule, "schedule.rounds": 2, "out": out}
    succeed("distill", UNSOUND | QUICK_EVALUATION | values)
    found = f"cartpole: teacher {teacher} gave NaN or infinite outputs at step 0"
    left_out = f"warning: {found}; its play stops there, nothing of it can be learnt, and the other games go on\n"
    assert left_out in capfd.readouterr().err
    lines = read_lines(out)
    assert [line["step"] for line in lines] == list(range(10, 81, 10))
    assert all(math.isfinite(line["acrobot/loss"]) for line in lines)
    assert all(line["loss"] == pytest.approx(line["acrobot/loss"], rel=1e-5) for line in lines)
    assert not any("cartpole/loss" in line for line in lines)


def test_a_finished_run_that_cannot_be_taken_further_keeps_its_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run = UNSOUND | QUICK_EVALUATION | {"teacher": ["cartpole", "acrobot"], "schedule.rounds": 1, "out": out}
    succeed("distill", run)
    results = {name: (out / name).read_bytes() for name in ("summary.json", "report.html", "progress.png")}
    monkeypatch.setattr("pd_jax.distill.experience.first_unsound_step", lambda trajectory: 0)
    assert main(["distill", *options(run | {"schedule.rounds": 2, "resume": True})]) == 2
    assert "acrobot: teacher acrobot gave NaN or infinite outputs at step 128; " in capfd.readouterr().err
    assert {name: (out / name).read_bytes() for name in results} == results


def test_all_games_of_a_student_are_scored_or_some(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scored, run = QUICK_EVALUATION | {"run": finished}, str(finished)
    whole = json.loads((finished / "summary.json").read_text())
    capfd.readouterr()
    succeed("evaluate", scored)
    cartpole, acrobot = capfd.readouterr().out.splitlines()
    score = whole["games"]["cartpole"]["student_score"]
    assert cartpole.startswith(f"cartpole student: {score:.1f} ± ")
    assert acrobot == "acrobot student: -40.0 ± 0.0 (95 % interval -40.0 to -40.0) over 4 episodes"
    succeed("evaluate", scored | {"game": "acrobot"})
    assert capfd.readouterr().out == f"{acrobot}\n"
    # The order of the teachers does not matter; that of the run's games stays.
    succeed("evaluate", scored | {"teacher": ["acrobot", "cartpole"], "out": tmp_path / "both"})
    summary = json.loads((tmp_path / "both" / "summary.json").read_text())
    kept = ("teacher_score", "student_score", "percent_of_teacher_normalised")
    for game in GAMES:
        assert [summary["games"][game][name] for name in kept] == [whole["games"][game][name] for name in kept]
    assert list(summary["games"]) == GAMES == read_yaml(tmp_path / "both" / "config.yaml")["game"]
    capfd.readouterr()
    succeed("evaluate", scored | {"teacher": "acrobot", "game": "acrobot"})
    table = capfd.readouterr().out
    assert "acrobot" in table and "cartpole" not in table
    message = refusal(capfd, "evaluate", "--run", run, "--teacher", "cartpole")
    assert message == "pd-jax evaluate: teacher: acrobot has none; give one for each game, or choose games with --game"
    message = refusal(capfd, "evaluate", "--run", run, "--game", "lunarlander")
    assert message == f"pd-jax evaluate: {finished}: its student plays cartpole, acrobot, not lunarlander"
    message = refusal(capfd, "evaluate", "--run", run, "--teacher", "cartpole", "lunarlander")
    assert message == "pd-jax evaluate: teacher lunarlander: plays lunarlander, none of cartpole, acrobot"
    message = refusal(capfd, "evaluate", "--teacher", "cartpole", "cartpole")
    assert message.startswith("pd-jax evaluate: cartpole is there 2 times; ")
