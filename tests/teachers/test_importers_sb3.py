"""Stable-Baselines3 archives: what the real library saved and answers, ours answers too."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from gymnasium import spaces

from pd_jax.environments.tasks import get_task
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.files import params_fingerprint, save_teacher
from pd_jax.teachers.importers import import_teacher
from support import sb3_models
from support.sb3_models import make_model, outputs, random_observations, real_observations, rewrite, with_data

COUNT = 256


@pytest.fixture(scope="module")
def observations() -> dict[str, np.ndarray]:
    """By game: as many random as real observations."""
    tasks = [get_task(name) for name in ("pong", "cartpole", "acrobot")]
    return {
        task.name: np.concatenate([random_observations(task, COUNT), real_observations(task, COUNT)]) for task in tasks
    }


def saved(model: Any, path: Path) -> Path:
    model.save(path)
    return path


def assert_same_outputs(teacher: Teacher, model: Any, observations: np.ndarray) -> None:
    assert len(observations) == 2 * COUNT
    assert_close(teacher, model, observations, parts=8)


def assert_close(teacher: Teacher, model: Any, observations: np.ndarray, parts: int = 1) -> None:
    ours = np.concatenate([np.asarray(teacher(part)) for part in np.split(observations, parts)])
    if teacher.gives_logits:
        ours = np.asarray(jax.nn.log_softmax(ours))
    theirs = np.concatenate([outputs(model, part) for part in np.split(observations, parts)])
    # The agents differ between actions and observations, so that agreement means something.
    assert theirs.std(axis=0).min() > 1e-2 and theirs.std(axis=1).mean() > 1e-2
    # Rounding errors are of the size of what is added up.
    assert np.abs(ours - theirs).max() <= 2e-6 * max(1, np.abs(theirs).max())


@pytest.mark.parametrize(
    ("algorithm", "game"),
    [
        *((algorithm, game) for algorithm in ("dqn", "qrdqn", "ppo", "a2c") for game in ("pong", "cartpole")),
        ("trpo", "cartpole"),
        ("maskable-ppo", "cartpole"),
    ],
)
def test_an_imported_agent_answers_as_the_library_does(algorithm, game, observations, tmp_path):
    model = make_model(algorithm, game)
    path = saved(model, tmp_path / "model.zip")
    teacher = load(path, game)
    assert_same_outputs(teacher, model, observations[game])
    metadata = teacher.metadata
    assert metadata.output == ("q" if algorithm in ("dqn", "qrdqn") else "logits")
    assert teacher.gives_logits == (metadata.output == "logits")
    assert (metadata.algorithm, metadata.source_format) == (algorithm, "stable-baselines3")
    assert teacher.sha256 == metadata.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata.activation == ("tanh" if game == "cartpole" and metadata.output == "logits" else "relu")
    assert metadata.hidden_sizes == (() if game == "pong" else (64, 64))


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "hidden_sizes"),
    [
        ("dqn", {"net_arch": [256, 8, 16]}, (256, 8, 16)),
        ("dqn", {"net_arch": [], "activation_fn": torch.nn.Tanh}, ()),
        ("dqn", {"activation_fn": torch.nn.Tanh}, (64, 64)),
        ("qrdqn", {"n_quantiles": 7, "net_arch": [5]}, (5,)),
        ("ppo", {"net_arch": {"pi": [32], "vf": [16, 16]}, "activation_fn": torch.nn.ReLU}, (32,)),
        ("ppo", {"net_arch": [], "ortho_init": False}, ()),
        ("a2c", {"net_arch": {"pi": [4, 4, 4, 4], "vf": []}, "share_features_extractor": False}, (4, 4, 4, 4)),
        ("dqn", {"activation_fn": torch.nn.ELU}, (64, 64)),
        ("qrdqn", {"activation_fn": torch.nn.LeakyReLU, "net_arch": [32, 32]}, (32, 32)),
        ("ppo", {"activation_fn": torch.nn.SiLU}, (64, 64)),
        ("trpo", {"activation_fn": torch.nn.GELU}, (64, 64)),
        ("maskable-ppo", {"activation_fn": torch.nn.ELU, "net_arch": [16]}, (16,)),
        ("dqn", {"activation_fn": torch.nn.Mish, "net_arch": []}, ()),
    ],
)
def test_any_depth_and_activation_is_read(algorithm, policy_kwargs, hidden_sizes, observations, tmp_path):
    model = make_model(algorithm, "acrobot", policy_kwargs=policy_kwargs)
    teacher = load(saved(model, tmp_path / "model.zip"), "acrobot")
    assert teacher.metadata.hidden_sizes == hidden_sizes
    assert_same_outputs(teacher, model, observations["acrobot"])


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "features", "head_sizes", "activation"),
    [
        ("dqn", {"features_extractor_kwargs": {"features_dim": 128}}, 128, (), "relu"),
        ("dqn", {"net_arch": [32, 16]}, None, (32, 16), "relu"),
        ("qrdqn", {"net_arch": [32], "n_quantiles": 5, "activation_fn": torch.nn.GELU}, None, (32,), "gelu"),
        ("dqn", {"activation_fn": torch.nn.Sigmoid}, None, (), "relu"),
        ("ppo", {"net_arch": {"pi": [24], "vf": [8, 8]}}, None, (24,), "tanh"),
        (
            "a2c",
            {
                "net_arch": [16, 16],
                "activation_fn": torch.nn.LeakyReLU,
                "share_features_extractor": False,
                "features_extractor_kwargs": {"features_dim": 64},
            },
            64,
            (16, 16),
            "leaky_relu",
        ),
        ("trpo", {}, None, (), "relu"),
        ("maskable-ppo", {}, None, (), "relu"),
    ],
)
def test_layers_after_the_convolutions_are_read(
    algorithm, policy_kwargs, features, head_sizes, activation, observations, tmp_path
):
    model = make_model(algorithm, "pong", policy_kwargs=policy_kwargs)
    path = saved(model, tmp_path / "model.zip")
    teacher = load(path, "pong")
    frames = observations["pong"][:: 2 * COUNT // 32]
    assert_close(teacher, model, frames)
    metadata = teacher.metadata
    assert (metadata.hidden, metadata.head_sizes, metadata.activation) == (features, head_sizes, activation)
    save_teacher(tmp_path / "t.safetensors", *import_teacher(path, "pong"))
    converted = load(tmp_path / "t.safetensors")
    assert converted.metadata.format_version == (5 if metadata.untrainable else 2)
    assert converted.network == teacher.network
    assert params_fingerprint(converted.variables) == params_fingerprint(teacher.variables)


def test_actor_and_critic_with_extractors_of_their_own_give_the_actors(observations, tmp_path):
    model = make_model("ppo", "pong", policy_kwargs={"share_features_extractor": False})
    assert_same_outputs(load(saved(model, tmp_path / "model.zip"), "pong"), model, observations["pong"])


def test_layers_that_old_versions_shared_between_actor_and_critic_are_read(tmp_path, observations):
    # Stable-Baselines3 before 1.8, net_arch=[16, {"pi": [8], "vf": [8]}]: no version that is installed makes these.
    task = get_task("cartpole")
    source = saved(make_model("ppo", "cartpole"), tmp_path / "new.zip")
    sizes = {"mlp_extractor.shared_net.0": (16, 4), "mlp_extractor.policy_net.0": (8, 16), "action_net": (2, 8)}
    sizes |= {"mlp_extractor.value_net.0": (8, 16), "value_net": (1, 8)}
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (out, into) in sizes.items():
        tensors[f"{name}.weight"] = torch.from_numpy(rng.standard_normal((out, into)).astype("f4"))
        tensors[f"{name}.bias"] = torch.from_numpy(rng.standard_normal(out).astype("f4"))
    edit = sb3_models.with_tensors(lambda state: tensors)
    teacher = load(rewrite(source, tmp_path / "old.zip", policy=edit), "cartpole")
    x = torch.from_numpy(observations["cartpole"])
    for name in ("mlp_extractor.shared_net.0", "mlp_extractor.policy_net.0", "action_net"):
        x = x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
        x = torch.tanh(x) if name != "action_net" else x
    assert teacher.metadata.hidden_sizes == (16, 8) and teacher.task == task
    np.testing.assert_allclose(teacher(observations["cartpole"]), x.numpy(), atol=1e-4)


def test_an_archive_of_a_trained_model_tells_how_it_was_trained(tmp_path):
    model = make_model("dqn", "cartpole", learning_starts=4, seed=11, gamma=0.97, buffer_size=50)
    model.learn(32)
    teacher = load(saved(model, tmp_path / "model.zip"), "CartPole-v1")
    metadata = teacher.metadata
    assert (metadata.env_steps, metadata.seed, metadata.game) == (32, 11, "cartpole")
    assert metadata.training_config["gamma"] == 0.97
    assert "model.zip" in metadata.how_made and metadata.evaluation == {}


def test_an_archive_of_the_gym_of_old_is_read(tmp_path):
    # Before gymnasium, spaces were gym's, and RL-Zoo's archives have integers for numbers of actions.
    source = saved(make_model("dqn", "pong"), tmp_path / "model.zip")
    with zipfile.ZipFile(source) as archive:
        data = json.loads(archive.read("data"))
    box = {name: value for name, value in data["observation_space"].items() if name != "_shape"}
    edit = with_data(
        observation_space=box | {":type:": "<class 'gym.spaces.box.Box'>", "shape": [4, 84, 84]},
        action_space={":type:": "<class 'gym.spaces.discrete.Discrete'>", ":serialized:": "gAN=", "n": 6},
    )
    old = rewrite(source, tmp_path / "old.zip", data=edit)
    frames = random_observations(get_task("pong"), 4)
    np.testing.assert_array_equal(load(old, "pong")(frames), load(source, "pong")(frames))


@pytest.mark.parametrize("algorithm", ["qrdqn", "ppo"])
def test_what_was_converted_once_is_the_same_teacher(algorithm, tmp_path, observations):
    path = saved(make_model(algorithm, "cartpole"), tmp_path / "model.zip")
    params, metadata = import_teacher(str(path), "cartpole")
    save_teacher(tmp_path / "teacher.safetensors", params, metadata)
    converted, direct = load(tmp_path / "teacher.safetensors"), load(path, "cartpole")
    np.testing.assert_array_equal(converted(observations["cartpole"]), direct(observations["cartpole"]))
    assert converted.metadata == direct.metadata
    assert converted.sha256 != direct.sha256 == converted.metadata.source_sha256


def test_an_archive_that_was_packed_again_with_compression_is_read(tmp_path):
    source = saved(make_model("a2c", "pong"), tmp_path / "model.zip")
    target = tmp_path / "deflated.zip"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    frames = random_observations(get_task("pong"), 4)
    np.testing.assert_array_equal(load(target, "pong")(frames), load(source, "pong")(frames))


def test_the_spaces_of_the_tests_are_the_tasks_own():
    assert sb3_models.make_env("pong").action_space == spaces.Discrete(6)
    assert sb3_models.make_env("acrobot").observation_space.shape == (6,)
