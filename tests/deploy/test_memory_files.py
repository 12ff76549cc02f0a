"""Files of students with memory: the state goes in and comes out, over whole episodes as JAX has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pd_jax.config.export import ExportConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy import runtime
from pd_jax.deploy.decisions import watched_file, watched_policy
from pd_jax.deploy.export import FORMATS, _check_precision
from pd_jax.deploy.layers import layers_of
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.deploy.runtime import FramesError, Policy, PolicyError
from pd_jax.deploy.runtime_file import runtime_source
from pd_jax.errors import UserError
from support.commands import options, refusal, succeed
from support.made_runs import write_student_run
from support.policies import metadata_of, random_observations, random_student

STEPS, LANES = 30, 3
NETWORKS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "gru": (["cartpole"], {"network": "mlp", "mlp_hidden": (6,), "memory": "gru", "memory_size": 5}),
    "lstm": (["cartpole"], {"network": "mlp", "mlp_hidden": (6,), "memory": "lstm", "memory_size": 5}),
    "no torso": (["cartpole"], {"network": "mlp", "mlp_hidden": (), "memory": "gru", "memory_size": 4}),
    "several games": (
        ["acrobot", "cartpole"],
        {"network": "mlp", "mlp_hidden": (), "memory": "lstm", "memory_size": 4, "head_hidden": 3},
    ),
    "frames": (["pong"], {"network": "net2", "channels": (4, 6, 8), "hidden": 16, "memory": "gru", "memory_size": 8}),
}


def written(name: str, path: Path) -> tuple[Any, Policy]:
    games, settings = NETWORKS[name]
    policy = random_student(games, **settings).for_game(games[-1])
    size = policy.trained.student.state_size
    metadata = metadata_of(policy.task) | {
        "format_version": 2,
        "memory": {"kind": settings["memory"], "state_size": size},
    }
    path.write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata))
    return policy, Policy.load(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_answers_as_jax_over_an_episode(name: str, tmp_path: Path) -> None:
    policy, file = written(name, tmp_path / "policy.onnx")
    count = 6 if name == "frames" else STEPS
    observations = random_observations(policy.task, count * LANES).reshape(count, LANES, *policy.task.observation_shape)
    ours, theirs = policy.initial_state(LANES), file.initial_state(LANES)
    assert theirs is not None and theirs.shape == (LANES, policy.trained.student.state_size)
    last = None
    for step, seen in enumerate(observations):
        if step == count // 2:
            # A game opens in one lane.
            ours[1] = theirs[1] = 0.0
        wanted, ours = policy.decide(seen, ours)
        outputs, actions, theirs = file.step(seen, theirs)
        np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(actions, outputs.argmax(axis=1))
        last = outputs
    forgetful, _, _ = file.step(observations[-1])
    assert np.abs(forgetful - last).max() > 1e-3


def test_act_takes_and_gives_the_state(tmp_path: Path) -> None:
    _, file = written("lstm", tmp_path / "policy.onnx")
    frames = np.ones((2, 4), np.float32)
    actions, state = file.act(frames)
    assert actions.dtype == np.int32 and state.shape == (2, 10)
    _, expected, after = file.step(frames, file.initial_state(2))
    np.testing.assert_array_equal(actions, expected)
    np.testing.assert_array_equal(state, after)
    for wrong in (np.zeros((3, 10), np.float32), np.zeros((2, 10)), np.zeros((2, 5), np.float32), [0.0]):
        with pytest.raises(FramesError, match=r"the state of 2 lanes is float32 \[2, 10\]"):
            file.act(frames, wrong)
    for stateless in (file.outputs, file.decide):
        with pytest.raises(PolicyError, match="has memory: what it gives depends on its state"):
            stateless(frames)


def test_a_file_without_memory_is_in_the_old_format_and_has_no_state(tmp_path: Path) -> None:
    policy = random_student(["cartpole"], network="mlp", mlp_hidden=(4,))
    (tmp_path / "policy.onnx").write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task)))
    file = Policy.load(tmp_path / "policy.onnx")
    assert file.state_size == 0 and file.initial_state(2) is None
    frames = np.ones((2, 4), np.float32)
    outputs, actions, state = file.step(frames)
    assert state is None
    np.testing.assert_array_equal(outputs, file.outputs(frames))
    np.testing.assert_array_equal(actions, file.act(frames)[0])
    assert [value.name for value in onnx.load(str(tmp_path / "policy.onnx")).graph.input] == ["observations"]


def test_the_state_is_an_input_and_an_output_of_the_graph(tmp_path: Path) -> None:
    written("gru", tmp_path / "policy.onnx")
    graph = onnx.load(str(tmp_path / "policy.onnx")).graph
    assert [value.name for value in graph.input] == ["observations", "state"]
    assert [value.name for value in graph.output] == ["outputs", "actions", "next_state"]


def test_what_takes_no_memory_says_so(tmp_path: Path) -> None:
    policy, _ = written("gru", tmp_path / "policy.onnx")
    for name in ("c", "stablehlo"):
        with pytest.raises(UserError, match=f"format: {name}: the student of runs/random has memory"):
            FORMATS[name].check(policy)
    with pytest.raises(UserError, match="precision: int8: the student of runs/random has memory"):
        _check_precision(policy, ExportConfig(run="x", out="y", precision=("int8",)))
    with pytest.raises(UserError, match="policy: the student of runs/random has memory"):
        watched_policy(policy)
    with pytest.raises(UserError, match="has memory, and this is for policies without"):
        watched_file(str(tmp_path / "policy.onnx"))


@pytest.mark.parametrize("memory", [{"state_size": 0}, {"state_size": "many"}, [], {"kind": "gru"}])
def test_a_memory_of_no_size_is_no_policy(memory: Any, tmp_path: Path) -> None:
    policy = random_student(["cartpole"], **NETWORKS["gru"][1])
    metadata = metadata_of(policy.task) | {"format_version": 2, "memory": memory}
    (tmp_path / "policy.onnx").write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata))
    with pytest.raises(PolicyError, match="does not say what its policy is"):
        Policy.load(tmp_path / "policy.onnx")


def test_an_export_is_proved_and_plays_by_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "export"
    student = StudentConfig(network="mlp", mlp_hidden=(8,), memory="gru", memory_size=6)
    write_student_run(run, ("cartpole",), student)
    proof = {"run": run, "proof.frames": 200, "evaluation.episodes": 2, "evaluation.num-lanes": 2}
    succeed("export", proof | {"out": out})
    report = json.loads((out / "export.json").read_text())
    entry = report["games"]["cartpole"]["files"]["onnx"]
    assert report["format_version"] == 2 and entry["frames"]["frames"] == 200
    assert entry["frames"]["largest_relative_difference"] < 1e-4
    assert entry["games"]["mean"] == report["games"]["cartpole"]["policy_games"]["mean"]
    assert report["games"]["cartpole"]["policy"]["memory"] == {"kind": "gru", "state_size": 6}
    namespace: dict[str, Any] = {"__name__": "pd_jax_runtime"}
    exec(compile(runtime_source(), "pd_jax_runtime.py", "exec"), namespace)  # noqa: S102
    alone = namespace["Policy"].load(out / "cartpole.onnx")
    assert alone.state_size == 6 and runtime.FORMAT_VERSION == namespace["FORMAT_VERSION"] >= 2
    for command, words in (
        (["export", *options({"run": run, "out": tmp_path / "c", "format": "c"})], "format: c: the student of"),
        (["audit", *options({"run": run, "out": tmp_path / "audit"})], "audit: the student of"),
    ):
        assert words in refusal(capfd, *command)
    assert not (tmp_path / "c").exists() and not (tmp_path / "audit").exists()
