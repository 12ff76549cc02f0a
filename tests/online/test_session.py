"""Online distillation through the real command: what it leaves behind, whom the student follows, and how it resumes."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pd_jax.online.scorer
import pd_jax.online.session
from pd_jax.cli import main
from pd_jax.config.loading import read_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import EvaluationConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.deploy.student import load_trained
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.evaluator import EpisodeScores
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.student import make_student
from pd_jax.online.state import state_template
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.teachers.files import read_teacher
from support.commands import (
    ENDLESS_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    stop_when,
    succeed,
    write_teacher,
)

# A round is 8 rollouts of the teacher's, 2 of the target's and 4 calls of the student's.
SHORT = {
    "game": "cartpole",
    "mlp-hidden": 8,
    "pqn.total-steps": 2048,
    "pqn.num-lanes": 4,
    "pqn.rollout-length": 16,
    "pqn.minibatches": 4,
    "pqn.epochs": 1,
    "env.num-lanes": 4,
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "learner.updates-per-call": 10,
    "replay.capacity": 512,
    "schedule.rounds": 4,
    "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 40,
    "schedule.rollout-length": 16,
    "evaluation.every-rounds": 2,
    "evaluation.progress-episodes": 4,
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.max-episode-steps": 40,
    "checkpoint.every-updates": 40,
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    out = tmp_path_factory.mktemp("online") / "run"
    succeed("online", SHORT | {"out": out})
    return out


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From nothing to a student that balances the pole. Not to be written to."""
    out = tmp_path_factory.mktemp("online") / "good"
    succeed("online", GOOD | {"out": out})
    return out


GOOD = {
    "config": Path(__file__).parents[2] / "configs" / "quick" / "online_cartpole.yaml",
    "pqn.total-steps": 81_920,
    "schedule.rounds": 10,
    "evaluation.progress-episodes": 10,
    "evaluation.num-lanes": 10,
    "evaluation.episodes": 20,
}


def scores_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "cartpole/teacher_score" in line]


def test_a_finished_run_holds_what_it_should(short_run: Path) -> None:
    files = {"config.yaml", "metrics.jsonl", "summary.json", "progress.png", "report.html", "teacher.safetensors"}
    files |= {"lineage.json", "details.json"}
    verified = verify_lineage(short_run)
    assert (verified.all_faults, verified.title.split()[:2]) == ((), ["online", "run"])
    assert {path.name for path in short_run.iterdir()} - {".lock"} == files | {"checkpoints", "tb"}
    assert (short_run / "progress.png").read_bytes().startswith(b"\x89PNG")
    config = read_yaml(short_run / "config.yaml")
    assert (config["teacher_network"], config["layer_norm"], config["mlp_hidden"]) == ("mlp", True, [8])
    # The newest three, and the best of those with a score, which are among them or before them.
    assert checkpoint_steps(short_run)[-3:] == [1024 + 80, 1536 + 120, 2048 + 160]


def test_a_summary_has_the_fixed_fields_and_the_latest_teacher_beside_the_target(short_run: Path) -> None:
    summary = json.loads((short_run / "summary.json").read_text())
    game = summary["games"]["cartpole"]
    assert game["percent_of_teacher"] == pytest.approx(100 * game["student_score"] / game["teacher_score"])
    assert summary["geometric_mean_percent"] == pytest.approx(game["percent_of_teacher"])
    assert 8 <= game["latest_teacher_score"] <= 40
    assert game["episodes"] == 4
    # 4 -> 8 -> 2 with biases; the teacher has a LayerNorm besides.
    assert (summary["student_parameters"], summary["teacher_parameters"]) == (5 * 8 + 9 * 2, 5 * 8 + 9 * 2 + 2 * 8)
    assert (summary["updates"], summary["env_steps"], summary["teacher_env_steps"]) == (160, 4 * 128, 2048)
    assert [point["env_steps"] for point in summary["learning_curve"]] == [0, 1024, 2048]
    _, metadata = read_teacher(short_run / "teacher.safetensors")
    assert metadata.evaluation["mean"] == game["teacher_score"]
    assert metadata.evaluation["seed"] == 1_000_000 + 500_000
    assert metadata.env_steps == summary["target_env_steps"]
    assert metadata.how_made.startswith("pd-jax online on ")


def test_the_teachers_file_names_the_step_limit_that_the_section_env_sets(tmp_path: Path) -> None:
    options = {name: value for name, value in SHORT.items() if name != "evaluation.max-episode-steps"}
    succeed("online", options | {"out": tmp_path / "run", "env.max-episode-steps": 30})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    _, metadata = read_teacher(tmp_path / "run" / "teacher.safetensors")
    # CartPole's own limit is 500; whoever does better than 30 was not scored under the limit that the run was given.
    assert summary["games"]["cartpole"]["teacher_score"] <= 30
    assert metadata.evaluation["max_episode_steps"] == 30


def test_metrics_hold_both_learners_and_all_three_scores(short_run: Path) -> None:
    lines = read_lines(short_run)
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert all(line["step"] == line["teacher_env_steps"] + line["updates"] for line in lines)
    teachers = [line for line in lines if "teacher/td_loss" in line]
    assert [line["teacher_env_steps"] for line in teachers] == list(range(64, 2049, 64))
    students = [line for line in lines if "loss" in line]
    assert [line["updates"] for line in students] == list(range(10, 161, 10))
    assert [line["teacher_env_steps"] for line in students] == [512 * (1 + call // 4) for call in range(16)]
    assert [line["env_steps"] for line in students] == [128 * (1 + call // 4) for call in range(16)]
    assert all(line["stale_share"] == 0 for line in students), "what is stale is relabelled"
    # The target became another with play in the replay: what that held was relabelled, all of it.
    changes = [line for line in students if "relabelled_steps" in line]
    assert all(line["relabelled_steps"] == line["env_steps"] - 128 for line in changes)
    assert all(0 <= line["relabel_changed"] <= 1 and line["relabel_seconds"] > 0 for line in changes)
    scores = scores_of(lines)
    assert [line["teacher_env_steps"] for line in scores] == [0, 1024, 2048]
    assert ["cartpole/student_score" in line for line in scores] == [False, True, True]
    for line in scores:
        for who in ("teacher", "target"):
            name = f"cartpole/{who}_score"
            assert 0 < line[f"{name}_low"] <= line[name] <= line[f"{name}_high"] <= 40


def test_evaluate_reads_the_student_and_the_target_of_a_run(short_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    teacher = short_run / "teacher.safetensors"
    # From the starts of the run's final games.
    protocol = {name: value for name, value in SHORT.items() if name.startswith("evaluation.")}
    del protocol["evaluation.every-rounds"], protocol["evaluation.progress-episodes"]
    asked = protocol | {"run": short_run, "teacher": teacher, "out": out, "evaluation.seed-offset": 1_500_000}
    succeed("evaluate", asked)
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (out, short_run))
    for name in ("teacher_score", "student_score", "percent_of_teacher"):
        assert ours["games"]["cartpole"][name] == theirs["games"]["cartpole"][name]
    assert (ours["updates"], ours["env_steps"]) == (160, 512)


@dataclasses.dataclass(frozen=True)
class Played:
    seed: int
    episodes: int
    variables: Any


def script_scores(monkeypatch: pytest.MonkeyPatch, choosing: list[float]) -> list[Played]:
    """Gives the teacher these scores in the games that choose, and anyone else 1; notes what was played."""
    played: list[Played] = []
    left = list(choosing)

    def play(apply: Any, variables: Any, task: Any, protocol: Protocol, **more: Any) -> EpisodeScores:
        seed, episodes = protocol.seed - EvaluationConfig.seed_offset, protocol.episodes
        played.append(Played(seed, episodes, jax.tree.map(np.array, variables)))
        score = left.pop(0) if seed == 0 else 1.0
        return EpisodeScores(np.full(episodes, score), np.full(episodes, 10))

    monkeypatch.setattr(pd_jax.online.scorer, "play_games", play)
    return played


def test_the_target_is_the_best_snapshot_and_its_scores_are_of_games_that_did_not_choose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = script_scores(monkeypatch, [1, 5, 3, 5, 7, 2])
    out = tmp_path / "run"
    more = {"pqn.total-steps": 2560, "schedule.rounds": 5, "evaluation.every-rounds": 1, "evaluation.episodes": 6}
    succeed("online", SHORT | more | {"out": out})
    scores = scores_of(read_lines(out))
    # An equal score is no better one; a worse one changes nothing.
    assert [line["target_env_steps"] for line in scores] == [0, 512, 512, 512, 2048, 2048]
    assert [line["cartpole/teacher_score"] for line in scores] == [1, 5, 3, 5, 7, 2]
    assert [line["cartpole/target_score"] for line in scores] == [1] * 6
    on_the_way, final = [game for game in played if game.episodes == 4], played[-3:]
    # Teacher and target at the start and whenever there is another target, the student after every round.
    assert [game.seed for game in on_the_way] == [
        0,
        250_000,
        *[0, 250_000, 250_000, *[0, 250_000] * 2],
        0,
        250_000,
        250_000,
        0,
        250_000,
    ]
    assert [(game.seed, game.episodes) for game in final] == [(500_000, 6)] * 3
    chosen = [game for game in on_the_way if game.seed == 0][4]
    params, metadata = read_teacher(out / "teacher.safetensors")
    assert metadata.env_steps == 2048
    jax.tree.map(np.testing.assert_array_equal, params, chosen.variables["params"])
    jax.tree.map(np.testing.assert_array_equal, final[1].variables, chosen.variables)


def test_the_latest_target_is_the_teacher_as_it_is_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = script_scores(monkeypatch, [9, 5, 3])
    out = tmp_path / "run"
    succeed("online", SHORT | {"out": out, "target": "latest", "stale": "keep"})
    lines = read_lines(out)
    students = [line for line in lines if "loss" in line]
    # All of a round's steps have one label; four rounds fill the replay.
    assert [line["stale_share"] for line in students[::4]] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert [line["target_env_steps"] for line in scores_of(lines)] == [0, 1024, 2048]
    assert [line["cartpole/target_score"] for line in scores_of(lines)] == [9, 5, 3], "the teacher's own"
    assert len(played) == 3 + 2 + 2, "the target of the end is the teacher of the end"
    assert json.loads((out / "summary.json").read_text())["target_changes"] == 4


def test_the_temperature_is_found_anew_whenever_the_target_is_another(tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("online", SHORT | {"out": out, "target": "latest", "loss.temperature": "auto"})
    lines = read_lines(out)
    found = [line["temperature"] for line in lines if "temperature" in line]
    changes = [line["target_changes"] for line in lines if "target_changes" in line]
    # The first target is the teacher after its first share of learning.
    assert len(found) == changes[-1] == len(set(found)) == SHORT["schedule.rounds"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["temperature"] == found[-1]
    assert load_trained(str(out)).temperature(0) == found[-1]


def test_what_ages_out_leaves_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_scores(monkeypatch, [9, 5, 3])
    out = tmp_path / "run"
    succeed("online", SHORT | {"out": out, "target": "latest", "stale": "age_out", "max-stale-steps": 160})
    students = [line for line in read_lines(out) if "loss" in line]
    # Of the round before, 32 of 128 steps are still among the 160 newest.
    assert [line["stale_share"] for line in students[::4]] == pytest.approx([0, 0.2, 0.2, 0.2])


def capture_start(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every session from now on goes on from."""
    starts: list[dict[str, Any]] = []
    train = pd_jax.online.session.OnlineSession._train

    def spy(session: Any) -> None:
        student = session.devices.first(session.student)
        state = {"teacher": session.teacher.state, "student": student, "target": session.target.variables}
        starts.append(jax.tree.map(plain, state))
        train(session)

    monkeypatch.setattr(pd_jax.online.session.OnlineSession, "_train", spy)
    return starts


def plain(leaf: Any) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if is_key else leaf)


def saved_state(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config = read_config(OnlineConfig, run / "config.yaml")
    template = state_template(config, make_student(config.student, [get_task("cartpole")]))
    with Checkpointer(run / "checkpoints", read_only=True) as checkpointer:
        restored = checkpointer.restore(template)
    assert restored is not None
    state, metadata, _ = restored
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return jax.tree.map(plain, fields), metadata


@pytest.mark.slow
def test_kill_9_and_resume_goes_on_with_both_learners_very_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    rounds = 40
    rare = {"evaluation.every-rounds": 1000}
    long = SHORT | rare | {"schedule.rounds": rounds, "pqn.total-steps": rounds * 512, "out": out, "resume": True}
    argv = ["online", *options(long | ENDLESS_EVALUATION)]
    ended = stop_when(lambda: len(checkpoint_steps(out)) >= 3, signal.SIGKILL, *argv)
    assert ended.code == -signal.SIGKILL
    expected, at = saved_state(out)
    assert int(expected["teacher"].env_steps) == at["teacher_env_steps"] > 0
    assert int(expected["student"].updates) == at["updates"] > 0
    assert at["updates"] < rounds * 40
    starts = capture_start(monkeypatch)
    succeed("online", long)
    (start,) = starts
    jax.tree.map(np.testing.assert_array_equal, start, expected)
    errors = capfd.readouterr().err
    assert f"resumed at step {at['teacher_env_steps']:,} of the teacher's and update {at['updates']:,}" in errors
    assert "the replay starts again with fresh episodes" in errors
    after, now = saved_state(out)
    assert (int(after["teacher"].env_steps), int(after["student"].updates)) == (rounds * 512, rounds * 40)
    assert now["play"]["env_steps"] == rounds * 128
    lines = read_lines(out)
    assert [line["updates"] for line in lines if "loss" in line] == list(range(10, rounds * 40 + 1, 10))
    taught = [line["teacher_env_steps"] for line in lines if "teacher/td_loss" in line]
    assert taught == list(range(64, rounds * 512 + 1, 64)), "no line twice, and none missing"


@pytest.mark.slow
def test_sigterm_saves_both_in_the_middle_of_a_round(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rare = {"checkpoint.every-updates": 1_000_000, "evaluation.every-rounds": 1000}
    settings = SHORT | rare | {"schedule.rounds": 1, "pqn.total-steps": 640_000, "out": out, "resume": True}
    argv = ["online", *options(settings | ENDLESS_EVALUATION)]
    ended = stop_when(lambda: len(read_lines(out)) > 20, signal.SIGTERM, *argv)
    assert ended.code == 128 + signal.SIGTERM
    assert ended.stderr.endswith("pd-jax online: stopped by SIGTERM; add --resume to go on\n")
    (saved,) = checkpoint_steps(out)
    _, at = saved_state(out)
    assert 0 < at["teacher_env_steps"] < 640_000
    assert (saved, at["updates"]) == (at["teacher_env_steps"], 0)
    assert read_lines(out)[-1]["step"] == saved


@pytest.mark.slow
def test_from_nothing_to_a_good_student_on_cartpole(good_run: Path) -> None:
    game = json.loads((good_run / "summary.json").read_text())["games"]["cartpole"]
    assert game["teacher_score"] >= 450
    assert game["student_score"] >= 450
    assert game["percent_of_teacher"] >= 95
    first, *_, last = [line for line in scores_of(read_lines(good_run)) if "cartpole/student_score" in line]
    assert last["cartpole/student_score"] > first["cartpole/teacher_score"] / 2


@pytest.mark.slow
def test_a_student_of_the_best_does_not_follow_its_teacher_down(good_run: Path, tmp_path: Path) -> None:
    """The teacher goes on with a learning rate that no network survives."""
    out = tmp_path / "run"
    shutil.copytree(good_run, out)
    absurd = {"pqn.learning-rate": 3.0, "pqn.total-steps": 114_688, "schedule.rounds": 14, "resume": True}
    succeed("online", GOOD | absurd | {"out": out})
    before, after = (json.loads((run / "summary.json").read_text())["games"]["cartpole"] for run in (good_run, out))
    assert after["latest_teacher_score"] < 0.5 * before["latest_teacher_score"], "it has collapsed"
    assert after["student_score"] >= 0.9 * before["student_score"]
    assert after["teacher_score"] >= 0.9 * before["teacher_score"], "the target is a snapshot from before"
    collapsed = scores_of(read_lines(out))[-1]
    assert collapsed["cartpole/teacher_score"] < 250 < 450 <= collapsed["cartpole/student_score"]


def test_a_teacher_that_diverges_ends_the_run_and_leaves_a_sound_checkpoint(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shape = {"mlp-hidden": [8] * 6, "no-layer-norm": True, "pqn.max-grad-norm": 1e6}
    diverging = SHORT | shape | {"pqn.learning-rate": 1e6, "out": out}
    assert main(["online", *options(diverging)]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last.startswith("pd-jax online: the ")
    assert last.endswith(
        "checkpoints before it are sound: the teacher diverged; resume with a smaller pqn.learning_rate"
    )
    assert all(math.isfinite(line["teacher/td_loss"]) for line in read_lines(out) if "teacher/td_loss" in line)
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"game": ["cartpole", "acrobot"]},
            "--game: 2 games, and pd-jax online takes one; give each game a run of its",
        ),
        ({"teacher": ["cartpole", "acrobot"]}, "--teacher: 2 teachers, and pd-jax online takes one"),
        (
            {"game": "half_cheetah_v5"},
            "--game: 'half_cheetah_v5' is continuous, and a teacher that learns here chooses",
        ),
        ({"teacher": "acrobot"}, "teacher acrobot: plays acrobot with 3 actions; cartpole has 2"),
        ({"teacher": "nobody"}, "'nobody' is neither a bundled teacher nor a file"),
        ({"teacher": "cartpole"}, "mlp_hidden: 8, and teacher cartpole has 128 128; leave it out"),
        ({"teacher-network": "dqn"}, "--teacher-network: 'dqn' sees frames, and cartpole has none; use 'mlp'"),
        ({"student.network": "net2"}, "--student.network: 'net2' sees frames, and cartpole has none; use 'mlp'"),
        ({"target": "newest"}, "--target: 'newest' is not a target"),
        ({"stale": "forget"}, "--stale: 'forget' is not a way with stale outputs"),
        ({"max-stale-steps": 64}, "--max-stale-steps: 64, and stale is relabel; it says what age_out drops"),
        ({"evaluation.every-rounds": 0}, "--evaluation.every-rounds: 0 is out of range (at least 1)"),
        ({"evaluation.progress-episodes": 1}, "--evaluation.progress-episodes: 1 episode says nothing about how sure"),
        ({"pqn.minibatches": 7}, "--pqn.minibatches: 7 do not divide a rollout of 64 steps"),
        ({"pqn.epsilon-start": 0.0}, "pqn.epsilon_end: 0.001 is more than pqn.epsilon_start (0.0)"),
        ({"replay.capacity": 32}, "--replay.capacity: 32 holds less than one rollout, 64 steps"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    change: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = refusal(capfd, "online", *options(SHORT | {"out": tmp_path / "run"} | change))
    assert message in refused, refused
    assert list(tmp_path.iterdir()) == []


def test_a_game_or_a_teacher_is_needed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused = refusal(capfd, "online", "--out", str(tmp_path / "run"))
    assert refused == (
        "pd-jax online: game: missing, and teacher too; give --game NAME, or --teacher NAME_OR_FILE to start from"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resume": False}, "holds a finished run; add --resume to continue it"),
        ({"target": "latest"}, "holds a different run: target is 'best' there and 'latest' here"),
        ({"stale": "keep"}, "holds a different run: stale is 'relabel' there and 'keep' here"),
        ({"mlp-hidden": 12}, "holds a different run: mlp_hidden is [8] there and [12] here"),
        ({"schedule.rounds": 8}, "pqn.total_steps: 2048 in 8 rounds is another pace than 2048 in 4, which "),
        ({"schedule.rounds": 2, "pqn.total-steps": 1024}, "schedule.rounds: 2 is less than "),
        ({"evaluation.epsilon": 0.1}, "evaluation.epsilon: is 0.05 in "),
    ],
)
def test_a_run_is_not_resumed_as_another(
    change: dict[str, Any], message: str, short_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(short_run)
    settings = SHORT | {"out": short_run, "resume": True} | change
    argv = options({name: value for name, value in settings.items() if value is not False})
    assert message in refusal(capfd, "online", *argv)
    assert contents(short_run) == before


def test_a_finished_run_that_is_resumed_is_scored_again_and_learns_nothing(short_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(short_run, out)
    before = contents(out / "checkpoints")
    succeed("online", SHORT | {"out": out, "resume": True})
    assert contents(out / "checkpoints") == before
    old, new = (json.loads((run / "summary.json").read_text()) for run in (short_run, out))
    assert old["games"] == new["games"]


def test_a_teacher_file_gives_the_network_the_game_and_the_first_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_teacher(tmp_path / "early.safetensors", "cartpole", hidden_sizes=(12,), layer_norm=True)
    starts = capture_start(monkeypatch)
    settings = {name: value for name, value in SHORT.items() if name not in ("game", "mlp-hidden")}
    out = tmp_path / "run"
    succeed("online", settings | {"teacher": file, "schedule.rounds": 1, "pqn.total-steps": 64, "out": out})
    params, _ = read_teacher(file)
    (start,) = starts
    for variables in (start["teacher"].variables, start["target"]):
        jax.tree.map(np.testing.assert_array_equal, variables["params"], params)
    config = read_yaml(out / "config.yaml")
    assert (config["game"], config["teacher_network"], config["mlp_hidden"]) == ("cartpole", "mlp", [12])


def test_policies_that_pqn_cannot_go_on_with_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused: list[str] = []
    ask: Callable[[Path], str] = lambda file: refusal(  # noqa: E731
        capfd, "online", "--teacher", str(file), "--out", str(tmp_path / "run"), "--student.network", "mlp"
    )
    refused.append(ask(write_teacher(tmp_path / "logits.safetensors", "cartpole", output="logits")))
    refused.append(ask(write_teacher(tmp_path / "tanh.safetensors", "cartpole", activation="tanh")))
    assert refused[0].endswith("logits.safetensors gives logits; a teacher that goes on learning learns Q-values")
    assert refused[1].endswith("tanh.safetensors has tanh units; PQN trains plain networks with relu")
