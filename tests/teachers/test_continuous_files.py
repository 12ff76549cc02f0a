"""Files of teachers of continuous tasks: what they say, what they play, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.environments.spaces import simulator_of
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.importers.conversion import describe
from support.continuous import metadata_of, params_of, write_teacher
from support.teacher_files import METADATA, PARAMS, parts, refusal, with_metadata

OBSERVATIONS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("output", "changes", "width"),
    [
        ("gaussian", {}, 2),
        ("gaussian", {"squashed": True, "log_std_bounds": (-5.0, 2.0)}, 2),
        ("means", {"squashed": True}, 1),
        ("means", {}, 1),
    ],
)
def test_a_continuous_teacher_is_what_was_written(tmp_path: Path, output: str, changes: Any, width: int) -> None:
    metadata = metadata_of(output=output, **changes)
    save_teacher(tmp_path / "t", params_of(metadata), metadata)
    teacher = load(tmp_path / "t")
    assert teacher.metadata == metadata and metadata.format_version == 6
    assert (metadata.action_low, metadata.action_high, metadata.num_actions) == ((-2.0,), (2.0,), 1)
    assert teacher(OBSERVATIONS).shape == (6, width)
    assert teacher.num_outputs == width and teacher.gives_logits
    assert teacher.task.squashed == (changes.get("squashed", False) and output == "gaussian")
    actions, _ = teacher.act(OBSERVATIONS)
    assert actions.shape == (6, 1) and actions.dtype == np.float32 and (np.abs(actions) <= 2.0).all()
    noisy, _ = teacher.act(OBSERVATIONS, epsilon=1.0, key=jax.random.key(0))
    assert not np.array_equal(actions, noisy) and (np.abs(noisy) <= 2.0).all()
    assert metadata.untrainable == "continuous actions"


def test_the_outputs_are_those_of_the_layers(tmp_path: Path) -> None:
    metadata = metadata_of(output="means", squashed=True)
    params = params_of(metadata)
    save_teacher(tmp_path / "t", params, metadata)
    x = OBSERVATIONS
    for layer in ("fc1", "fc2"):
        x = np.tanh(x @ params["torso"][layer]["kernel"] + params["torso"][layer]["bias"])
    x = 2 * np.tanh(x @ params["head"]["output"]["kernel"] + params["head"]["output"]["bias"])
    np.testing.assert_allclose(load(tmp_path / "t")(OBSERVATIONS), x, atol=1e-5)


def test_normalisation_is_applied_and_in_the_file(tmp_path: Path) -> None:
    statistics = {"mean": [1.0, 2.0, 3.0], "variance": [4.0, 0.25, 1.0], "count": 10.0, "epsilon": 0.0}
    plain = metadata_of()
    params = params_of(plain)
    save_teacher(tmp_path / "plain", params, plain)
    save_teacher(tmp_path / "t", params, dataclasses.replace(plain, normalisation={"observation": statistics}))
    seen = np.float32([1.0, 2.0, 3.0]) + OBSERVATIONS * np.float32([2.0, 0.5, 1.0])
    np.testing.assert_allclose(load(tmp_path / "t")(seen), load(tmp_path / "plain")(OBSERVATIONS), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_low": ...}, "metadata: action_low is missing"),
        ({"action_low": [-2.0, -2.0]}, "metadata: action_low has 2 numbers for 1 components"),
        ({"action_low": [2.0]}, "metadata: action_low is not below action_high"),
        ({"action_low": [1e200]}, "metadata: action_low is [1e+200], not a list of finite numbers"),
        ({"squashed": 1}, "metadata: squashed is 1, not true or false"),
        ({"log_std_bounds": [2, -5]}, "metadata: log_std_bounds is [2, -5], not a list of two numbers that rise"),
        ({"output": "means", "log_std_bounds": [-5, 2]}, "metadata: log_std_bounds are of a Gaussian"),
        ({"output": "beta"}, "metadata: output is 'beta', not 'q' or 'logits'"),
        ({"network": "dqn"}, "metadata: continuous actions are those of an mlp with a plain output layer"),
        ({"support": [0.0, 1.0]}, "metadata: continuous actions are those of an mlp with a plain output layer"),
        ({"format_version": 5}, "metadata: output is 'gaussian', not 'q' or 'logits'"),
        ({"simulator": 5}, "metadata: simulator is 5, not a short printable text"),
    ],
)
def test_metadata_that_cannot_be_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    path = write_teacher(tmp_path / "t")
    with_metadata(path, **changes)
    assert refusal(path).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_high": [1.0]}, "its actions are from -2 to 1; those of pendulum_v1 are from -2 to 2"),
        ({"game": "cartpole"}, "has continuous actions, cartpole has actions to choose among"),
        ({"output": "means"}, "tensor 'head/output/bias' has shape (2,), the network needs (1,)"),
        ({"game": "MountainCarContinuous-v0"}, "its actions are from -2 to 2; those of mountain_car_continuous_v0 are"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    path = write_teacher(tmp_path / "t")
    with_metadata(path, **changes)
    with pytest.raises(UserError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {message}")


def test_a_discrete_teacher_of_a_continuous_task_is_refused(tmp_path: Path) -> None:
    task = get_task("Pendulum-v1")
    metadata = dataclasses.replace(metadata_of(), output="q")
    save_teacher(tmp_path / "t", params_of(metadata), metadata)
    with pytest.raises(UserError, match=f"has actions to choose among, {task.name} has continuous actions"):
        load(tmp_path / "t")


def test_discrete_files_say_nothing_of_continuous_actions(tmp_path: Path) -> None:
    save_teacher(tmp_path / "t", PARAMS, METADATA)
    text = parts(tmp_path / "t")[0]["__metadata__"]["pd_jax"]
    assert not any(name in text for name in ("action_low", "squashed", "log_std", "simulator"))


def test_another_version_of_the_simulator_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = simulator_of("Hopper-v5")
    load(write_teacher(tmp_path / "same", "Hopper-v5"))
    assert metadata_of("Hopper-v5").simulator == here and capsys.readouterr().err == ""
    load(write_teacher(tmp_path / "other", "Hopper-v5", simulator="mujoco 2.1.0"))
    told = capsys.readouterr().err
    assert f"is of mujoco 2.1.0, and Hopper-v5 runs on {here} here: its score may differ" in told
    assert told.count("\n") == 1


def test_continuous_teachers_are_no_committee(tmp_path: Path) -> None:
    paths = [str(write_teacher(tmp_path / name, squashed=squashed)) for name, squashed in (("a", True), ("b", False))]
    with pytest.raises(UserError, match="has continuous actions; teachers that are joined by"):
        load("+".join(paths))


def test_describe_says_what_a_task_is() -> None:
    described = describe(get_task("pong"), library="x", algorithm="dqn", output="q", source_sha256="", how_made="here")
    assert (described.action_low, described.simulator, described.is_continuous) == ((), "", False)
