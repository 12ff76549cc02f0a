"""Runs as teachers: their teacher file, or their student made into one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pd_jax import load_student, load_teacher
from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from support import commands
from support.sb3_models import random_observations

QUICK = commands.QUICK_EVALUATION | {
    "student.network": "mlp", "student.mlp-hidden": [8, 8], "schedule.rounds": 1, "schedule.steps-per-round": 256,
    "schedule.updates-per-round": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that ended: of distill with one game and with two, and of train-teacher."""
    directory = tmp_path_factory.mktemp("runs")
    commands.succeed("distill", QUICK | {"teacher": "cartpole", "loss.kind": "mse", "out": directory / "one"})
    commands.succeed("distill", QUICK | {"teacher": ["cartpole", "acrobot"], "out": directory / "two"})
    train = {
        "game": "cartpole", "network": "mlp", "mlp-hidden": 8, "pqn.total-steps": 1024, "pqn.num-lanes": 16,
        "pqn.rollout-length": 32, "pqn.minibatches": 2, "evaluation.episodes": 2, "evaluation.progress-episodes": 2,
    }  # fmt: skip
    commands.succeed("train-teacher", train | {"out": directory / "teacher"})
    return {path.name: path for path in directory.iterdir()}


def imported(run: Path, out: Path, game: str, *more: str) -> int:
    return main(["teachers", "import", str(run), "--game", game, "--out", str(out), *more])


@pytest.mark.parametrize(
    ("name", "games", "output"), [("one", ["cartpole"], "q"), ("two", ["cartpole", "acrobot"], "logits")]
)
def test_a_runs_student_is_a_teacher_file_that_answers_as_it_does(name, games, output, runs, tmp_path):
    out = tmp_path / "t.safetensors"
    assert imported(runs[name], out, games[-1], "--evaluate-episodes", "2") == 0
    for game in games:
        teacher, student = load(out, game), load_student(runs[name], game=game if len(games) > 1 else None)
        observations = random_observations(get_task(game), 32)
        np.testing.assert_array_equal(teacher(observations), student.outputs(observations))
        assert teacher.metadata.output == output
        assert teacher.metadata.evaluation.get("episodes") == (2 if game == games[-1] else None)


def test_a_student_teaches_the_next_one(runs, tmp_path, capfd):
    """From its run directory, and of two games the one that is asked for."""
    assert imported(runs["one"], tmp_path / "t.safetensors", "cartpole") == 0
    loaded, student = load_teacher(runs["one"]), load_student(runs["one"])
    observations = random_observations(get_task("cartpole"), 32)
    np.testing.assert_array_equal(loaded(observations), student.outputs(observations))
    assert (loaded.metadata.output, loaded.source) == ("q", str(runs["one"]))
    commands.succeed("distill", QUICK | {"teacher": [runs["one"], runs["two"]], "game": ["cartpole", "acrobot"],
                                         "out": tmp_path / "both"})  # fmt: skip
    commands.succeed("evaluate", commands.QUICK_EVALUATION | {"teacher": runs["two"], "game": "acrobot"})
    play = {"teacher": runs["one"], "steps": 256, "env.num-lanes": 4, "rollout-length": 64}
    commands.succeed("collect", play | {"out": tmp_path / "play"})
    commands.succeed(
        "distill", QUICK | {"teacher": runs["one"], "data": tmp_path / "play", "out": tmp_path / "of-play"}
    )
    # The student of another run is another teacher.
    message = commands.refusal(
        capfd, "distill", "--teacher", str(runs["two"]), "--game", "cartpole", "--data", str(tmp_path / "play"),
        "--out", str(tmp_path / "other"), "--student.network", "mlp",
    )  # fmt: skip
    assert "of another fingerprint" in message and str(runs["two"]) in message


def test_which_game_of_a_run_teaches_has_to_be_clear(runs, capfd, tmp_path):
    with pytest.raises(UserError, match="its student plays cartpole, acrobot; say with --game which one is meant"):
        load_teacher(runs["two"])
    with pytest.raises(UserError, match="its student plays cartpole, not acrobot"):
        load_teacher(runs["one"], "acrobot")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    text = (runs["one"] / "config.yaml").read_text()
    (unfinished / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_teacher(unfinished)
    (unfinished / "config.yaml").write_text(text.replace("pd-jax distill", "pd-jax online", 1))
    with pytest.raises(UserError, match=r"is a run of pd-jax online that has not left a teacher\.safetensors"):
        load_teacher(unfinished)


def test_a_run_that_leaves_a_teacher_is_taken_wherever_a_teacher_is(runs, tmp_path, capfd):
    run, file = runs["teacher"], runs["teacher"] / "teacher.safetensors"
    assert load(run).sha256 == load(file).sha256 and load(run).source == str(run)
    commands.succeed("evaluate", commands.QUICK_EVALUATION | {"teacher": run})
    commands.succeed("distill", QUICK | {"teacher": run, "out": tmp_path / "run"})
    assert main(["teachers", "show", str(run)]) == 0
    assert str(file) in capfd.readouterr().out
    assert imported(run, tmp_path / "t.safetensors", "cartpole") == 0
    assert (tmp_path / "t.safetensors").read_bytes() == file.read_bytes()


def test_what_one_game_taught_by_rewards_is_a_student_too(runs, tmp_path):
    observations = random_observations(get_task("cartpole"), 32)
    student = load_student(runs["teacher"])
    np.testing.assert_array_equal(student.outputs(observations), load(runs["teacher"])(observations))
    out = tmp_path / "scores"
    commands.succeed(
        "evaluate", commands.QUICK_EVALUATION | {"teacher": "cartpole", "run": runs["teacher"], "out": out}
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["games"]["cartpole"]["student_score"] is not None and summary["student_parameters"] == 74


def test_what_is_no_teacher_yet_says_how_to_make_one(runs, tmp_path, capfd):
    with pytest.raises(
        UserError, match=r"is a run directory without a teacher\.safetensors; pd-jax teachers import RUN"
    ):
        load(runs["one"])
    with pytest.raises(UserError, match="is a directory, not a file"):
        load(tmp_path)

    def refuse(*argv: str) -> str:
        return commands.refusal(capfd, "teachers", "import", str(runs["one"]), *argv)

    out = ["--out", str(tmp_path / "t.safetensors")]
    assert refuse("--game", "acrobot", *out).endswith("its student plays cartpole, not acrobot")
    told = ["--observation-statistics", "none"]
    assert refuse("--game", "cartpole", *out, *told).endswith("is a run, whose student sees observations as they are")
    assert not (tmp_path / "t.safetensors").exists()
