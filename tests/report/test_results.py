"""Finding runs, and reading what they say, from real directories."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.loading import to_mapping
from pd_jax.config.sections import EnvConfig, EvaluationConfig, ScheduleConfig, StudentConfig, StudentEvaluationConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.config.yaml import read_yaml, write_yaml
from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.report.results import Recipe, find_runs, read_results
from pd_jax.runs.directory import RunDirectory, read_run
from support.made_runs import read_all, rules, write_distillation, write_evaluation


def names(*paths: Path) -> list[str]:
    return [run.path.name for run in find_runs(paths, lambda _: None)]


def problem(*paths: Path) -> str:
    with pytest.raises(UserError) as error:
        read_all(*paths)
    assert str(error.value).isprintable()
    return str(error.value)


def rewrite(run: Path, **changes: Any) -> Path:
    """Replaces entries of a run's configuration."""
    header = (run / "config.yaml").read_text().splitlines()[0]
    (run / "config.yaml").write_text(f"{header}\n{write_yaml(read_yaml(run / 'config.yaml') | changes)}")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_distillation(tmp_path / "run")


def test_runs_are_found_where_they_are_and_two_levels_below(tmp_path: Path) -> None:
    for name in ("b", "a", "sweep/net2/0", "deep/er/than/two"):
        write_distillation(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a run")
    recording = RunDirectory.create(tmp_path / "recording", "collect", {"teacher": "pong"})
    recording.close()
    assert names(tmp_path / "a") == ["a"]
    assert names(tmp_path) == ["a", "b"]
    assert names(tmp_path / "sweep", tmp_path / "b") == ["0", "b"]


def test_a_run_is_not_searched_for_others(run: Path) -> None:
    write_distillation(run / "inside")
    assert names(run) == ["run"]


def test_a_directory_of_another_command_is_searched(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "sweep", "sweep", {"networks": ["net2"]}).close()
    write_distillation(tmp_path / "sweep" / "runs" / "net2")
    assert names(tmp_path / "sweep") == ["net2"]


def test_another_programs_configuration_is_no_run(tmp_path: Path, run: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("model: large\n")
    assert names(tmp_path) == ["run"]
    assert "holds no run" in problem(tmp_path / "other")
    (run / "config.yaml").write_text("# pd-jax distill\n{")
    assert problem(tmp_path).startswith(f"{run / 'config.yaml'}: line 2")


def test_the_same_run_counts_once_and_is_told_of(tmp_path: Path, run: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    warnings: list[str] = []
    found = find_runs([run, tmp_path / "link", run.parent], warnings.append)
    assert [item.path for item in found] == [run]
    assert warnings[0] == f"{tmp_path / 'link'}: is the same run as {run}; counted once"
    assert all("counted once" in warning for warning in warnings)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path / "none") == f"{tmp_path / 'none'}: no such directory"
    (tmp_path / "file").write_text("")
    assert problem(tmp_path / "file") == f"{tmp_path / 'file'}: is a file, not a run directory"
    (tmp_path / "empty").mkdir()
    message = problem(tmp_path / "empty")
    assert message.startswith(f"{tmp_path / 'empty'}: holds no run of pd-jax distill, online, evaluate, train-teacher")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    assert problem(tmp_path / "loop").startswith(f"{tmp_path / 'loop'}: holds no run")


def test_a_distillation_as_it_is_read(tmp_path: Path) -> None:
    path = write_distillation(tmp_path / "run", student=(17.0, 19.0), teacher=(18.0, 22.0), seed=3)
    (found,), warnings = read_all(path)
    assert not warnings
    assert (found.game, found.seed, found.random_score) == ("pong", 3, -20.7)
    # Of two returns the bootstrap's interval is the two.
    assert found.student == Score(18.0, 1.0, 17.0, 19.0, 2)
    assert found.teacher == Score(20.0, 2.0, 18.0, 22.0, 2)
    assert found.recipe == Recipe("distill", "net2", "kl", 0.01)
    assert found.rules == rules(0.05, 30, 0.0, None)
    assert found.rules.describe() == "ε = 0.05, up to 30 no-ops"
    assert (found.student_parameters, found.teacher_name) == (113_346, "pong-dqn (pong)")


def test_the_protocol_is_that_of_the_evaluation(tmp_path: Path) -> None:
    path = write_distillation(
        tmp_path / "run",
        env=EnvConfig(sticky_action_probability=0.25, max_noops=1, max_episode_steps=900),
        evaluation=StudentEvaluationConfig(epsilon=0.001, max_episode_steps=200),
    )
    ((found,), _) = read_all(path)
    assert found.rules == rules(0.001, 1, 0.25, 200)
    text = "ε = 0.001, up to 1 no-ops, sticky actions (0.25), games cut after 200 steps"
    assert found.rules.describe() == text


def test_a_limit_that_is_the_games_own_is_no_other_protocol(tmp_path: Path) -> None:
    paths = [
        write_distillation(tmp_path / "a", evaluation=StudentEvaluationConfig(max_episode_steps=27_000)),
        write_distillation(tmp_path / "b", game="cartpole", network="mlp", env=EnvConfig(max_episode_steps=500)),
    ]
    results, _ = read_all(*paths)
    # What CartPole does not have is no part of its protocol.
    assert [found.rules for found in results] == [rules(0.05, 30, 0.0, None), rules(0.05, None, None, None)]


def test_sizes_are_a_part_of_a_networks_name(tmp_path: Path) -> None:
    path = write_distillation(tmp_path / "run", game="cartpole", network="mlp")
    rewrite(path, student=to_mapping(StudentConfig(network="mlp", mlp_hidden=(16, 8))))  # type: ignore[arg-type]
    assert read_all(path)[0][0].recipe == Recipe("distill", "mlp 16-8", "kl", 0.01)
    rewrite(path, student={"network": "dqn", "channels": [8, 8, 8], "hidden": 100})
    assert read_all(path)[0][0].recipe == Recipe("distill", "dqn 8-8-8 100", "kl", 0.01)
    rewrite(path, student={"network": "multi3", "head_hidden": 8})
    assert read_all(path)[0][0].recipe == Recipe("distill", "multi3 heads 8", "kl", 0.01)


@pytest.mark.parametrize(
    ("configured", "summary", "expected"),
    [
        (None, {}, None),
        (None, {"temperature": 1.0}, 1.0),
        (0.5, {}, 0.5),
        ([0.5], {}, 0.5),
        ([0.5, 0.5], {}, 0.5),
        (None, {"temperature": [0.01, 0.01]}, 0.01),
        ([0.01, 1.0], {}, (0.01, 1.0)),
        (None, {"temperature": [0.01, 1.0]}, (0.01, 1.0)),
    ],
)
def test_the_temperature_is_what_was_used(
    tmp_path: Path, configured: Any, summary: dict[str, Any], expected: float | tuple[float, ...] | None
) -> None:
    path = rewrite(
        write_distillation(tmp_path / "run", summary=summary), loss={"kind": "kl", "temperature": configured}
    )
    ((found,), _) = read_all(path)
    assert found.recipe is not None
    assert found.recipe.temperature == expected


def test_settings_leave_out_what_changes_no_student_and_fill_in_what_is_new(tmp_path: Path) -> None:
    path = write_distillation(tmp_path / "a", seed=5)
    other = write_distillation(tmp_path / "b", evaluation=StudentEvaluationConfig(episodes=7))
    config = read_yaml(other / "config.yaml")
    for old in ("learning_rate_decay", "max_grad_norm"):
        del config["learner"][old]
    config["env"] |= {"num_threads": 7, "stepping": "host"}
    rewrite(other, **config)
    (first, second), _ = read_all(path, other)
    assert first.settings == second.settings
    assert first.settings["learner.learning_rate"] == 2.5e-4
    assert first.settings["data"] == "live"
    assert {"seed", "out", "teacher", "evaluation.episodes", "env.stepping"}.isdisjoint(first.settings)


def test_a_student_of_several_games_is_one_run_with_several_results(tmp_path: Path) -> None:
    path = write_distillation(tmp_path / "run", game="pong")
    summary = json.loads((path / "summary.json").read_text())
    summary["games"] |= {"breakout": summary["games"]["pong"] | {"random_score": None}}
    summary |= {"teacher": ["pong-dqn", "breakout-dqn"]}
    (path / "summary.json").write_text(json.dumps(summary))
    rewrite(path, game=["pong", "breakout"], teacher=["pong", "my.safetensors"])
    results, _ = read_all(path)
    assert [(found.game, found.teacher_name) for found in results] == [
        ("pong", "pong-dqn (pong)"),
        ("breakout", "breakout-dqn (my.safetensors)"),
    ]
    assert results[0].recipe == results[1].recipe
    assert results[0].recipe is not None
    assert results[0].recipe.together == ("breakout", "pong")
    assert results[1].random_score == 1.7, "the task's, where the run had none"


def test_an_evaluation_tells_of_the_student_that_it_scored(tmp_path: Path) -> None:
    trained = write_distillation(tmp_path / "run", seed=4, loss="nll")
    path = write_evaluation(
        tmp_path / "evaluation", trained, student=(10.0, 12.0), teacher=(20.0, 22.0), seed=9,
        evaluation=EvaluationConfig(epsilon=0.1),
    )  # fmt: skip
    (ours, theirs), warnings = read_all(trained, path)
    assert not warnings
    assert (theirs.recipe, theirs.seed, theirs.settings) == (ours.recipe, 4, ours.settings)
    assert theirs.rules == dataclasses.replace(ours.rules, epsilon=0.1)
    assert (theirs.student, theirs.teacher_name) == (Score(11.0, 1.0, 10.0, 12.0, 2), "pong-dqn (pong)")
    assert theirs.run == str(path)


def test_an_evaluation_of_another_checkpoint_is_of_another_student(tmp_path: Path) -> None:
    trained = write_distillation(tmp_path / "run")
    best = write_evaluation(tmp_path / "best", trained, student=(1.0, 2.0), teacher=None, checkpoint="best")
    early = write_evaluation(tmp_path / "early", trained, student=(1.0, 2.0), teacher=None)
    summary = json.loads((early / "summary.json").read_text())
    (early / "summary.json").write_text(json.dumps(summary | {"updates": 500}))
    (of_best, of_early), _ = read_all(best, early)
    assert of_best.recipe is not None and of_early.recipe is not None
    assert (of_best.recipe.checkpoint, of_best.settings["updates"]) == ("best", "all")
    assert (of_early.recipe.checkpoint, of_early.settings["updates"]) == ("newest", "500")
    assert of_best.teacher is None


def test_an_evaluation_whose_run_is_gone_is_kept_apart(tmp_path: Path) -> None:
    trained = write_distillation(tmp_path / "run")
    path = write_evaluation(tmp_path / "evaluation", trained, student=(10.0, 12.0), teacher=(20.0, 22.0))
    shutil.rmtree(trained)
    ((found,), (warning,)) = read_all(path)
    assert found.recipe == Recipe("distill", "net2", None, None)
    assert found.seed == str(trained)
    assert f"{path}: the run that it scored is not at {trained}" in warning


def test_a_trained_teacher_is_read(tmp_path: Path) -> None:
    config = TrainTeacherConfig(game="cartpole", out=str(tmp_path / "t"), network="mlp")
    summary = {
        "game": "cartpole", "algorithm": "pqn", "teacher": "t/teacher.safetensors", "teacher_score": 480.0,
        "teacher_standard_error": 3.0, "teacher_ci95": [474.0, 486.0], "episodes": 30, "epsilon": 0.05,
        "env_steps": 1000, "learning_curve": [],
    }  # fmt: skip
    with RunDirectory.create(tmp_path / "t", "train-teacher", to_mapping(config)) as run:
        run.write_summary(summary)
    ((found,), _) = read_all(tmp_path / "t")
    assert (found.student, found.recipe) == (None, None)
    assert found.teacher == Score(480.0, 3.0, 474.0, 486.0, 30)
    assert found.settings == {"network": "mlp", "algorithm": "pqn"}


def test_a_run_that_has_not_ended_has_no_results(run: Path) -> None:
    (run / "summary.json").unlink()
    assert read_results(read_run(run), lambda _: None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a summary: Expecting value: line 1 column 1 (char 0)"),
        ('{"games": {', "is not a summary: Expecting"),
        ("[1, 2]", "is not a summary: it holds a list, not a mapping"),
        ("null", "is not a summary: it holds null, not a mapping"),
        ("[" * 100_000, "is not a summary: nested too deeply"),
        ("{}", "games: null is not a mapping of games; it is not the summary of a run"),
        ('{"games": {}}', "games: a mapping is not a mapping of games"),
        ('{"games": [1]}', "games: a list is not a mapping of games"),
        ('{"games": {"pong": 3}}', "games.pong: 3 is not a mapping of scores"),
        ('{"games": {"pong": {}}}', "games.pong: has neither teacher_score nor student_score"),
        ('{"games": {"\\u001b[2J": 3}}', r"games.'\x1b[2J': 3 is not a mapping of scores"),
        ('{"games": {"pong": {"student_score": NaN, "episodes": 3}}}', "games.pong.student_score: nan is not"),
        ('{"games": {"pong": {"student_score": 1, "episodes": 0}}}', "games.pong.episodes: 0 is not a number of"),
        ('{"games": {"pong": {"student_score": 1, "episodes": 9}}, "updates": "x"}', "updates: 'x' is not a whole"),
        ('{"games": {"pong": {"student_score": 1, "episodes": 9}}, "temperature": "x"}', "temperature: 'x' is not a"),
    ],
)
def test_a_damaged_summary_is_one_line(run: Path, text: str, message: str) -> None:
    (run / "summary.json").write_text(text)
    said = problem(run)
    assert said.startswith(str(run))
    assert message in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "one"}, "seed: 'one' is not a whole number from 0 on"),
        ({"student": "net2"}, "student: 'net2' is not a mapping"),
        ({"student": {"network": None}}, "student.network: null is not a name"),
        ({"loss": {"kind": 3}}, "loss.kind: 3 is not a name"),
        ({"loss": {"kind": "kl", "temperature": "hot"}}, "loss.temperature: 'hot' is not a finite number"),
        ({"env": {"sticky_action_probability": "often"}}, "sticky_action_probability: 'often' is not a finite number"),
        ({"evaluation": {"max_episode_steps": 1.5}}, "max_episode_steps: 1.5 is not a whole number from 0 on"),
    ],
)
def test_a_damaged_configuration_is_one_line(run: Path, changes: dict[str, Any], message: str) -> None:
    assert problem(rewrite(run, **changes)) == f"{run / 'config.yaml'}: {message}"


def test_a_summary_that_is_no_file_is_one_line(run: Path) -> None:
    (run / "summary.json").unlink()
    os.mkfifo(run / "summary.json")
    assert problem(run) == f"{run / 'summary.json'}: is not a summary: not a regular file"


def test_schedules_of_foreign_types_do_not_matter(tmp_path: Path) -> None:
    trained = rewrite(write_distillation(tmp_path / "run"), schedule={"rounds": "many"})
    path = write_evaluation(tmp_path / "evaluation", trained, student=(1.0, 2.0), teacher=None)
    ((found,), _) = read_all(path)
    assert found.settings["updates"] == "all"
    assert found.settings["schedule.rounds"] == "many"
    assert found.settings["schedule.steps_per_round"] == ScheduleConfig().steps_per_round
