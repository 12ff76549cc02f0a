"""``pd-jax export``: what it leaves, and that it leaves nothing where something is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.config.export import ExportConfig, ExportEvaluationConfig, ProofConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy import export as export_module
from pd_jax.deploy.layers import Dense, layers_of
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.deploy.runtime import Policy, PolicyError
from pd_jax.deploy.stablehlo import StableHloPolicy
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.replay.recordings import Dataset
from pd_jax.system.interrupts import Interrupted
from support.commands import contents, options, refusal, succeed
from support.made_runs import write_distillation, write_student_run
from support.policies import random_observations

FEW = {"proof.frames": 50, "evaluation.episodes": 0, "evaluation.num-lanes": 4}


@pytest.fixture(scope="module")
def two_game_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two games of unlike observations and actions. Not to be written to."""
    student = StudentConfig(network="mlp", mlp_hidden=(16,), head_hidden=8)
    return write_student_run(tmp_path_factory.mktemp("two") / "run", ("cartpole", "acrobot"), student)


def test_a_student_of_two_games_becomes_a_proven_file_for_each_and_the_runtime_beside(
    two_game_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "exports"
    games = {"evaluation.episodes": 4, "evaluation.max-episode-steps": 60}
    succeed("export", FEW | games | {"run": two_game_run, "format": ["onnx", "stablehlo"], "out": out})
    names = {f"{game}.{suffix}" for game in ("acrobot", "cartpole") for suffix in ("onnx", "stablehlo")}
    assert {path.name for path in out.iterdir()} == names | {"pd_jax_runtime.py", "export.json", "lineage.json"}
    assert [path.name for path in out.parent.iterdir()] == ["exports"]
    report = json.loads((out / "export.json").read_text())
    printed = capsys.readouterr().out
    student = pd_jax.load_student(two_game_run)
    for game in student.games:
        policy, task = student.for_game(game), get_task(game)
        observations = random_observations(task, 6)
        entry = report["games"][game]
        for kind, read in (("onnx", Policy.load), ("stablehlo", StableHloPolicy)):
            told, path = entry["files"][kind], out / f"{game}.{kind}"
            file: Any = read(path)
            np.testing.assert_allclose(file.outputs(observations), policy.outputs(observations), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(file.act(observations)[0], policy.act(observations)[0])
            assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert told["bytes"] == path.stat().st_size
            assert told["frames"]["frames"] == 50 and told["frames"]["share_of_equal_actions"] == 1.0
            assert file.metadata == entry["policy"], "the file says of itself what the report says"
            assert path.name in printed
            # The same starts, the same actions, the same games.
            assert told["games"] == entry["policy_games"]
        said = entry["policy"]
        assert said["game"] == game and said["action_names"] == list(task.action_names)
        assert said["output"] == "logits" and said["parameters"] == student.num_params
        assert said["temperature"] == 0.01 and set(said["versions"]) == {"pd_jax", "jax", "numpy"}
        assert said["scores"]["policy"]["mean"] == (11.0 if game == "cartpole" else 12.0)
        assert said["scores"]["protocol"]["episodes"] == 30 and said["scores"]["of"].endswith("after 100 updates")
        assert said["hashes"]["teacher"] == str(student.games.index(game)) * 64
        protocol = {**report["games"][game]["protocol"]}
        assert protocol["episodes"] == 4 and protocol["epsilon"] == 0.05 and protocol["max_episode_steps"] == 60
        scored = evaluate(
            policy,
            episodes=4,
            num_lanes=4,
            seed=protocol["seed"],
            environment_options={"max_episode_steps": 60},
        )
        assert entry["policy_games"]["mean"] == scored.returns.mean()
    assert report["runtime"]["sha256"] == hashlib.sha256((out / "pd_jax_runtime.py").read_bytes()).hexdigest()
    assert pd_jax.__version__ in (out / "pd_jax_runtime.py").read_text().splitlines()[0]


def test_one_of_its_games_is_exported_alone_and_from_a_recording(
    two_game_run: Path, recording: Path, tmp_path: Path
) -> None:
    config = ExportConfig(
        run=str(two_game_run),
        game="CartPole-v1",
        out=str(tmp_path / "out"),
        opset=19,
        data=str(recording),
        proof=ProofConfig(frames=2000),
        evaluation=ExportEvaluationConfig(episodes=0),
    )
    report = pd_jax.run_export(config)
    assert report == json.loads((tmp_path / "out" / "export.json").read_text())
    (entry,) = report["games"]["cartpole"]["files"].values()
    dataset = Dataset.open(recording)
    decisions = int(np.sum(dataset.read(0, dataset.num_steps).is_decision))
    assert entry["frames"]["frames"] == decisions < 2000 and entry["opset"] == 19 and "games" not in entry
    assert report["games"]["cartpole"]["policy"]["measured"] is None


def test_a_teacher_of_frames_is_exported_with_the_rule_of_its_frames(tmp_path: Path) -> None:
    succeed("export", FEW | {"teacher": "pong", "proof.frames": 20, "out": tmp_path / "out"})
    file = Policy.load(tmp_path / "out" / "pong.onnx")
    assert file.game == "pong" and file.action_names == get_task("pong").action_names
    rule = file.metadata["observation"]["rule"]
    assert (rule["frame_skip"], rule["maximum_of"], rule["stack"]) == (4, 2, 4)
    assert file.metadata["hashes"]["teacher_file"] == pd_jax.load_teacher("pong").sha256
    evaluation = pd_jax.load_teacher("pong").metadata.evaluation
    assert file.metadata["scores"]["policy"]["mean"] == evaluation["mean"]
    assert file.metadata["scores"]["protocol"]["max_noops"] == evaluation["max_noops"]
    assert file.metadata["scores"]["protocol"]["name"] == "classic"


def test_an_export_is_made_again_for_the_same_settings_alone_and_replaced_when_it_is_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    argv = options(FEW | {"teacher": "cartpole", "out": out})
    assert main(["export", *argv]) == 0
    before = contents(out)
    problem = f"pd-jax export: {out}: holds this export; add --resume to make it again, or choose another --out"
    assert refusal(capfd, "export", *argv) == problem
    other = refusal(capfd, "export", *argv, "--resume", "--opset", "18")
    assert other == f"pd-jax export: {out}: holds an export of other settings; choose another --out"
    assert main(["export", *argv, "--resume"]) == 0
    assert contents(out).keys() == before.keys() and contents(out)["cartpole.onnx"] == before["cartpole.onnx"]
    # One that fails leaves the one before.
    before = contents(out)
    failing = export_module.FORMATS["onnx"]._replace(write=lambda *_: b"")
    monkeypatch.setattr(export_module, "FORMATS", {"onnx": failing})
    with pytest.raises(PolicyError):
        main(["export", *argv, "--resume"])
    assert contents(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "mine.txt").write_text("mine")
    message = refusal(capfd, "export", *argv, "--resume")
    assert message == f"pd-jax export: {out}: holds more than an export (mine.txt); choose another --out"


def left_nothing(directory: Path) -> bool:
    return list(directory.iterdir()) == []


def test_a_file_that_is_not_within_the_bounds_is_not_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bound = {"proof.max-difference": 1e-12}
    argv = options(FEW | bound | {"teacher": "cartpole", "out": tmp_path / "a" / "out"})
    assert main(["export", *argv]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("pd-jax export: cartpole.onnx: outputs differ by up to ")
    assert last.endswith(f"more than proof.max_difference 1e-12; nothing is left in {tmp_path}/a/out")
    assert left_nothing(tmp_path)


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        pd_jax.run_export(ExportConfig(teacher="cartpole", out=str(tmp_path / "out")), stop=stop)
    assert left_nothing(tmp_path)


def test_a_file_that_plays_worse_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def upside_down(policy: Any, metadata: dict[str, Any], config: ExportConfig) -> bytes:
        *layers, last = layers_of(policy)
        assert isinstance(last, Dense)
        return onnx_bytes([*layers, Dense(-last.kernel, -last.bias)], policy.task, metadata)

    broken = export_module.FORMATS["onnx"]._replace(write=upside_down)
    monkeypatch.setattr(export_module, "FORMATS", {"onnx": broken})
    config = ExportConfig(
        teacher="cartpole",
        out=str(tmp_path / "out"),
        proof=ProofConfig(frames=20, max_difference=1e6, min_equal_actions=0.0),
        evaluation=ExportEvaluationConfig(episodes=3, num_lanes=3),
    )
    with pytest.raises(UserError, match=r"^cartpole.onnx: scores \d+\.\d over 3 games, and the policy 500.0 from the"):
        pd_jax.run_export(config)
    assert left_nothing(tmp_path)


def test_a_directory_that_holds_something_is_left_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, content, message in (
        ("notes", "notes.txt", "is not empty (notes.txt); choose another --out"),
        ("export", "export.json", "is not empty (export.json); choose another --out"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text("mine")
        error = refusal(capfd, "export", "--teacher", "cartpole", "--out", str(tmp_path / name))
        assert error == f"pd-jax export: {tmp_path / name}: {message}"
    (tmp_path / "file").write_text("mine")
    error = refusal(capfd, "export", "--teacher", "cartpole", "--out", str(tmp_path / "file"))
    assert error.endswith("is a file; --out takes a directory")
    error = refusal(capfd, "export", "--teacher", "cartpole", "--out", "/proc/nowhere/out")
    assert error.startswith("pd-jax export: /proc/nowhere/out: cannot be written: ")
    assert "is an address" in refusal(capfd, "export", "--teacher", "cartpole", "--out", "gs://bucket/out")
    assert set(contents(tmp_path)) == {"notes/notes.txt", "export/export.json", "file"}
    assert set(contents(tmp_path).values()) == {b"mine"}


def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_made(
    two_game_run: Path, recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unfinished = write_distillation(tmp_path / "unfinished")
    foreign = tmp_path / "foreign.onnx"
    foreign.write_text("not a policy")
    before, out = contents(tmp_path), tmp_path / "out"
    for argv, message in (
        (["--run", str(unfinished)], f"{unfinished}: has no checkpoint yet"),
        (["--run", str(two_game_run), "--checkpoint", "best"], "no checkpoint has a score"),
        (["--run", str(two_game_run), "--game", "pong"], "its student plays cartpole, acrobot, not pong"),
        (["--run", str(tmp_path)], "is not a run directory"),
        (["--teacher", str(foreign)], f"{foreign}: "),
        (["--teacher", "cartpole", "--game", "pong"], "plays cartpole with 2 actions; pong has 6"),
        ([], "run: give one of --run DIR and --teacher NAME_OR_FILE"),
        (["--teacher", "cartpole", "--run", "x"], "run: give one of --run DIR and --teacher NAME_OR_FILE"),
        (["--teacher", "cartpole", "--checkpoint", "best"], "checkpoint: 'best' of no run; give --run DIR"),
        (["--teacher", "cartpole", "--format", "onnx", "onnx"], "format: onnx is there 2 times"),
        (["--teacher", "cartpole", "--format", "oonx"], "'oonx' is not a format; did you mean 'onnx'?"),
        (["--teacher", "cartpole", "--opset", "16"], "--opset: 16 is out of range (at least 17)"),
        (["--teacher", "cartpole", "--game", "cartpole", "acrobot"], "game: 2 games of one teacher; give one"),
    ):
        assert message in refusal(capfd, "export", "--out", str(out), *argv), argv
    argv = options(FEW | {"teacher": "acrobot", "data": recording, "out": out})
    assert "is a recording of cartpole, and the policy plays acrobot" in refusal(capfd, "export", *argv)
    assert contents(tmp_path) == before and not out.exists()


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("stablehlo", "flatbuffers")])
def test_a_package_that_is_missing_is_told_with_how_to_install_it(
    kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    error = refusal(capfd, "export", "--teacher", "cartpole", "--format", kind, "--out", str(tmp_path / "out"))
    assert error == (
        f"pd-jax export: format: {kind} needs {package}, which is not installed: pip install 'pd-jax[export]'"
    )
    assert left_nothing(tmp_path)
