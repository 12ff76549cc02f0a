"""Teachers: what is loaded is what was saved, and what does not fit is refused in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.policy import count_params
from pd_jax.networks.registry import make_network
from pd_jax.teachers import Teacher, bundled_names, catalogue, load
from pd_jax.teachers.files import fingerprint, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 84, 84, 4)).astype(np.uint8)


def metadata_for(game: str, network: str, **changes: Any) -> TeacherMetadata:
    task = get_task(game)
    observation = {"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype}
    metadata = TeacherMetadata(
        name=f"{game}-test",
        game=task.name,
        env_id=task.env_id,
        network=network,
        layer_norm=False,
        hidden_sizes=(8, 8) if network == "mlp" else (),
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation=observation,
        output="q",
        algorithm="none",
        env_steps=0,
        seed=0,
        training_config={},
        evaluation={},
        learning_curve=[],
        how_made="at random",
        licence="Apache-2.0",
        created="2025-01-31",
        pd_jax_version="0",
    )
    return dataclasses.replace(metadata, **changes)


def params_for(network: Any, observation_shape: tuple[int, ...], dtype: str) -> Any:
    """Random parameters of the network's shapes."""
    example = jax.ShapeDtypeStruct((1, *observation_shape), dtype)
    shapes = jax.eval_shape(network.init, jax.random.key(0), example)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def pong_params() -> Any:
    return params_for(make_network("net3", 6), (84, 84, 4), "uint8")


@pytest.fixture
def save(tmp_path, pong_params):
    """``save(**changes)`` writes a Pong teacher of net3, with changed metadata, and returns its path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "teacher.safetensors"
        params = changes.pop("params", pong_params)
        save_teacher(path, params, dataclasses.replace(metadata_for("pong", "net3"), **changes))
        return str(path)

    return write


def refusal(path: Any) -> str:
    with pytest.raises(UserError) as refused:
        load(path)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_loaded_teacher_answers_as_the_network_that_was_saved(save, pong_params):
    path = save()
    loaded = load(path)
    expected = make_network("net3", 6).apply({"params": pong_params}, FRAMES)
    outputs = loaded(FRAMES)
    assert outputs.shape == (3, 6) and outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loaded(jnp.asarray(FRAMES)), expected, rtol=1e-4, atol=1e-4)
    assert loaded.task == get_task("pong") and loaded.sha256 == fingerprint(path)
    assert loaded.num_params == count_params(pong_params) and not loaded.gives_logits


def test_a_teacher_of_vectors_is_an_mlp_of_the_sizes_its_file_names(tmp_path):
    network = make_network("mlp", 2, hidden_sizes=(5, 9), layer_norm=True)
    params = params_for(network, (4,), "float32")
    path = tmp_path / "cartpole.safetensors"
    metadata = metadata_for("cartpole", "mlp", hidden_sizes=(5, 9), layer_norm=True, output="logits")
    save_teacher(path, params, metadata)
    loaded = load(path)
    observations = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.testing.assert_allclose(loaded(observations), network.apply({"params": params}, observations), rtol=1e-5)
    assert loaded.gives_logits


@pytest.mark.parametrize(
    "observations",
    [
        FRAMES[0],
        FRAMES.transpose(0, 3, 1, 2),
        FRAMES.astype(np.float32),
        FRAMES[:, :, :, :3],
        np.zeros((2, 4), np.float32),
    ],
)
def test_observations_of_another_shape_or_type_are_refused(save, observations):
    with pytest.raises(ValueError, match=r"pong-test takes uint8 \[N, 84, 84, 4\]"):
        load(save())(observations)


def test_a_bundled_teacher_is_found_by_its_name_in_any_case(save, tmp_path, monkeypatch):
    save()
    (tmp_path / "teacher.safetensors").rename(tmp_path / "pong.safetensors")
    monkeypatch.setattr(catalogue, "_ZOO", tmp_path)
    assert bundled_names() == ("pong",)
    assert load("Pong").task.name == "pong"
    message = refusal("pongg")
    assert message == "'pongg' is neither a bundled teacher nor a file; did you mean 'pong'? (bundled: pong)"


def test_an_unknown_name_is_refused_when_nothing_is_bundled(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_ZOO", tmp_path)
    assert refusal("pong") == "'pong' is neither a bundled teacher nor a file (none are bundled)"


def test_bundled_teachers_load_and_are_named_after_their_files():
    for name in bundled_names():
        assert isinstance(load(name), Teacher)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "absent.safetensors")
    assert path in refusal(path)


@pytest.mark.parametrize("kept", [0, 5, 100, 20_000])
def test_a_truncated_file_is_refused(save, kept):
    path = save()
    with open(path, "r+b") as file:
        file.truncate(kept)
    assert path in refusal(path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_actions": 5, "action_names": ("NOOP",) * 5}, "has 5 actions, pong has 6"),
        ({"action_names": ("NOOP", "FIRE", "LEFT", "RIGHT", "RIGHTFIRE", "LEFTFIRE")}, "NOOP, FIRE, LEFT, RIGHT"),
        ({"game": "pnog"}, "is not a game; did you mean 'pong'?"),
        ({"network": "net9"}, "'net9' is not a network; did you mean 'net"),
        ({"network": "mlp", "hidden_sizes": (8,)}, "'mlp' sees vectors, and pong shows frames"),
        ({"network": "net2"}, "tensor 'head/output/kernel' has shape (64, 6), the network needs (128, 6)"),
        ({"layer_norm": True}, "tensor 'torso/norm1/bias' (16,) is missing"),
        ({"observation": {"kind": "atari", "shape": [84, 84, 1], "dtype": "uint8"}}, "sees uint8 [84, 84, 1], pong"),
        ({"observation": {"kind": "atari", "shape": [84, 84, 4], "dtype": "float32"}}, "pong shows uint8 [84, 84, 4]"),
        (
            {"observation": {"kind": "atari", "shape": [84, 84, 4], "dtype": "uint8", "frame_skip": 2}},
            "was trained with frame_skip 2; environments here have 4",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_its_game_or_its_network_is_refused(save, changes, complaint):
    path = save(**changes)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and complaint in message


@pytest.mark.parametrize(("factor", "is_read"), [(1e5, True), (1e37, False)])
def test_finite_weights_too_large_for_finite_values_are_refused(save, pong_params, factor, is_read):
    path = save(params=jax.tree.map(lambda leaf: leaf * np.float32(factor), pong_params))
    if is_read:
        assert np.isfinite(load(path)(FRAMES)).all()
    else:
        assert refusal(path) == (
            f"{path}: gives NaN or infinite values for random observations: its weights are of no use"
        )


def test_weights_of_another_number_of_actions_are_refused(save):
    params = params_for(make_network("net3", 4), (84, 84, 4), "uint8")
    assert "has shape (4,), the network needs (6,)" in refusal(save(params=params))
