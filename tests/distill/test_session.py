"""The distillation loop through the real command: what it leaves behind, and what signals cannot take from it."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pd_jax.evaluation.games
from pd_jax.cli import main
from pd_jax.config.yaml import read_yaml
from pd_jax.distill.experience import Experience
from pd_jax.system.interrupts import Interrupted
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    finish,
    no_compilation,
    options,
    read_lines,
    refusal,
    run,
    start,
    state_digests,
    stop_when,
    succeed,
    wait_until,
    without_time,
)

LIVE = {
    "teacher": "cartpole",
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "env.num-lanes": 4,
    "learner.updates-per-call": 10,
    "replay.capacity": 512,
    "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 40,
}


def test_a_finished_run_holds_what_it_should(finished_run: Path, recorded_run_options: dict[str, Any]) -> None:
    names = {"config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "tb", "progress.png", "report.html"}
    names |= {"lineage.json", "details.json"}
    assert {path.name for path in finished_run.iterdir()} - {".lock"} == names
    assert (finished_run / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished_run / "tb").glob("events*"))
    # keep is 3, and the best of those that were scored, of which there are none.
    assert checkpoint_steps(finished_run) == [800, 900, 1000]
    config = read_yaml(finished_run / "config.yaml")
    assert (config["game"], config["env"]["num_lanes"]) == ("cartpole", 8), "the resolved ones"
    loss = {"kind": "kl", "temperature": None, "target_entropy": 0.75, "beta": 0.5, "delta": 1.0, "weights": "none"}
    assert config["loss"] == loss


def test_a_summary_has_the_fixed_fields(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    game = summary["games"]["cartpole"]
    # Every game is cut after 40 steps of reward 1; the teacher never drops the pole so early.
    assert (game["teacher_score"], game["teacher_standard_error"], game["episodes"]) == (40.0, 0.0, 4)
    assert game["percent_of_teacher"] == pytest.approx(100 * game["student_score"] / 40)
    assert summary["geometric_mean_percent"] == pytest.approx(game["percent_of_teacher"])
    assert game["percent_of_teacher_normalised"] == pytest.approx(100 * (game["student_score"] - 22.2) / (40 - 22.2))
    # 4 -> 16 -> 2 with biases; and the bundled teacher's 4 -> 128 -> 128 -> 2 with two LayerNorms.
    assert summary["student_parameters"] == 5 * 16 + 17 * 2
    assert summary["teacher_parameters"] == 5 * 128 + 129 * 128 + 129 * 2 + 4 * 128
    assert (summary["updates"], summary["env_steps"]) == (1000, 1024), "the recording ends after four rounds of five"
    assert summary["wall_seconds"] > 0
    assert (summary["loss"], summary["temperature"]) == ("kl", 0.01), "the default for Q-values"


def test_metrics_are_one_line_a_call(finished_run: Path) -> None:
    lines = read_lines(finished_run)
    assert [line["step"] for line in lines] == list(range(20, 1001, 20))
    assert [line["env_steps"] for line in lines[::10]] == [256, 512, 768, 1024, 1024]
    assert all(math.isfinite(line[name]) for line in lines for name in ("loss", "grad_norm", "wall_seconds"))
    assert all(0 <= line["agreement"] <= 1 for line in lines)
    first, last = (np.mean([line["loss"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last < first


def test_kill_9_at_any_moment_changes_no_bit_of_the_result(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path
) -> None:
    out = tmp_path / "run"
    argv = ["distill", *options(recorded_run_options | ENDLESS_EVALUATION | {"out": out, "resume": True})]

    def is_between_checkpoints() -> bool:
        steps, lines = checkpoint_steps(out), read_lines(out)
        return bool(steps and lines) and lines[-1]["step"] > steps[-1]

    def is_saving() -> bool:
        unfinished = (out / "checkpoints").glob("*.orbax-checkpoint-tmp")
        return any(int(path.name.split(".")[0]) > between for path in unfinished)

    # While the replay fills, or in the first updates.
    assert stop_when((out / "metrics.jsonl").exists, signal.SIGKILL, *argv).code == -signal.SIGKILL
    assert checkpoint_steps(out) == []
    assert stop_when(is_between_checkpoints, signal.SIGKILL, *argv).code == -signal.SIGKILL
    between = checkpoint_steps(out)[-1]
    assert between < 1000
    # In the middle of a save, of which there is one after every call here.
    often = [*argv, "--checkpoint.every-updates", "20"]
    assert stop_when(is_saving, signal.SIGKILL, *often).code == -signal.SIGKILL
    assert checkpoint_steps(out)[-1] < 1000
    succeed("distill", recorded_run_options | QUICK_EVALUATION | {"out": out, "resume": True})
    assert state_digests(out) == state_digests(finished_run)
    assert without_time(read_lines(out)) == without_time(read_lines(finished_run)), "no line twice, and none missing"
    summary, expected = (json.loads((run / "summary.json").read_text()) for run in (out, finished_run))
    assert summary["games"] == expected["games"]


def test_sigterm_and_ctrl_c_save_the_run_and_change_no_bit_of_the_result(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path
) -> None:
    out = tmp_path / "run"
    rare = {"checkpoint.every-updates": 1_000_000, "out": out, "resume": True}
    argv = ["distill", *options(recorded_run_options | ENDLESS_EVALUATION | rare)]
    # The first session is to end after three rounds, the others after five: nothing is computed anew for that.
    ended = stop_when(lambda: read_lines(out), signal.SIGTERM, *argv, "--schedule.rounds", "3")
    assert ended.code == 128 + signal.SIGTERM
    assert ended.stderr.endswith("pd-jax distill: stopped by SIGTERM; add --resume to go on\n")
    assert "Traceback" not in ended.stderr
    (saved,) = checkpoint_steps(out)
    assert 0 < saved <= 600
    assert read_lines(out)[-1]["step"] == saved, "what led to the checkpoint is on record"
    ended = stop_when(lambda: 1000 in checkpoint_steps(out), signal.SIGINT, *argv)
    assert ended.code == 128 + signal.SIGINT
    assert f"resumed at update {saved:,}" in ended.stderr
    assert ended.stderr.endswith("pd-jax distill: stopped by SIGINT; add --resume to go on\n")
    assert not (out / "summary.json").exists()
    succeed("distill", recorded_run_options | QUICK_EVALUATION | {"out": out, "resume": True})
    assert state_digests(out) == state_digests(finished_run)
    assert without_time(read_lines(out)) == without_time(read_lines(finished_run))


def test_a_falling_learning_rate_is_not_raised_again(
    tmp_path: Path, recorded_run_options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    falling = recorded_run_options | {"learner.learning-rate-decay": True, "schedule.rounds": 3}
    succeed("distill", falling | QUICK_EVALUATION | {"out": out})
    assert [line["learning_rate"] for line in read_lines(out)] == pytest.approx(
        [1e-3 * (1 - updates / 600) for updates in range(20, 601, 20)], abs=1e-9
    )
    message = refusal(capfd, "distill", *options(falling | {"schedule.rounds": 4, "out": out, "resume": True}))
    assert message == (
        f"pd-jax distill: schedule.rounds: 4 is more than {out} has (3), and its learning rate falls to 0 over these; "
        "choose another --out"
    )


@pytest.mark.slow
def test_a_falling_learning_rate_survives_kill_9(tmp_path: Path, recorded_run_options: dict[str, Any]) -> None:
    falling = recorded_run_options | {"learner.learning-rate-decay": True, "schedule.rounds": 3}
    whole, out = tmp_path / "whole", tmp_path / "run"
    succeed("distill", falling | QUICK_EVALUATION | {"out": whole})
    argv = ["distill", *options(falling | ENDLESS_EVALUATION | {"out": out, "resume": True})]
    assert stop_when(lambda: checkpoint_steps(out), signal.SIGKILL, *argv).code == -signal.SIGKILL
    succeed("distill", falling | QUICK_EVALUATION | {"out": out, "resume": True})
    assert state_digests(out) == state_digests(whole)


def test_a_run_that_is_taken_further_loses_the_results_of_its_shorter_self(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    config = (out / "config.yaml").read_text().replace(str(finished_run), str(out))
    (out / "config.yaml").write_text(config)
    longer = {"schedule.rounds": 100, "out": out, "resume": True}
    argv = ["distill", *options(recorded_run_options | ENDLESS_EVALUATION | longer)]
    ended = stop_when(lambda: checkpoint_steps(out)[-1] > 1000, signal.SIGTERM, *argv)
    assert ended.code == 128 + signal.SIGTERM
    assert not {"summary.json", "report.html", "progress.png"} & {path.name for path in out.iterdir()}


def test_scores_on_the_way_keep_one_protocol(
    tmp_path: Path, recorded_run_options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    scored = recorded_run_options | QUICK_EVALUATION | {"evaluation.every-rounds": 2, "out": out}
    succeed("distill", scored)
    message = refusal(capfd, "distill", *options(scored | {"evaluation.max-episode-steps": 50, "resume": True}))
    assert message == (
        f"pd-jax distill: evaluation.max_episode_steps: is 40 in {out}, whose scores on the way are to be compared; "
        "keep it, or choose another --out"
    )


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path,
    recorded_run_options: dict[str, Any],
    finished_run: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocols = spy_on_evaluations(monkeypatch)
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    data = max((out / "checkpoints" / "1000").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    succeed("distill", recorded_run_options | QUICK_EVALUATION | {"out": out, "resume": True})
    errors = capfd.readouterr().err
    assert "checkpoint 1000: " in errors
    assert "passed over for checkpoint 900" in errors
    assert "resumed at update 900" in errors
    assert state_digests(out, 1000) == state_digests(finished_run, 1000)
    assert without_time(read_lines(out)) == without_time(read_lines(finished_run))
    student, teacher = protocols
    assert student == teacher, "both are scored from the same seeds"
    assert student["seed"] == 1_000_000


def spy_on_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every evaluation from now on is asked for."""
    protocols: list[dict[str, Any]] = []
    real = pd_jax.evaluation.evaluator.evaluate

    def spy(*args: Any, on_progress: Any, on_step: Any, **protocol: Any) -> Any:
        protocols.append(protocol)
        return real(*args, on_progress=on_progress, on_step=on_step, **protocol)

    monkeypatch.setattr(pd_jax.evaluation.games, "evaluate", spy)
    return protocols


def test_a_live_run_is_guarded_while_it_goes_and_resumes_with_fresh_episodes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = LIVE | QUICK_EVALUATION | {"schedule.rounds": 60, "out": out}
    process = start("distill", *options(settings))
    try:
        wait_until(lambda: checkpoint_steps(out), process)
        process.send_signal(signal.SIGSTOP)  # So that it is neither gone nor further by the time it is looked at.
        for resume in ({}, {"resume": True}):
            message = refusal(capfd, "distill", *options(settings | resume))
            assert message.startswith(f"pd-jax distill: {out}: is in use by process {process.pid} on ")
        succeed("evaluate", QUICK_EVALUATION | {"run": out})
        assert capfd.readouterr().out.startswith("cartpole student: ")
        process.kill()
        ended = finish(process)
        assert "Traceback" not in ended.stderr
    finally:
        process.kill()
    saved = checkpoint_steps(out)[-1]
    assert saved < 58 * 40
    # How it is carried out and evaluated may change.
    settings |= {"evaluation.every-rounds": 58, "evaluation.progress-episodes": 4, "checkpoint.every-updates": 4000}
    succeed("distill", settings | {"env.num-threads": 1, "resume": True})
    errors = capfd.readouterr().err
    assert f"resumed at update {saved:,}" in errors
    assert "the replay starts again with fresh episodes: a live emulator cannot be saved" in errors
    assert checkpoint_steps(out)[-1] == 40 * 60
    check_live_metrics(out)


def test_the_next_run_of_a_process_with_the_same_settings_compiles_nothing(tmp_path: Path) -> None:
    settings = LIVE | QUICK_EVALUATION | {"schedule.rounds": 2}
    succeed("distill", settings | {"out": tmp_path / "first"})
    with no_compilation():
        succeed("distill", settings | {"seed": 7, "out": tmp_path / "second"})


def check_live_metrics(out: Path) -> None:
    lines = read_lines(out)
    updates = [line["step"] for line in lines if "loss" in line]
    assert updates == list(range(10, 2401, 10))
    scores = [line for line in lines if "score/cartpole" in line]
    assert [line["step"] for line in scores] == [40 * 58]
    assert scores[0]["score_low/cartpole"] <= scores[0]["score/cartpole"] <= scores[0]["score_high/cartpole"] <= 40
    assert [line["env_steps"] for line in lines if "loss" in line][-1] == 128 * 60
    # The checkpoint was saved after it was scored.
    (record,) = (path for path in (out / "checkpoints" / str(scores[0]["step"])).rglob("metadata") if path.is_file())
    assert json.loads(record.read_text())["score"] == scores[0]["score/cartpole"]


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(
    tmp_path: Path, recorded_run_options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    diverging = {"loss.kind": "mse", "learner.learning-rate": 1e6, "student.mlp-hidden": [16] * 5}
    settings = recorded_run_options | diverging | {"out": out}
    assert main(["distill", *options(settings)]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last.startswith("pd-jax distill: the loss became ")
    assert "begin again in a new --out, with a smaller learner.learning_rate" in last
    assert all(line["loss"] is not None for line in read_lines(out))
    assert not (out / "summary.json").exists()


def test_a_disk_that_takes_no_more_is_told_of_in_lines_not_in_tracebacks(
    tmp_path: Path, recorded_run_options: dict[str, Any]
) -> None:
    out = tmp_path / "run"

    large = {"student.mlp-hidden": [64, 64], "schedule.rounds": 2}
    settings = recorded_run_options | QUICK_EVALUATION | large | {"out": out}
    # Room for the configuration and the summary, not for the metrics, the checkpoints or a figure.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))"
    code = f"{limit}; from pd_jax.cli import run; run()"
    ended = run([sys.executable, "-c", code, "distill", *options(settings)])
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.code == 0, ended.stderr
    assert f"warning: {out / 'metrics.jsonl'}: metrics cannot be written: " in ended.stderr
    assert "checkpoint 400 was not saved: " in ended.stderr
    assert f"warning: {out / 'progress.png'}: cannot be written: File too large" in ended.stderr
    assert json.loads((out / "summary.json").read_text())["updates"] == 400


def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, recorded_run_options: dict[str, Any], finished_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    config = (out / "config.yaml").read_text()
    assert config.count("- 16\n") == 1
    (out / "config.yaml").write_text(config.replace("- 16\n", "- 24\n").replace(str(finished_run), str(out)))
    before = contents(out)
    settings = recorded_run_options | QUICK_EVALUATION | {"out": out, "resume": True}
    message = refusal(capfd, "distill", *options(settings))
    assert message == (
        f"pd-jax distill: {out}: holds a different run: student.mlp_hidden is [24] there and [16] here; "
        "choose another --out"
    )
    message = refusal(capfd, "distill", *options(settings | {"student.mlp-hidden": 24}))
    holds = f"{out}/checkpoints: checkpoint 1000 holds network mlp, the run wants mlp ("
    assert message.startswith(f"pd-jax distill: {holds}")
    assert "float32 [16, 2] there and float32 [24, 2] here" in message
    assert refusal(capfd, "evaluate", "--run", str(out)).startswith(f"pd-jax evaluate: {holds}")
    assert contents(out) == before


def test_another_teacher_under_the_same_name_is_not_taken_for_the_first(
    tmp_path: Path,
    recorded_run_options: dict[str, Any],
    finished_run: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    # As if it had been live play: another teacher's recording is refused earlier.
    config = re.sub(r"(?m)^data: .*", "data: null", (out / "config.yaml").read_text())
    (out / "config.yaml").write_text(config.replace(str(finished_run), str(out)))
    before = contents(out)
    settings = recorded_run_options | QUICK_EVALUATION | {"env.num-lanes": 8, "out": out, "resume": True}
    del settings["data"]
    monkeypatch.setattr("pd_jax.teachers.loading.fingerprint", lambda path: "0" * 64)
    message = refusal(capfd, "distill", *options(settings))
    assert message.startswith(f"pd-jax distill: {out}: was begun with another teacher file (")
    assert message.endswith(", now 000000000000); --accept-other-teacher goes on with it")
    assert contents(out) == before


def test_a_run_that_was_stopped_in_its_first_play_is_as_choosy(
    tmp_path: Path,
    recorded_run_options: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its checkpoint is of update 0."""

    def stop(experience: Experience) -> None:
        raise Interrupted(signal.SIGTERM)

    out = tmp_path / "run"
    settings = recorded_run_options | QUICK_EVALUATION | {"env.num-lanes": 8, "out": out}
    del settings["data"]
    with monkeypatch.context() as patch:
        patch.setattr(Experience, "play_round", stop)
        assert main(["distill", *options(settings)]) == 128 + signal.SIGTERM
    assert checkpoint_steps(out) == [0]
    monkeypatch.setattr("pd_jax.teachers.loading.fingerprint", lambda path: "0" * 64)
    message = refusal(capfd, "distill", *options(settings | {"resume": True}))
    assert message.startswith(f"pd-jax distill: {out}: was begun with another teacher file (")


def test_a_run_goes_on_only_from_the_recording_it_was_begun_with(
    tmp_path: Path,
    recording: Path,
    recorded_run_options: dict[str, Any],
    finished_run: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, other, moved = tmp_path / "run", tmp_path / "other", tmp_path / "moved"
    shutil.copytree(finished_run, out)
    shutil.copytree(recording, moved)
    play = {"teacher": "cartpole", "steps": 1024, "rollout-length": 32, "env.num-lanes": 8}
    # Of the same settings as the first, and still another recording.
    succeed("collect", play | {"out": other})
    settings = recorded_run_options | QUICK_EVALUATION | {"out": out, "resume": True}
    message = refusal(capfd, "distill", *options(settings | {"schedule.rounds": 4}))
    assert message == f"pd-jax distill: schedule.rounds: 4 is less than {out} has (5)"
    message = refusal(capfd, "distill", *options(settings | {"data": other}))
    assert message == f"pd-jax distill: {out}: was begun with another recording, not with {other}"
    succeed("distill", settings | {"data": moved})
    assert state_digests(out) == state_digests(finished_run)
