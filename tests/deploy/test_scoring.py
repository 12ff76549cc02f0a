"""``pd-jax evaluate`` through the real command."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.student import load_trained
from pd_jax.evaluation import games
from pd_jax.system.cores import usable_cores
from support.commands import (
    ENDLESS_EVALUATION,
    QUICK_EVALUATION,
    contents,
    options,
    refusal,
    state_digests,
    stop_when,
    succeed,
    write_teacher,
)


def read_summary(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def test_a_teacher_alone_is_scored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    succeed("evaluate", QUICK_EVALUATION | {"teacher": "cartpole", "out": out})
    # Every game is cut after 40 steps of reward 1; the teacher never drops the pole so early.
    assert capfd.readouterr().out == "cartpole teacher: 40.0 ± 0.0 (95 % interval 40.0 to 40.0) over 4 episodes\n"
    summary = read_summary(out)
    assert summary["games"]["cartpole"]["teacher_score"] == 40.0
    assert summary["teacher_parameters"] == 5 * 128 + 129 * 128 + 129 * 2 + 4 * 128
    assert read_yaml(out / "config.yaml")["game"] == "cartpole"


def test_a_run_and_its_teacher_are_compared_from_the_same_starts(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = games.evaluate

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append({name: value for name, value in kwargs.items() if name != "on_progress"})
        return real(*args, **kwargs)

    monkeypatch.setattr(games, "evaluate", spy)
    before, out = contents(finished_run), tmp_path / "out"
    succeed("evaluate", QUICK_EVALUATION | {"teacher": "cartpole", "run": finished_run, "seed": 5, "out": out})
    teacher, student = calls
    assert teacher == student
    assert teacher["seed"] == 5 + 1_000_000
    table = capfd.readouterr().out
    assert "cartpole" in table and "157.2x smaller" in table
    assert "cost" not in table, "the seconds are the evaluation's, the updates the training's"
    check_comparison(read_summary(out), finished_run)
    assert contents(finished_run) == before, "a run is only read"


def check_comparison(summary: dict[str, Any], run: Path) -> None:
    whole = read_summary(run)
    for name in ("student_parameters", "teacher_parameters", "env_steps", "updates"):
        assert summary[name] == whole[name]
    assert summary["games"]["cartpole"].keys() == whole["games"]["cartpole"].keys()
    assert {"geometric_mean_percent", "wall_seconds"} <= summary.keys()


@pytest.mark.skipif(len(usable_cores()) < 2, reason="one core is one job's")
def test_two_jobs_give_the_scores_of_one(finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = QUICK_EVALUATION | {"teacher": "cartpole", "run": finished_run, "evaluation.epsilon": 0.5}
    printed = []
    for jobs in (1, 2):
        succeed("evaluate", values | {"jobs": jobs, "out": tmp_path / str(jobs)})
        printed.append(capfd.readouterr().out)
    one, two = (read_summary(tmp_path / jobs) for jobs in "12")
    assert one["games"]["cartpole"]["teacher_standard_error"] > 0
    del one["wall_seconds"], two["wall_seconds"]
    assert one == two
    assert printed[0] == printed[1]
    assert read_yaml(tmp_path / "1" / "config.yaml") == read_yaml(tmp_path / "2" / "config.yaml") | {
        "out": str(tmp_path / "1")
    }
    assert refusal(capfd, "evaluate", *options(values | {"jobs": 2, "profile": True, "out": tmp_path / "3"})) == (
        "pd-jax evaluate: --profile: true, and jobs is 2: what is traced is this process, and others play"
    )


def test_a_student_alone_is_scored_and_is_the_one_of_the_newest_checkpoint(
    finished_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    succeed("evaluate", QUICK_EVALUATION | {"run": finished_run})
    score = read_summary(finished_run)["games"]["cartpole"]["student_score"]
    assert capfd.readouterr().out.startswith(f"cartpole student: {score:.1f} ± "), "the run's own protocol and seeds"
    student = load_trained(str(finished_run))
    assert student.counters.updates == 1000
    leaves = jax.tree_util.tree_flatten_with_path({"variables": student.variables})[0]
    digests = state_digests(finished_run, 1000)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        assert hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() == digests[name]
    assert len(leaves) == sum(name.startswith("variables.") for name in digests)


def test_the_best_checkpoint_is_the_one_with_the_highest_score_on_the_way(
    finished_run: Path, recorded_run_options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored"
    on_the_way = {"evaluation.every-rounds": 2, "evaluation.progress-episodes": 4}
    succeed("distill", recorded_run_options | QUICK_EVALUATION | on_the_way | {"out": out})
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["score/cartpole"] for line in lines if "score/cartpole" in line}
    assert set(scores) == {400, 800}
    best = max(scores, key=lambda step: (scores[step], step))
    assert load_trained(str(out), checkpoint="best").counters.updates == best
    assert load_trained(str(out)).counters.updates == 1000
    scored = QUICK_EVALUATION | {"run": out, "out": tmp_path / "evaluation"}
    succeed("evaluate", scored | {"checkpoint": "best"})
    summary = read_summary(tmp_path / "evaluation")
    assert (summary["updates"], summary["run"], summary["student_network"]) == (best, str(out), "mlp")
    message = refusal(capfd, "evaluate", *options(scored | {"resume": True}))
    assert "holds a different run: checkpoint is 'best' there and 'newest' here" in message
    message = refusal(capfd, "evaluate", "--run", str(finished_run), "--checkpoint", "best")
    assert message == (
        f"pd-jax evaluate: {finished_run}: no checkpoint has a score; evaluation.every_rounds is what scores them"
    )
    message = refusal(capfd, "evaluate", "--teacher", "cartpole", "--checkpoint", "best")
    assert message == "pd-jax evaluate: --checkpoint: 'best' of no run; give --run DIR"


def test_an_evaluation_that_was_stopped_is_done_again_with_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["evaluate", *options(ENDLESS_EVALUATION | {"teacher": "cartpole", "out": out})]
    assert stop_when((out / "config.yaml").exists, signal.SIGKILL, *argv).code == -signal.SIGKILL
    message = refusal(capfd, *argv)
    assert message == f"pd-jax evaluate: {out}: holds a run; add --resume to continue it, or choose another --out"
    interrupt_soon()
    assert main([*argv, "--resume"]) == 128 + signal.SIGINT
    assert capfd.readouterr().err.endswith("pd-jax evaluate: stopped by SIGINT; add --resume to go on\n")
    assert not (out / "summary.json").exists()


def interrupt_soon() -> None:
    """Ctrl-C for this process, as soon as it is ready to hear it."""
    usual = signal.getsignal(signal.SIGINT)

    def press() -> None:
        while signal.getsignal(signal.SIGINT) is usual:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def test_what_does_not_belong_together_is_refused(
    finished_run: Path, recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", str(finished_run)]
    message = refusal(capfd, "evaluate", *run, "--game", "acrobot")
    assert message == f"pd-jax evaluate: {finished_run}: its student plays cartpole, not acrobot"
    teacher = str(write_teacher(tmp_path / "acrobot.safetensors", "acrobot"))
    message = refusal(capfd, "evaluate", *run, "--teacher", teacher)
    assert message == f"pd-jax evaluate: teacher {teacher}: plays acrobot with 3 actions; cartpole has 2"
    message = refusal(capfd, "evaluate", "--run", str(recording))
    assert message == f"pd-jax evaluate: {recording}: is a run of pd-jax collect, which has no student"


def test_a_run_without_a_checkpoint_has_no_student_yet(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_bytes((finished_run / "config.yaml").read_bytes())
    message = refusal(capfd, "evaluate", "--run", str(begun), "--out", str(tmp_path / "out"))
    assert message == f"pd-jax evaluate: {begun}: has no checkpoint yet"
    assert {path.name for path in tmp_path.rglob("*")} == {"begun", "config.yaml"}
