"""``--add-teacher``: a student learns one more game, and what becomes of the others is held, measured and told."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import load_config, read_config
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.student import load_trained
from pd_jax.distill.session import distill
from pd_jax.environments.tasks import get_task
from pd_jax.networks.student import make_student
from pd_jax.report.terminal import print_summary
from pd_jax.runs.directory import read_run
from pd_jax.runs.start import load_start
from pd_jax.system.interrupts import Interrupted
from support.commands import (
    QUICK_EVALUATION,
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    state_digests,
    succeed,
    without_time,
)
from support.made_runs import write_student_run
from support.policies import random_observations

SMALL = {
    "student.network": "mlp", "student.mlp-hidden": 8, "student.head-hidden": 4, "learner.batch-size": 16,
    "learner.optimizer": "adam", "learner.learning-rate": 3e-3, "learner.updates-per-call": 20,
    "replay.capacity": 512, "schedule.rounds": 2, "schedule.steps-per-round": 256, "schedule.updates-per-round": 40,
    "checkpoint.every-updates": 40, "loss.temperature": 0.1, **QUICK_EVALUATION,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "head": {"adding.learn": "head"},
    "together": {"adding.new-share": 0.6},
    "alternating": {"learner.games": "alternating"},
    "ewc": {"adding.penalty": "ewc", "adding.old-steps": 256},
    "distance": {"adding.penalty": "distance", "adding.old-steps": 0, "learner.accumulate": 2},
}


@pytest.fixture(scope="module")
def recordings(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of CartPole, Acrobot and LunarLander, which sees and does more than the others."""
    made = {"cartpole": recording}
    for game in ("acrobot", "lunarlander"):
        made[game] = tmp_path_factory.mktemp("recordings") / game
        values = {"teacher": game, "out": made[game], "steps": 512, "rollout-length": 32, "env.num-lanes": 8}
        succeed("collect", values)
    return made


@pytest.fixture(scope="module")
def two(recordings: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of CartPole and Acrobot. Not to be written to."""
    out = tmp_path_factory.mktemp("two") / "run"
    data = [recordings["cartpole"], recordings["acrobot"]]
    succeed("distill", SMALL | {"teacher": ["cartpole", "acrobot"], "data": data, "out": out})
    return out


def adding(two: Path, recordings: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """What has to be said to add a game: the rest is as in the run."""
    return {"init-from": two, "add-teacher": "lunarlander", "add-data": recordings["lunarlander"]} | changes


@pytest.fixture(scope="module")
def added(
    two: Path, recordings: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], Path]]:
    """The options and the run of each way, as they are asked for. Not to be written to."""
    directory = tmp_path_factory.mktemp("added")

    class Made(dict[str, tuple[dict[str, Any], Path]]):
        def __missing__(self, way: str) -> tuple[dict[str, Any], Path]:
            values = adding(two, recordings, **WAYS[way])
            succeed("distill", values | {"out": directory / way})
            self[way] = values, directory / way
            return self[way]

    return Made()


def params_of(run: Path) -> Any:
    return jax.tree.map(np.asarray, load_trained(str(run)).variables["params"])


def outputs_of(run: Path, game: str) -> np.ndarray:
    return pd_jax.load_student(run).for_game(game).outputs(random_observations(get_task(game), 64))


@pytest.mark.slow
def test_all_that_is_not_given_is_as_in_the_run(two: Path, added: dict[str, Any], recordings: dict[str, Path]) -> None:
    _, out = added["together"]
    before, after = (read_config(DistillConfig, run / "config.yaml") for run in (two, out))
    games = ("cartpole", "acrobot", "lunarlander")
    assert (after.game, after.teacher, after.adding.games) == (games, games, ("lunarlander",))
    assert after.data == tuple(str(recordings[game]) for game in games)
    for section in ("student", "loss", "learner", "schedule", "evaluation", "replay", "seed"):
        assert getattr(after, section) == getattr(before, section)
    # What was said once is no part of it, and the file alone says the same again.
    text = (out / "config.yaml").read_text()
    assert "add_teacher" not in text and "add_data" not in text


def test_the_head_alone_leaves_every_bit_of_the_old_student_and_of_what_it_does(
    two: Path, added: dict[str, Any]
) -> None:
    _, out = added["head"]
    before, after = params_of(two), params_of(out)
    for layer in ("kernel", "bias"):
        found = after["torso"]["fc1"][layer]
        assert found[: len(before["torso"]["fc1"][layer])].tobytes() == before["torso"]["fc1"][layer].tobytes()
        assert after["head"]["fc2"][layer][:2].tobytes() == before["head"]["fc2"][layer].tobytes()
        for place in ("output0", "output1"):
            assert after["head"][place][layer].tobytes() == before["head"][place][layer].tobytes()
    # Wider matrices may be multiplied in another order.
    for game in ("cartpole", "acrobot"):
        np.testing.assert_allclose(outputs_of(out, game), outputs_of(two, game), rtol=1e-5, atol=1e-6)
    summary, begun = (json.loads((run / "summary.json").read_text()) for run in (out, two))
    for game in ("cartpole", "acrobot"):
        entry = summary["games"][game]
        assert entry["student_score"] == entry["score_before"] == begun["games"][game]["student_score"]
        assert (entry["forgotten"], entry["forgotten_percent"], entry["is_added"]) == (0.0, 0.0, False)
    assert summary["games"]["lunarlander"]["is_added"] and "forgotten" not in summary["games"]["lunarlander"]
    assert summary["adding"] == {"games": ["lunarlander"], "learn": "head"}
    assert set(summary["init_from"]) >= {"games", "updates"} and "kept" not in summary["init_from"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ewc", "head", "together", "alternating", "distance"])
def test_a_run_that_is_resumed_ends_with_the_same_bits(way: str, added: dict[str, Any], tmp_path: Path) -> None:
    values, whole = added[way]
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    assert checkpoint_steps(out) == [40, 80]
    shutil.rmtree(out / "checkpoints" / "80")
    # What it began from need not be there any more.
    succeed("distill", values | {"out": out, "resume": True, "init-from": tmp_path / "gone"})
    assert state_digests(out) == state_digests(whole)
    assert without_time(read_lines(out)) == without_time(read_lines(whole))
    ended, wanted = (json.loads((run / "summary.json").read_text()) for run in (out, whole))
    assert (ended["games"], ended["adding"]) == (wanted["games"], wanted["adding"])


def test_what_a_penalty_needs_is_in_the_checkpoints(added: dict[str, Any], two: Path) -> None:
    ways = ("head", "together", "ewc", "distance")
    digests = {way: state_digests(added[way][1], 40) for way in ways}
    names = {way: {name.split(".")[1] for name in found if name.startswith("anchor")} for way, found in digests.items()}
    held = {"ewc": {"weights", "importance"}, "distance": {"weights"}}
    assert names == {way: held.get(way, set()) for way in ways}
    # θ* is what the old student was.
    before = state_digests(two)
    for name in ("head.output0.kernel", "head.output1.bias"):
        assert digests["ewc"][f"anchor.weights.{name}"] == before[f"variables.params.{name}"]


def test_what_is_forgotten_is_told_everywhere(
    two: Path, added: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = added["ewc"]
    summary = json.loads((out / "summary.json").read_text())
    for game, entry in summary["games"].items():
        if game != "lunarlander":
            assert entry["forgotten"] == pytest.approx(entry["score_before"] - entry["student_score"])
            share = entry["forgotten"] / (entry["score_before"] - entry["random_score"])
            wanted = None if entry["score_before"] <= entry["random_score"] else pytest.approx(100 * share)
            assert entry["forgotten_percent"] == wanted
    assert summary["adding"] == {
        "games": ["lunarlander"], "learn": "all", "penalty": "ewc", "penalty_weight": 0.01
    }  # fmt: skip
    page = (out / "report.html").read_text()
    assert "<th>forgotten</th>" in page and "held by ewc of weight 0.01" in page
    assert main(["explain", "--run", str(out)]) == 0
    told = capsys.readouterr().out
    assert "LunarLander was added. The student saw only that, and was held near to what it had been before." in told
    assert told.count("before anything was added it scored") == 2
    # On the way: agreement with the old teachers on their play, which is not learnt from, and the penalty.
    lines = [line for line in read_lines(out) if "loss" in line]
    assert len(lines) == 4
    for line in lines:
        assert 0 <= line["cartpole/agreement"] <= 1 and line["acrobot/kl"] > 0 and line["penalty"] > 0
    # Without play of the old games there is nothing to measure; without an anchor no penalty.
    held, _ = (read_lines(added[way][1]) for way in ("distance", "head"))
    assert all("cartpole/loss" not in line for line in held) and any("penalty" in line for line in held)


def test_new_heads_begin_as_a_student_from_scratch_would(
    two: Path, recordings: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def first(values: dict[str, Any]) -> dict[str, str]:
        stop = threading.Event()
        stop.set()
        with pytest.raises(Interrupted):
            distill(load_config(DistillConfig, options(values), "distill"), stop=stop)
        return state_digests(Path(values["out"]), 0)

    games = ["cartpole", "acrobot", "lunarlander"]
    data = [recordings[game] for game in games]
    scratch = first(SMALL | {"teacher": games, "data": data, "out": tmp_path / "scratch", "seed": 3})
    found = first(adding(two, recordings, out=tmp_path / "added", seed=3))
    told = capfd.readouterr().err
    assert "adds lunarlander to cartpole, acrobot: all of it learns, the old games on too; the new share is 0.5" in told
    before = state_digests(two)
    for name in ("kernel", "bias"):
        new, old = f"variables.params.head.output2.{name}", f"variables.params.head.output0.{name}"
        assert found[new] == scratch[new] and found[old] == before[old] != scratch[old]
    # The optimizer's state is that of a student that has learnt nothing.
    state = {name for name in scratch if name.startswith("optimizer_state")}
    assert state and all(found[name] == scratch[name] for name in state)


def test_old_recordings_are_needed_where_the_old_games_are_looked_at(
    two: Path, recordings: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(two, run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(recordings["acrobot"]), str(tmp_path / "gone")))
    values = adding(run, recordings, out=tmp_path / "new")
    for way in ("together", "ewc"):
        message = refusal(capfd, "distill", *options(values | WAYS[way]))
        assert message == f"pd-jax distill: {tmp_path / 'gone'}: no such data set"
        assert not (tmp_path / "new").exists()
    # Given, they are taken from where they are now.
    stop = threading.Event()
    stop.set()
    given = values | {"data": [recordings["cartpole"], recordings["acrobot"]]}
    with pytest.raises(Interrupted):
        distill(load_config(DistillConfig, options(given), "distill"), stop=stop)
    with pytest.raises(Interrupted):
        head = values | WAYS["head"] | {"out": tmp_path / "head"}
        distill(load_config(DistillConfig, options(head), "distill"), stop=stop)
    assert read_config(DistillConfig, tmp_path / "head" / "config.yaml").data == (str(recordings["lunarlander"]),)


@pytest.mark.slow
def test_live_play_has_a_look_at_the_old_games_too(
    tmp_path: Path, two: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Temperatures of the old games are found from that look; the student's old scores are played where none fit."""
    run, out = tmp_path / "two", tmp_path / "run"
    shutil.copytree(two, run)
    config = run / "config.yaml"
    lines = config.read_text().split("\n")
    start = lines.index(next(line for line in lines if line.startswith("data:")))
    end = next(index for index in range(start + 1, len(lines)) if lines[index] and lines[index][0] not in " -")
    config.write_text("\n".join([*lines[:start], "data: null", *lines[end:]]))
    succeed(
        "distill",
        {
            "init-from": run, "add-teacher": "lunarlander", "out": out, "env.num-lanes": 8, "schedule.rounds": 1,
            "adding.penalty": "distance", "adding.old-steps": 256, "loss.temperature": "auto",
            "evaluation.seed-offset": 5,
        },
    )  # fmt: skip
    told = capfd.readouterr().err
    assert told.count("before anything is added (played now)") == 2
    for game in ("cartpole", "acrobot", "lunarlander"):
        assert f"{game}: temperature" in told
    summary = json.loads((out / "summary.json").read_text())
    assert [summary["games"][game]["env_steps"] for game in summary["games"]] == [256, 256, 256]


@pytest.mark.slow
def test_a_student_of_one_game_gets_another_where_its_head_allows_that(
    finished_run: Path, recordings: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {
        "init-from": finished_run, "add-teacher": "acrobot", "add-data": recordings["acrobot"], "adding.learn": "head",
        "out": tmp_path / "run", "schedule.rounds": 1, "schedule.updates-per-round": 20, "replay.capacity": 512,
    }  # fmt: skip
    message = refusal(capfd, "distill", *options(values | {"student.head-hidden": 4}))
    assert "its student of cartpole alone has no hidden layer in its head" in message
    succeed("distill", values)
    assert read_config(DistillConfig, tmp_path / "run" / "config.yaml").student.head_hidden == 0
    found, wanted = (outputs_of(run, "cartpole") for run in (tmp_path / "run", finished_run))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_games_are_left_out_and_change_places_in_the_summary_and_the_terminal(
    two: Path, recordings: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """While another is added, too."""
    three, mlp = ("cartpole", "acrobot", "lunarlander"), StudentConfig(network="mlp", mlp_hidden=(8,), head_hidden=4)
    source = write_student_run(tmp_path / "three", three, mlp)
    start = load_start(str(source), "mlp", make_student(mlp, [get_task(game) for game in ("lunarlander", "acrobot")]))
    assert start.describe().endswith("; goes on with lunarlander, acrobot, without cartpole")
    values = adding(two, recordings, **WAYS["head"]) | {"teacher": "acrobot", "out": tmp_path / "run"}
    # The one that is left has a hidden layer in its head, which a student of one game has not.
    message = refusal(capfd, "distill", *options(values))
    assert "has a hidden layer in the head of each of cartpole, acrobot" in message
    values = {
        "teacher": ["acrobot", "cartpole"], "data": [recordings["acrobot"], recordings["cartpole"]],
        "init-from": two, "out": tmp_path / "turned",
    }  # fmt: skip
    succeed("distill", SMALL | values | {"schedule.rounds": 1, "schedule.updates-per-round": 20})
    assert "; goes on with acrobot, cartpole\n" in capfd.readouterr().err
    summary = json.loads((tmp_path / "turned" / "summary.json").read_text())
    assert summary["init_from"]["kept"] == ["acrobot", "cartpole"] and summary["init_from"]["left_out"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add-teacher": "acrobot"}, "add_teacher: {two} plays acrobot already (cartpole, acrobot)"),
        ({"add-teacher": ["lunarlander", "lunarlander"], "add-data": ["x", "y"]}, "lunarlander is there 2 times"),
        (
            {"teacher": ["cartpole", "lunarlander"], "data": ["x", "y"], "add-teacher": "pong"},
            "teacher: lunarlander is no game of {two} (cartpole, acrobot)",
        ),
        ({"add-data": None}, "add_data: missing: the old games are recorded"),
        ({"data": "x"}, "--data: 1 data set for 2 teachers: acrobot has none"),
        ({"add-data": ["x", "y"]}, "--add-data: 2 data sets for 1 teacher"),
        ({"init-from": None}, "teacher: missing"),
        ({"init-from": "cartpole"}, "init_from: cartpole: games are added to the student of a run of pd-jax distill"),
        (
            {"add-teacher": None, "teacher": "cartpole"},
            "--add-data: is the recorded play of an added game; add --add-teacher",
        ),
        ({"loss.temperature": [0.1, 0.2]}, "--loss.temperature: 2 numbers for 3 teachers"),
        ({"adding.penalty": "ewc", "adding.old-steps": 0}, "--adding.old-steps: 0, and ewc finds what matters"),
        ({"adding.penalty": "ewk"}, "--adding.penalty: 'ewk' is not a penalty; did you mean 'ewc'?"),
        ({"adding.penalty-weight": -1}, "--adding.penalty-weight: -1 is out of range (at least 0)"),
        ({"adding.penalty-weight": 2}, "--adding.penalty-weight: is for a penalty, and adding.penalty is 'none'"),
        ({"adding.learn": "head", "adding.penalty": "ewc"}, "--adding.penalty: nothing that it would hold learns"),
        ({"adding.penalty": "ewc", "adding.new-share": 0.2}, "--adding.new-share: the old games are not learnt on"),
        ({"adding.games": "lunarlander"}, "--adding.games: is filled in from add_teacher; leave one out"),
        ({"student.mlp-hidden": 6}, "init_from: {two}: tensor 'head/fc2/kernel' has shape (2, 8, 4)"),
        ({"student.quantisation": "int8"}, "--student.quantisation: a student of 8 bits learns no game anew"),
        ({"learner.balance": "gradnorm"}, "--learner.balance: adding.new_share weighs the games"),
        ({"add-teacher": "pong"}, "student.network: 'mlp' sees vectors, and pong shows frames"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    changes: dict[str, Any],
    message: str,
    two: Path,
    recordings: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    values = adding(two, recordings, out=tmp_path / "run") | changes
    before = contents(two)
    told = refusal(capfd, "distill", *options({name: value for name, value in values.items() if value is not None}))
    assert message.format(two=two) in told
    assert not (tmp_path / "run").exists() and contents(two) == before


def test_temperatures_of_each_game_are_not_taken_for_those_of_other_games(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    (run / "config.yaml").write_text(
        "# pd-jax distill\nteacher: [cartpole, acrobot]\nout: x\nloss: {temperature: [0.1, 0.3]}\n"
        "student: {network: mlp}\n"
    )
    told = refusal(capfd, "distill", *options({"init-from": run, "add-teacher": "acrobot", "out": out}))
    assert f"add_teacher: {run} plays acrobot already (cartpole, acrobot)" in told
    values = {"init-from": run, "teacher": "acrobot", "add-teacher": "lunarlander", "out": out}
    assert f"loss.temperature: {run} has one for each of its games" in refusal(capfd, "distill", *options(values))
    config = load_config(DistillConfig, options(values | {"loss.temperature": [0.3, 0.03]}), "distill")
    assert config.loss.temperature == (0.3, 0.03)
    assert not out.exists()


def test_without_an_added_game_its_settings_are_idle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = {"teacher": "cartpole", "student.network": "mlp", "out": tmp_path / "run", "adding.penalty": "ewc"}
    message = refusal(capfd, "distill", *options(values))
    assert "--adding.penalty: says how a game is added; add --add-teacher" in message


def test_settings_of_a_program_say_the_same(two: Path, recordings: dict[str, Path]) -> None:
    """`num_games` and what follows from it count the added ones, before and after they are among the others."""
    values = adding(two, recordings, out="x")
    config = load_config(DistillConfig, options(values), "distill")
    assert (config.num_games, config.num_old_games, config.add_teacher) == (3, 2, ("lunarlander",))
    held = dataclasses.replace(config.adding, penalty="distance", old_steps=256)
    sampled = dataclasses.replace(config, adding=held)
    assert [sampled.is_learnt(game) for game in range(3)] == [False, False, True]
    assert all(map(config.is_learnt, range(3)))


def test_the_table_in_the_terminal_fits_with_what_is_forgotten(
    added: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out = added["ewc"]
    summary = read_run(out).read_summary()
    assert summary is not None
    print_summary(summary)
    table = capsys.readouterr().out.split("student:")[0]
    assert "gotten" in table and "before" in table and "…" not in table
    before = json.loads((out / "summary.json").read_text())["games"]["acrobot"]["score_before"]
    (row,) = (line for line in table.splitlines() if line.startswith(" acrobot"))
    assert f"{before:,.1f}" in row
