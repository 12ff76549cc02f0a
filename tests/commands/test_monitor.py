"""``pd-jax monitor``: thresholds, alarms, exit codes, and that nothing is left where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.monitor import DisturbanceConfig
from pd_jax.deploy.decisions import own_decisions, watched_policy
from pd_jax.deploy.layers import layers_of
from pd_jax.deploy.monitor import Monitor
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers.files import params_fingerprint
from support.commands import options, refusal
from support.policies import metadata_of, random_observations

FIT = {"policy": "cartpole", "decisions": 8000, "block": 16, "env.num-lanes": 10, "false-alarms": 0.01}


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundled CartPole teacher's play, beside a teacher, who is itself. Not to be written to."""
    path = tmp_path_factory.mktemp("monitor") / "thresholds.json"
    assert main(["monitor", "fit", *options(FIT | {"teacher": "cartpole", "out": path})]) == 0
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same teacher as an ONNX file."""
    teacher = pd_jax.load_teacher("cartpole")
    metadata = metadata_of(teacher.task)
    metadata |= {"output": "q", "hashes": {"parameters": params_fingerprint(teacher.variables["params"])}}
    path = tmp_path_factory.mktemp("exported") / "cartpole.onnx"
    path.write_bytes(onnx_bytes(layers_of(teacher), teacher.task, metadata))
    return path


def watch(thresholds: Path, *more: str) -> int:
    return main(["monitor", "watch", "--thresholds", str(thresholds), *more])


Change = Callable[[int, dict[str, Any]], dict[str, Any]]


def log_of(path: Path, steps: int, change: Change = lambda _, line: line) -> Path:
    """A log of the teacher's play of one lane, as a machine in the field writes it."""
    teacher = pd_jax.load_teacher("cartpole")
    play = own_decisions(
        watched_policy(teacher),
        teacher.task,
        num_lanes=1,
        epsilon=0.05,
        seed=5,
        options={},
        disturbance=DisturbanceConfig(),
    )
    with path.open("w") as file:
        for step, decisions in zip(range(steps), play, strict=False):
            assert decisions.features is not None
            line = {
                "outputs": decisions.outputs[0].tolist(),
                "features": decisions.features[0].tolist(),
                "action": int(decisions.actions[0]),
                "is_first": bool(decisions.is_first[0]),
            }
            if decisions.is_decided[0]:
                file.write(json.dumps(change(step, line)) + "\n")
    return path


def test_thresholds_say_what_they_are_of(thresholds: Path) -> None:
    entry = json.loads(thresholds.read_text())
    teacher = pd_jax.load_teacher("cartpole")
    assert entry["policy"]["parameters"] == params_fingerprint(teacher.variables["params"])
    assert (entry["policy"]["game"], entry["format_version"], entry["block_size"]) == ("cartpole", 1, 16)
    assert entry["decisions"] >= 8000 and entry["false_alarms_per_million"] == 0.01
    assert entry["protocol"]["epsilon"] == 0.05 and entry["versions"]["pd_jax"] == pd_jax.__version__
    assert entry["signals"]["disagreement"]["mean"] == 0, "the teacher is the policy itself"
    assert {"entropy", "action_gap", "action_LEFT", "features_distance", "sights_response"} <= entry["signals"].keys()
    assert entry["signals"]["features_1"]["above"] is None, "it only explains others"


def test_play_with_noise_is_an_alarm_and_exit_code_3_and_healthy_play_is_none(
    thresholds: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figure = tmp_path / "signals.png"
    own = ["--policy", "cartpole", "--play", "--decisions", "1000", "--seed", "3"]
    assert watch(thresholds, *own, "--json", "--figure", str(figure)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    summary = json.loads(line)["summary"]
    assert (summary["decisions"], summary["alarms"]) == (1000, 0)
    # No teacher was given this time.
    assert "features_response" in summary["watched"] and summary["not_watched"] == ["disagreement"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    # The command that is meant where none is named.
    assert main(["monitor", "--thresholds", str(thresholds), *own, "--disturbance.noise", "0.3", "--json"]) == 3
    *alarms, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert alarms and last["summary"]["alarms"] == len(alarms)
    assert last["summary"]["first_alarm"] == alarms[0]["alarm"] and alarms[0]["alarm"]["decision"] <= 200
    assert watch(thresholds, *own, "--disturbance.noise", "0.3") == 3
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("alarm: decision ") and "1,000 decisions" in out[-3] + out[-2] + out[-1]


def test_a_log_says_as_much_as_is_in_it(
    thresholds: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(tmp_path / "log.jsonl", 700)
    assert watch(thresholds, "--log", str(log), "--json") == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["decisions"] == len(log.read_text().splitlines())
    assert "features_surprise" in summary["watched"] and "sights_distance" in summary["not_watched"]

    def swapped(step: int, line: dict[str, Any]) -> dict[str, Any]:
        return line if step < 300 else line | {"outputs": line["outputs"][::-1], "action": 0}

    log = log_of(tmp_path / "swapped.jsonl", 700, swapped)
    assert watch(thresholds, "--log", str(log), "--json", "--policy", str(exported)) == 3
    first = json.loads(capsys.readouterr().out.splitlines()[0])["alarm"]
    assert 300 < first["decision"] < 500


def test_a_log_that_ends_in_the_middle_of_a_line_is_taken_up_to_there(
    thresholds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = log_of(tmp_path / "log.jsonl", 20).read_text()
    (tmp_path / "cut.jsonl").write_text(whole[:-9])
    monkeypatch.chdir(tmp_path)
    assert watch(thresholds, "--log", "cut.jsonl", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["summary"]["decisions"] == 19
    assert err == "warning: cut.jsonl: line 20: the log ends in the middle of it; all before was counted\n"
    # By standard input it is the same.
    with (tmp_path / "cut.jsonl").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert watch(thresholds, "--log", "-", "--json") == 0
    assert "standard input: line 20" in capsys.readouterr().err


def test_a_log_of_less_than_a_block_is_a_warning(
    thresholds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(tmp_path / "log.jsonl", 2)
    assert watch(thresholds, "--log", str(log)) == 0
    out, err = capsys.readouterr()
    nothing = "no block of 16 decisions of a lane was full, so nothing was tested"
    assert out.splitlines()[0] == f"2 decisions in 0 blocks: {nothing}"
    assert err == f"warning: {log}: {nothing}\n"
    assert watch(thresholds, "--log", str(log), "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"]["blocks"] == 0


def test_a_file_in_integers_with_thresholds_of_the_float_policy_is_a_warning(
    thresholds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(tmp_path / "log.jsonl", 40)
    teacher = pd_jax.load_teacher("cartpole")
    metadata = metadata_of(teacher.task)
    metadata |= {"output": "q", "hashes": {"parameters": params_fingerprint(teacher.variables["params"])}}
    integer, own = tmp_path / "cartpole.int8.onnx", tmp_path / "own.json"
    # What its metadata says is what counts.
    integer.write_bytes(onnx_bytes(layers_of(teacher), teacher.task, metadata | {"quantisation": {"bits": 8}}))
    assert watch(thresholds, "--log", str(log), "--policy", str(integer), "--json") == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"warning: {thresholds}: thresholds of the policy in floating point")
    assert "pd-jax monitor fit --policy FILE" in err
    assert main(["monitor", "fit", *options(FIT | {"policy": integer, "decisions": 1000, "out": own})]) == 0
    assert json.loads(own.read_text())["policy"]["quantisation"] == {"bits": 8}
    assert json.loads(thresholds.read_text())["policy"]["quantisation"] is None
    capsys.readouterr()
    assert watch(own, "--log", str(log), "--policy", str(integer), "--json") in (0, 3)
    assert capsys.readouterr().err == ""
    assert watch(own, "--log", str(log), "--policy", "cartpole", "--json") in (0, 3)
    assert "thresholds of a file in 8-bit integers" in capsys.readouterr().err


def test_numbers_that_are_none_are_an_alarm(
    thresholds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"outputs": [0.1, 0.2]}, {"outputs": [float("nan"), 0.2]}, {"outputs": [None, 0.2]}, {"outputs": [1, 2]}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert watch(thresholds, "--log", str(tmp_path / "log.jsonl"), "--json") == 3
    alarm, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (alarm["alarm"]["signal"], alarm["alarm"]["decision"]) == ("not_finite", 2)
    assert summary["summary"]["decisions"] == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"outputs": [1, 2', "is not JSON"),
        ("[]", "has no outputs"),
        ('{"action": 1}', "has no outputs"),
        ('{"outputs": []}', "outputs is no list of numbers"),
        ('{"outputs": [true, 1]}', "outputs is no list of numbers"),
        ('{"outputs": [1, 2], "action": 1.5}', "action is no whole number"),
        ('{"outputs": [1, 2], "is_first": 3}', "is_first is neither true nor false"),
        ('{"outputs": [0, 1], "action": 7}', "an action that is not one of the 2, from 0 on"),
        ('{"outputs": [0, 1], "action": -1}', "an action that is not one of the 2, from 0 on"),
        ('{"outputs": [0, 1], "teacher_action": 9}', "a teacher_action that is not one of the 2, from 0 on"),
        ('{"outputs": [0, 1, 2]}', "outputs of 3 actions, and the thresholds are for 2"),
        ('{"outputs": [0, 1], "features": [1, 2]}', "features of 2 numbers, and the thresholds are for 128"),
        ('{"outputs": [1, 2], "policy": "0"}', "thresholds of another policy, cartpole-mlp, and this is the log's"),
    ],
)
def test_a_line_that_is_no_decision_is_named(
    thresholds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"outputs": [1, 2]}\n' + line + '\n{"outputs": [1, 2]}\n')
    told = refusal(capfd, "monitor", "watch", "--thresholds", str(thresholds), "--log", str(log))
    assert told.startswith(f"pd-jax monitor watch: {log}: line 2: {message}")


def test_a_recording_is_watched_and_one_of_another_game_refused(
    thresholds: Path, recording: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ["--data", str(recording)]
    assert watch(thresholds, "--policy", "cartpole", "--json", *data) == 0
    assert json.loads(capfd.readouterr().out)["summary"]["decisions"] > 900
    out = tmp_path / "recorded.json"
    own = {"policy": "cartpole", "data": recording, "block": 8, "out": out}
    assert main(["monitor", "fit", *options(own)]) == 0
    entry = json.loads(out.read_text())
    assert entry["play"]["recording"] == "cartpole" and entry["protocol"]["epsilon"] == 0.05
    told = refusal(capfd, "monitor", "fit", "--policy", "acrobot", "--out", str(tmp_path / "x.json"), *data)
    assert told.endswith(f"data: {recording} is a recording of cartpole, and the policy plays acrobot")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "--out", "{new}"], "run: missing, and policy too"),
        (["fit", "--policy", "cartpole", "--out", "{thresholds}"], "out: {thresholds} exists; name another file"),
        (["fit", "--policy", "cartpole", "--out", "{new}/x"], "out: {new}/x: there is no directory {new}"),
        (["fit", "--policy", "cartpole", "--decisions", "900", "--out", "{new}"], "too little play: "),
        (
            ["fit", "--policy", "cartpole", "--decisions", "15000", "--out", "{new}"],
            "too little play: 15,000 decisions in 16 lanes, and with blocks of 256 20,480 are enough",
        ),
        (["fit", "--policy", "cartpol", "--out", "{new}"], "'cartpol' is neither a bundled teacher"),
        (["fit", "--policy", "x.onnx", "--out", "{new}"], "x.onnx: No such file"),
        (["fit", "--policy", "{thresholds}", "--out", "{new}"], "{thresholds}: "),
        (
            ["watch", "--thresholds", "{altered}", "--log", "-"],
            "{altered}: was altered after pd-jax monitor fit wrote it",
        ),
        (["watch", "--thresholds", "{thresholds}"], "data: none given; give one of --data, --log and --play"),
        (["watch", "--thresholds", "{thresholds}", "--play"], "run: missing, and policy too"),
        (["watch", "--thresholds", "{new}", "--log", "-"], "{new}: No such file"),
        (["watch", "--thresholds", "{thresholds}", "--log", "{new}"], "{new}: No such file"),
        (
            ["watch", "--thresholds", "{thresholds}", "--log", "-", "--figure", "x.pdf"],
            "--figure: 'x.pdf' does not end",
        ),
        (
            ["watch", "--thresholds", "{thresholds}", "--policy", "acrobot", "--play"],
            "{thresholds}: thresholds of another policy, cartpole-mlp, and this is acrobot-mlp",
        ),
        (
            ["watch", "--thresholds", "{thresholds}", "--policy", "cartpole", "--play", "--env.mode", "1"],
            "env.mode: cartpole is no game of Atari",
        ),
        (["watch", "--thresholds", "{thresholds}", "--log", "-", "--env.mode", "1"], "--env.mode: is of the policy"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    thresholds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    altered = thresholds.with_name("altered.json")
    altered.write_text(thresholds.read_text().replace('"block_size": 16', '"block_size": 1000000000000'))
    names = {"new": str(tmp_path / "new"), "thresholds": str(thresholds), "altered": str(altered)}
    before = thresholds.read_bytes()
    told = refusal(capfd, "monitor", *[each.format(**names) for each in argv])
    assert told.startswith(f"pd-jax monitor {argv[0]}: {message.format(**names)}"), told
    assert thresholds.read_bytes() == before and list(tmp_path.iterdir()) == []


def test_features_are_the_torsos_and_outputs_those_of_the_policy(exported: Path) -> None:
    teacher = pd_jax.load_teacher("cartpole")
    observations = random_observations(teacher.task, 5)
    outputs, features = watched_policy(teacher).decide(observations)
    np.testing.assert_allclose(outputs, teacher.outputs(observations), rtol=1e-5, atol=1e-5)
    assert features is not None and features.shape == (5, 128)
    head = teacher.variables["params"]["head"]["output"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], outputs, rtol=1e-3, atol=1e-3)


def test_games_have_modes_and_difficulties_and_no_others() -> None:
    pong = get_task("pong")
    shown = []
    for mode, difficulty in ((None, None), (1, None), (None, 1)):
        environment = Environment(pong, 1, 0, stepping="host", mode=mode, difficulty=difficulty)
        environment.reset()
        for _ in range(60):
            timestep = environment.step_host(np.zeros(1, int), np.zeros(1, bool))
        shown.append(np.asarray(timestep.observations).tobytes())
        environment.close()
    assert len(set(shown)) == 3
    with pytest.raises(UserError, match=r"^env\.mode: pong has none of number 77$"):
        Environment(pong, 1, 0, stepping="host", mode=77)
    with pytest.raises(UserError, match=r"^env\.difficulty: pong has none of number 9$"):
        Environment(pong, 1, 0, stepping="host", mode=1, difficulty=9)
    with pytest.raises(UserError, match=r"^env\.backend: ale-py"):
        Environment(pong, 1, 0, stepping="host", mode=1, backend="ale")


def test_a_monitor_watches_what_an_exported_file_decides(thresholds: Path, exported: Path) -> None:
    from pd_jax.deploy.runtime import Policy

    policy = Policy.load(exported)
    monitor = Monitor.load(thresholds, parameters=policy.metadata["hashes"]["parameters"])
    environment = Environment(policy_task := get_task(policy.game), 1, 9, stepping="host")
    _, timestep = environment.reset()
    is_last = np.zeros(1, bool)
    for _ in range(100):
        frames = np.ascontiguousarray(timestep.observations)
        outputs, actions = policy.decide(frames)
        assert monitor.update(outputs, frames=frames, actions=actions, is_decided=~is_last) is None
        timestep = environment.step_host(actions, is_last)
        is_last = np.asarray(timestep.is_last)
    assert policy_task.name == "cartpole" and monitor.decisions == 100
    assert "sights_surprise" in monitor.summary()["watched"]
