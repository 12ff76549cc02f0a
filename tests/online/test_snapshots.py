"""Online distillation from the files of a teacher that was trained before: each teaches its share, in their order."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pd_jax.online.scorer
import pd_jax.online.session
from pd_jax.config.loading import load_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.student import load_trained
from pd_jax.evaluation.evaluator import EpisodeScores
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.online.setup import make_online_setup, open_online_run
from pd_jax.online.snapshots import SnapshotTeacher, read_snapshots
from pd_jax.teachers import load
from pd_jax.teachers.files import fingerprint, read_teacher, save_teacher
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

# A round is 2 rollouts of the target's and 4 calls of the student's.
SHORT = {
    "env.num-lanes": 4,
    "student.network": "mlp",
    "student.mlp-hidden": 8,
    "learner.updates-per-call": 10,
    "replay.capacity": 512,
    "schedule.rounds": 6,
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
STEPS = (1000, 5000, 20_000)


def snapshot(path: Path, env_steps: int | None, scale: float = 1.0, **changes: Any) -> Path:
    """A file of an untrained CartPole teacher whose weights are its own."""
    write_teacher(path, "cartpole", env_steps=env_steps, **changes)
    params, metadata = read_teacher(path)
    save_teacher(path, jax.tree.map(lambda leaf: leaf * scale, params), metadata)
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Not to be written to."""
    directory = tmp_path_factory.mktemp("series")
    return [snapshot(directory / f"{steps}.safetensors", steps, 1 + 0.5 * n) for n, steps in enumerate(STEPS)]


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whose weights played for the student, round by round."""
    from pd_jax.online.session import Experience

    seen: list[Any] = []
    let_teach = Experience.let_teach

    def spy(self: Any, game: int, variables: Any) -> None:
        seen.append(jax.tree.map(np.array, variables["params"]))
        let_teach(self, game, variables)

    monkeypatch.setattr(Experience, "let_teach", spy)
    return seen


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take as long as such short runs; one of them draws its own."""
    monkeypatch.setattr(pd_jax.online.session, "plot_online", lambda *args: None)


def script_scores(monkeypatch: pytest.MonkeyPatch, choosing: list[float]) -> None:
    """Gives the snapshots these scores in the games that choose, and anyone else 1."""
    left = list(choosing)

    def play(apply: Any, variables: Any, task: Any, protocol: Protocol, **more: Any) -> EpisodeScores:
        is_choice = protocol.seed == 1_000_000
        return EpisodeScores(
            np.full(protocol.episodes, left.pop(0) if is_choice else 1.0), np.full(protocol.episodes, 9)
        )

    monkeypatch.setattr(pd_jax.online.scorer, "play_games", play)


def scores_of(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run) if "cartpole/teacher_score" in line]


def assert_played(playing: list[Any], files: list[Path]) -> None:
    assert len(playing) == len(files)
    for params, file in zip(playing, files, strict=True):
        jax.tree.map(np.testing.assert_array_equal, params, read_teacher(file)[0])


def test_each_snapshot_teaches_an_equal_share_and_the_last_is_left(series, playing, undrawn, tmp_path, capfd):
    out = tmp_path / "run"
    succeed("online", SHORT | {"teacher-snapshots": series, "out": out})
    assert_played(playing, series)
    students = [line for line in read_lines(out) if "loss" in line]
    assert [line["teacher_env_steps"] for line in students[::4]] == [1000, 1000, 5000, 5000, 20_000, 20_000]
    assert all(line["stale_share"] == 0 for line in students), "what is stale is relabelled"
    assert not any("teacher/td_loss" in line for line in read_lines(out)), "nothing is trained"
    config = read_yaml(out / "config.yaml")
    assert (config["game"], config["target"], config["teacher_snapshots"]) == (
        "cartpole",
        "latest",
        list(map(str, series)),
    )
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["target_env_steps"], summary["target_changes"], summary["teacher_network"]) == (20_000, 2, "mlp")
    assert summary["teacher_snapshots"] == list(map(str, series))
    assert summary["teacher_parameters"] == 5 * 8 + 9 * 2
    params, metadata = read_teacher(out / "teacher.safetensors")
    original, before = read_teacher(series[-1])
    jax.tree.map(np.testing.assert_array_equal, params, original)
    game = summary["games"]["cartpole"]
    assert (metadata.env_steps, metadata.how_made) == (20_000, before.how_made)
    assert metadata.evaluation["mean"] == game["teacher_score"] and metadata.evaluation["seed"] == 1_500_000
    assert [point["env_steps"] for point in metadata.learning_curve] == list(STEPS)
    assert game["latest_teacher_score"] == game["teacher_score"]
    # The student can be had from the run though the files of its teachers may be gone.
    trained = load_trained(str(out))
    assert trained.counters.updates == 240
    assert "teacher.safetensors" in capfd.readouterr().out


def test_files_that_do_not_tell_their_steps_are_taken_in_the_order_given(tmp_path):
    files = [snapshot(tmp_path / f"{index}.safetensors", None, 1 + index) for index in range(3)]
    told = snapshot(tmp_path / "told.safetensors", 7, 9.0)
    found = read_snapshots([*map(str, files), str(told)], None)
    assert found.env_steps == (0, 1, 2, 7)
    assert found.sha256 == tuple(map(fingerprint, (*files, told)))
    assert [found.in_round(index, 8) for index in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [found.in_round(index, 6) for index in range(6)] == [0, 0, 1, 2, 2, 3]
    with pytest.raises(Exception, match="is another file than when the run started"):
        snapshot(files[2], None, 5.0)
        found.load(2)


def test_the_best_of_the_snapshots_so_far_teaches_if_that_is_asked_for(playing, tmp_path, monkeypatch):
    script_scores(monkeypatch, [3, 9, 5])
    # Policies that give logits may be snapshots too.
    policy = {"output": "logits", "activation": "tanh"}
    files = [snapshot(tmp_path / f"{index}.safetensors", index, 1 + index, **policy) for index in range(3)]
    found = read_snapshots(list(map(str, files)), "cartpole")
    assert found.first.gives_logits and found.metadata[1].activation == "tanh"
    out = tmp_path / "run"
    # Scores between the rounds in which another snapshot comes choose nothing; each snapshot is scored once.
    succeed("online", SHORT | {"teacher-snapshots": files, "target": "best", "evaluation.every-rounds": 3, "out": out})
    assert_played(playing, files[:2])
    summary = json.loads((out / "summary.json").read_text())
    assert [point["env_steps"] for point in summary["learning_curve"]] == [0, 1, 2]
    assert (out / "progress.png").stat().st_size > 10_000
    assert scores_of(out)[-1]["target_env_steps"] == 1
    metadata = read_teacher(out / "teacher.safetensors")[1]
    assert (metadata.env_steps, metadata.output) == (1, "logits")


@pytest.mark.slow
def test_kill_9_and_resume_goes_on_with_the_snapshot_that_taught(series, playing, tmp_path):
    out = tmp_path / "run"
    long = SHORT | {"schedule.rounds": 90, "evaluation.every-rounds": 1000, "teacher-snapshots": series, "out": out}
    long |= {"resume": True}
    argv = ["online", *options(long | ENDLESS_EVALUATION)]
    ended = stop_when(lambda: len(checkpoint_steps(out)) >= 3, signal.SIGKILL, *argv)
    assert ended.code == -signal.SIGKILL
    updates = max(line["updates"] for line in read_lines(out) if "loss" in line)
    assert updates < 90 * 40
    succeed("online", long)
    lines = [line for line in read_lines(out) if "loss" in line]
    assert [line["updates"] for line in lines] == list(range(10, 90 * 40 + 1, 10))
    assert [line["teacher_env_steps"] for line in lines[::4]] == [steps for steps in STEPS for _ in range(30)]
    assert_played(playing[-1:], series[-1:])


def test_a_run_goes_on_with_more_rounds_and_more_snapshots_and_not_with_others(
    series, playing, undrawn, tmp_path, capfd
):
    out = tmp_path / "run"
    given = SHORT | {"schedule.rounds": 4, "out": out}
    succeed("online", given | {"teacher-snapshots": series[:2]})
    before = contents(out)
    other = snapshot(tmp_path / "other.safetensors", 3000, 7.0)
    more = given | {"schedule.rounds": 6, "resume": True}
    wanted = "teacher_snapshots: number 2 is not the file that "
    assert wanted in refusal(capfd, "online", *options(more | {"teacher-snapshots": [series[0], other, series[2]]}))
    message = refusal(capfd, "online", *options(more | {"game": "cartpole"}))
    assert "holds a different run" in message or "has snapshots for a teacher; choose another --out" in message
    assert contents(out) == before, "the list of files too is what it was"
    # Wherever the files lie now.
    moved = [tmp_path / file.name for file in series]
    for old, new in zip(series, moved, strict=True):
        new.write_bytes(old.read_bytes())
    playing.clear()
    succeed("online", more | {"teacher-snapshots": moved})
    assert_played(playing, series[1:])
    students = [line for line in read_lines(out) if "loss" in line]
    assert [line["teacher_env_steps"] for line in students[::4]] == [1000] * 2 + [5000] * 2 + [20_000] * 2
    # In more rounds each would teach longer: one that has made room for the next does not come back.
    found = read_snapshots(list(map(str, moved)), None)
    teacher = SnapshotTeacher(found, 2)
    teacher.move_to(found.in_round(6, 9))
    assert found.in_round(6, 9) == 2 and found.in_round(5, 9) == 1
    teacher.move_to(found.in_round(5, 9))
    assert teacher.env_steps == 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"teacher": "cartpole"},
            "--teacher: is what a teacher that learns starts from, and teacher_snapshots are all",
        ),
        (
            {"teacher-snapshots": ["{0}"]},
            "teacher_snapshots: 1 file is a teacher that stays as it is: pd-jax distill",
        ),
        ({"teacher-snapshots": ["no-such-*.safetensors"]}, "no-such-*.safetensors: no such file"),
        ({"schedule.rounds": 2}, "--teacher-snapshots: 3 files, and each is to teach in one of schedule.rounds (2) at"),
        ({"teacher-snapshots": ["{1}", "{0}"]}, "1000.safetensors has 1,000 steps behind it, and "),
        ({"teacher-snapshots": ["{0}", "{0}"]}, "1000.safetensors is "),
        ({"teacher-snapshots": ["{0}", "acrobot"]}, "teacher_snapshots: acrobot plays acrobot, and "),
        (
            {"teacher-snapshots": ["{0}", "cartpole"]},
            "teacher_snapshots: cartpole has mlp of other layers; they are of",
        ),
        ({"teacher-snapshots": ["{0}", "nobody"]}, "'nobody' is neither a bundled teacher nor a file"),
        ({"teacher-snapshots": ["{0}", "{logits}"]}, "logits.safetensors gives logits, and "),
        (
            {"evaluation.episodes": 1},
            "--evaluation.episodes: 1 episode says nothing about how sure a score is; at least",
        ),
        ({"evaluation.progress-episodes": 1}, "--evaluation.progress-episodes: 1 episode says nothing about how sure"),
        ({"game": "acrobot"}, "plays cartpole with 2 actions; acrobot has 3"),
        ({"student.network": "net2"}, "--student.mlp-hidden: is a setting of mlp, and student.network is net2"),
        ({"max-stale-steps": 64}, "--max-stale-steps: 64, and stale is relabel; it says what age_out drops"),
        (
            {"pqn.total-steps": 64},
            "--pqn.total-steps: is of a teacher that learns, and teacher_snapshots are its files",
        ),
        ({"teacher-network": "mlp"}, "--teacher-network: is of a teacher that learns, and teacher_snapshots are its"),
    ],
)
def test_bad_lists_are_one_line_and_nothing_is_written(change, message, series, tmp_path, capfd):
    logits = write_teacher(tmp_path / "logits.safetensors", "cartpole", env_steps=9_000_000, output="logits")
    settings = SHORT | {"teacher-snapshots": series, "out": tmp_path / "run"} | change
    named = [str(name).format(*series, logits=logits) for name in settings["teacher-snapshots"]]
    before = contents(tmp_path)
    refused = refusal(capfd, "online", *options(settings | {"teacher-snapshots": named}))
    assert message in refused, refused
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()


def test_a_run_that_learns_is_not_gone_on_with_from_files(series, tmp_path, capfd):
    out = tmp_path / "run"
    pqn = {"pqn.total-steps": 128, "pqn.num-lanes": 4, "pqn.rollout-length": 16, "pqn.minibatches": 4}
    given = SHORT | pqn | {"game": "cartpole", "mlp-hidden": 8, "schedule.rounds": 3, "out": out}
    begun = make_online_setup(load_config(OnlineConfig, options(given), "online"))
    open_online_run(begun).close()
    before = contents(out)
    files = {"teacher-snapshots": series, "resume": True, "schedule.rounds": 3, "out": out}
    message = refusal(capfd, "online", *options(SHORT | files))
    assert "holds a different run" in message or "has a teacher that learns; choose another --out" in message
    assert contents(out) == before


def test_snapshots_of_another_protocol_than_the_plays_are_refused_unless_one_is_named(tmp_path, capfd):
    params, metadata = read_teacher(write_teacher(tmp_path / "0.safetensors", "pong"))
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    given = {"teacher-snapshots": files, "student.network": "net3", "out": tmp_path / "run"}
    for named in range(3):
        for index, file in enumerate(files):
            play = {"protocol": "modern"} if index == named else {}
            told = dataclasses.replace(metadata, env_steps=index, training_config=play)
            save_teacher(file, jax.tree.map(lambda leaf, scale=1 + index: leaf * scale, params), told)
        before = contents(tmp_path)
        assert refusal(capfd, "online", *options(given)) == (
            f"pd-jax online: teacher_snapshots: {files[named]}: is of protocol 'modern', and these settings are "
            "'classic'; say --protocol modern, or another one to mix them"
        )
        assert contents(tmp_path) == before
    for protocol in ("modern", "classic"):
        setup = make_online_setup(load_config(OnlineConfig, options(given | {"protocol": protocol}), "online"))
        assert setup.config.protocol == protocol and setup.snapshots is not None
        # What it leaves names the protocol of its score.
        (tmp_path / "run").mkdir(exist_ok=True)
        setup.writer.write(params, Score.of([1.0, 3.0]), env_steps=2, curve=[])
        left = read_teacher(tmp_path / "run" / "teacher.safetensors")[1]
        assert left.named_protocol == protocol and left.evaluation["max_noops"] == (1 if protocol == "modern" else 30)


@pytest.mark.slow
def test_a_student_of_snapshots_that_improve_ends_as_good_as_the_last_of_them(tmp_path):
    bundled = load("cartpole")
    early = write_teacher(tmp_path / "early.safetensors", "cartpole", hidden_sizes=(128, 128), layer_norm=True)
    out = tmp_path / "run"
    config = Path(__file__).parents[2] / "configs" / "quick" / "online_cartpole.yaml"
    given = {"env.num-lanes": 16, "student.network": "mlp", "student.mlp-hidden": [16, 16], "loss.temperature": 0.1}
    given |= {f"schedule.{name}": value for name, value in read_yaml(config)["schedule"].items() if name != "rounds"}
    given |= {f"learner.{name}": value for name, value in read_yaml(config)["learner"].items()}
    given = {name.replace("_", "-"): value for name, value in given.items()}
    assert bundled.metadata.env_steps is not None and bundled.metadata.env_steps > 0
    more = {"teacher-snapshots": [early, "cartpole"], "schedule.rounds": 10, "evaluation.episodes": 20, "out": out}
    succeed("online", given | more)
    game = json.loads((out / "summary.json").read_text())["games"]["cartpole"]
    assert game["teacher_score"] >= 450 and game["percent_of_teacher"] >= 90
