"""CleanRL models: its scripts' networks, rebuilt here and saved as the scripts save them, answer as ours do."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.teachers.importers import import_teacher
from support.sb3_models import random_observations, real_observations

COUNT = 256


def nature(x: Any, hidden: int = 512) -> Any:
    """The common part of the scripts' Atari networks: frames ``[N, 4, 84, 84]``, channels first."""
    x = jnp.transpose(x, (0, 2, 3, 1)) / 255.0
    for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = nn.relu(nn.Conv(features, kernel_size=(size, size), strides=(stride, stride), padding="VALID")(x))
    return nn.relu(nn.Dense(hidden)(x.reshape((x.shape[0], -1))))


class DQNAtari(nn.Module):
    actions: int
    hidden: int = 512

    @nn.compact
    def __call__(self, x):
        x = nature(x, self.hidden)
        return nn.Dense(self.actions)(x)


class DQNVector(nn.Module):
    actions: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(120)(x))
        x = nn.relu(nn.Dense(84)(x))
        return nn.Dense(self.actions)(x)


class C51(nn.Module):
    actions: int
    atoms: int
    frames: bool

    @nn.compact
    def __call__(self, x):
        if self.frames:
            x = nature(x)
        else:
            x = nn.relu(nn.Dense(120)(x))
            x = nn.relu(nn.Dense(84)(x))
        x = nn.Dense(self.actions * self.atoms)(x).reshape((x.shape[0], self.actions, self.atoms))
        return nn.softmax(x, axis=-1)


class ResidualBlock(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        inner = nn.Conv(self.channels, kernel_size=(3, 3))(nn.relu(x))
        return x + nn.Conv(self.channels, kernel_size=(3, 3))(nn.relu(inner))


class ConvSequence(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.channels, kernel_size=(3, 3))(x)
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
        x = ResidualBlock(self.channels)(x)
        return ResidualBlock(self.channels)(x)


class QDagger(nn.Module):
    """The students of ``qdagger_dqn_atari_jax_impalacnn``."""

    @nn.compact
    def __call__(self, x):
        x = jnp.transpose(x, (0, 2, 3, 1)) / 255.0
        for channels in (16, 32, 32):
            x = ConvSequence(channels)(x)
        x = nn.relu(nn.Dense(256)(nn.relu(x).reshape((x.shape[0], -1))))
        return nn.Dense(6)(x)


class PPONetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nature(x)


class Output(nn.Module):
    """PPO's actor, and with one output its critic."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(x)


C51_ARGS = {
    "exp_name": "c51_atari_jax", "seed": 3, "track": False, "wandb_entity": None, "env_id": "PongNoFrameskip-v4",
    "total_timesteps": 10_000_000, "learning_rate": 2.5e-4, "n_atoms": 51, "v_min": -10, "v_max": 10, "gamma": 0.99,
}  # fmt: skip
PPO_ARGS = {
    "exp_name": "ppo_atari_envpool_xla_jax", "seed": 1, "env_id": "Pong-v5", "num_envs": 8, "anneal_lr": True,
    "target_kl": None, "total_timesteps": 10_000_000,
}  # fmt: skip


def as_scripts_see(observations: np.ndarray) -> np.ndarray:
    return observations.transpose(0, 3, 1, 2) if observations.ndim == 4 else observations


def random_params(network: nn.Module, example: Any, seed: int = 0, spread: float = 1.0) -> Any:
    """Weights that keep the size of what passes through them, and biases that matter."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        return jnp.asarray(spread * rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0), example))


def example_of(game: str) -> np.ndarray:
    task = get_task(game)
    return np.zeros((1, 4, 84, 84), np.uint8) if task.kind == "atari" else np.zeros((1, *task.observation_shape), "f4")


def in_parts(apply: Any, observations: np.ndarray) -> np.ndarray:
    apply = jax.jit(apply)
    return np.concatenate([np.asarray(apply(part)) for part in np.split(observations, 8)])


def assert_same_outputs(teacher: Any, theirs: np.ndarray, observations: np.ndarray) -> None:
    ours = in_parts(teacher, observations)
    assert len(observations) == 2 * COUNT and theirs.std(axis=0).min() > 1e-2 and theirs.std(axis=1).mean() > 1e-2
    assert np.abs(ours - theirs).max() <= 1e-4


def observations_of(game: str) -> np.ndarray:
    task = get_task(game)
    return np.concatenate([random_observations(task, COUNT), real_observations(task, COUNT)])


def write(path: Path, tree: Any) -> Path:
    path.write_bytes(flax.serialization.to_bytes(tree))
    return path


@pytest.mark.parametrize(("game", "make"), [("pong", DQNAtari), ("cartpole", DQNVector)])
def test_dqn_gives_the_scripts_q_values(game, make, tmp_path):
    network, observations = make(get_task(game).num_actions), observations_of(game)
    params = random_params(network, example_of(game))
    path = write(tmp_path / "dqn_jax.cleanrl_model", params)
    teacher = load(path, game)
    assert_same_outputs(
        teacher, in_parts(lambda x: network.apply(params, x), as_scripts_see(observations)), observations
    )
    metadata = teacher.metadata
    assert (metadata.algorithm, metadata.output, metadata.source_format) == ("dqn", "q", "cleanrl")
    assert metadata.hidden_sizes == (() if game == "pong" else (120, 84))
    assert teacher.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_student_of_qdagger_answers_as_it_does(tmp_path):
    network, observations = QDagger(), random_observations(get_task("pong"), 16)
    params = random_params(network, example_of("pong"))
    teacher = load(write(tmp_path / "q.cleanrl_model", params), "pong")
    theirs = np.asarray(jax.jit(network.apply)(params, as_scripts_see(observations)))
    assert theirs.std(axis=0).min() > 1e-2 and teacher.metadata.network == "impala_flax"
    np.testing.assert_allclose(teacher(observations), theirs, atol=1e-5)
    del params["params"]["ConvSequence_1"]["ResidualBlock_0"]["Conv_1"]
    assert refusal(write(tmp_path / "q.cleanrl_model", params), "pong").startswith(
        "layer 'block2/residual1_conv1' is miss"
    )


@pytest.mark.parametrize(("game", "low", "high", "atoms"), [("pong", -10, 10, 51), ("cartpole", 0.0, 100.0, 101)])
def test_c51_gives_the_mean_of_its_distribution(game, low, high, atoms, tmp_path):
    task, observations = get_task(game), observations_of(game)
    network = C51(task.num_actions, atoms, frames=task.kind == "atari")
    params = random_params(network, example_of(game), spread=1.2)
    args = C51_ARGS | {"env_id": task.env_id, "v_min": low, "v_max": high, "n_atoms": atoms}
    path = write(tmp_path / "c51.cleanrl_model", {"model_weights": params, "args": args})
    values = jnp.asarray(np.linspace(low, high, num=atoms))
    theirs = in_parts(lambda x: (network.apply(params, x) * values).sum(axis=-1), as_scripts_see(observations))
    teacher = load(path, game)
    assert_same_outputs(teacher, theirs, observations)
    metadata = teacher.metadata
    assert (metadata.algorithm, metadata.output, metadata.env_steps, metadata.seed) == ("c51", "q", 10_000_000, 3)
    assert len(metadata.support) == atoms and metadata.support[-1] == high
    save_teacher(tmp_path / "c51.safetensors", *import_teacher(str(path), game))
    np.testing.assert_array_equal(load(tmp_path / "c51.safetensors")(observations[:9]), teacher(observations[:9]))


@pytest.fixture(scope="module")
def ppo() -> tuple[Any, Any, Any]:
    network, actor = PPONetwork(), Output(6)
    features = np.zeros((1, 512), np.float32)
    params = [random_params(network, example_of("pong")), random_params(actor, features, 1)]
    return network, actor, [*params, random_params(Output(1), features, 2)]


def test_ppo_gives_the_actors_logits(ppo, tmp_path):
    network, actor, params = ppo
    observations = observations_of("pong")
    path = write(tmp_path / "ppo.cleanrl_model", [PPO_ARGS, params])
    theirs = in_parts(lambda x: actor.apply(params[1], network.apply(params[0], x)), as_scripts_see(observations))
    teacher = load(path, "pong")
    assert_same_outputs(teacher, theirs, observations)
    assert teacher.gives_logits and teacher.metadata.algorithm == "ppo"
    assert teacher.metadata.training_config["num_envs"] == 8


def test_half_precision_weights_are_read(tmp_path):
    params = random_params(DQNVector(2), example_of("cartpole"))
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    path = write(tmp_path / "half.cleanrl_model", halves)
    observations = random_observations(get_task("cartpole"), 8)
    wanted = DQNVector(2).apply(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), halves), observations)
    np.testing.assert_allclose(load(path, "cartpole")(observations), wanted, atol=1e-5)


def refusal(path: Any, game: str | None) -> str:
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    return message.removeprefix(f"{path}: ")


@pytest.fixture(scope="module")
def vector_params() -> Any:
    return jax.tree.map(np.asarray, random_params(DQNVector(2), example_of("cartpole")))


@pytest.fixture(scope="module")
def c51_params() -> Any:
    network = C51(2, 51, frames=False)
    return jax.tree.map(np.asarray, random_params(network, example_of("cartpole")))


def test_what_does_not_fit_the_game_is_refused(vector_params, ppo, tmp_path):
    path = write(tmp_path / "m.cleanrl_model", vector_params)
    assert refusal(path, None) == "is a model of CleanRL, which does not say what it plays; add --game NAME"
    assert refusal(path, "acrobot") == "tensor 'Dense_0/kernel' has shape (4, 120), the network needs (6, any)"
    assert refusal(path, "pong").startswith("layer 'Conv_0' is missing; the network holds 'Dense_0', 'Dense_1'")
    write(path, [PPO_ARGS, ppo[2]])
    assert refusal(path, "breakout") == "was trained on 'Pong-v5', not on breakout"
    write(path, [PPO_ARGS | {"env_id": "Breakout-v5"}, ppo[2]])
    assert refusal(path, "breakout") == "has 6 actions, breakout has 4"
    write(path, [PPO_ARGS | {"env_id": None}, ppo[2]])
    assert refusal(path, "cartpole").startswith("layer 'Dense_2' is missing; the network holds 'Conv_0'")
    small = DQNAtari(6, hidden=128)
    write(path, random_params(small, example_of("pong")))
    assert refusal(path, "pong") == "tensor 'Dense_0/kernel' has shape (3136, 128), the network needs (3136, 512)"


def test_the_same_game_by_its_other_names_is_accepted(tmp_path, c51_params):
    for env_id in ("CartPole-v1", "CartPole-v0"):
        tree = {"model_weights": c51_params, "args": C51_ARGS | {"env_id": env_id}}
        assert load(write(tmp_path / "m.cleanrl_model", tree), "cartpole").metadata.support[0] == -10.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_atoms": 50}, "has 102 outputs, which are no number of actions with 50 atoms each"),
        ({"n_atoms": 34}, "has 3 actions, cartpole has 2"),
        ({"n_atoms": 1}, "args: n_atoms is '1', not a whole number from 2 to 1024"),
        ({"n_atoms": "51"}, "args: n_atoms is '51'"),
        ({"n_atoms": 2**40}, "args: n_atoms is '1099511627776'"),
        ({"v_min": 10}, "args: v_min and v_max are no range of values"),
        ({"v_max": float("nan")}, "args: v_min and v_max are no range of values"),
        ({"v_max": None}, "args: v_min and v_max are no range of values"),
    ],
)
def test_impossible_supports_are_refused(changes, complaint, c51_params, tmp_path):
    tree = {"model_weights": c51_params, "args": C51_ARGS | {"env_id": "CartPole-v1"} | changes}
    assert refusal(write(tmp_path / "m.cleanrl_model", tree), "cartpole").startswith(complaint)


def changed(params: Any, layer: str, **parts: Any) -> Any:
    """The tree with parts of a layer replaced, or dropped where they are ``...``."""
    layers = dict(params["params"])
    layers[layer] = {name: part for name, part in {**layers.get(layer, {}), **parts}.items() if part is not ...}
    return {"params": layers}


@pytest.mark.parametrize(
    ("layer", "parts", "complaint"),
    [
        ("Dense_1", {"kernel": ...}, "layer 'Dense_1' is not made of a kernel and a bias: 'bias'"),
        ("Dense_1", {"scale": np.ones(3)}, "layer 'Dense_1' is not made of a kernel and a bias: 'bias', 'kernel', 'sc"),
        ("Dense_1", {"bias": "x"}, "layer 'Dense_1' is not made of a kernel and a bias"),
        ("Dense_1", {"kernel": np.ones((120, 84, 1))}, "tensor 'Dense_1/kernel' has shape (120, 84, 1), the network"),
        ("Dense_1", {"kernel": np.float32(1)}, "layer 'Dense_1' is not made of a kernel and a bias"),
        ("Dense_1", {"kernel": np.ones(())}, "tensor 'Dense_1/kernel' has shape (), the network needs (120, any)"),
        ("Dense_1", {"kernel": np.ones((120, 0)), "bias": np.ones(0)}, "tensor 'Dense_1/kernel' has shape (120, 0)"),
        ("Dense_1", {"bias": np.ones(85)}, "tensor 'Dense_1/bias' has shape (85,), the network needs (84,)"),
        ("Dense_0", {"bias": np.full(120, np.nan)}, "tensor 'Dense_0/bias' holds NaN or infinite weights"),
        ("Dense_0", {"bias": np.full(120, 1e300)}, "tensor 'Dense_0/bias' holds NaN or infinite weights"),
        ("Dense_9", {"kernel": np.ones((2, 2)), "bias": np.ones(2)}, "layer 'Dense_3' is missing; the network holds"),
        ("LSTM_0", {"kernel": np.ones((2, 2))}, "layer 'Dense_3' is missing; the network holds 'Dense_0', 'Dense_1'"),
    ],
)
def test_layers_of_another_make_are_refused(layer, parts, complaint, vector_params, tmp_path):
    path = write(tmp_path / "m.cleanrl_model", changed(vector_params, layer, **parts))
    assert refusal(path, "cartpole").startswith(complaint)


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({}, "not a model of CleanRL: its tree has the branches none"),
        ({"params": {}}, "layer 'Dense_0' is missing; the network holds none"),
        ({"params": np.ones(3)}, "not a model of CleanRL: its params is no object"),
        ({"params": {"Dense_0": 3}}, "not a model of CleanRL: its layer 'Dense_0' is no object"),
        ({"model_weights": None, "args": {}}, "not a model of CleanRL: its network is no object"),
        (
            {"actor_params": {}, "qf1_params": {}},
            "not a model of CleanRL: its tree has the branches 'actor_params', 'qf",
        ),
        ([{}, [{"params": {}}]], "not a model of CleanRL's PPO: it holds no network and no actor"),
        ([{}, [{"params": {}}, {"params": {}}]], "not a model of CleanRL's PPO: its actor is not one layer"),
        ([1, 2], "not a model of CleanRL: its [1] is no object"),
    ],
)
def test_trees_of_other_programs_are_refused(tree, complaint, tmp_path):
    assert refusal(write(tmp_path / "m.cleanrl_model", tree), "cartpole").startswith(complaint)


def array_bytes(shape: Any, dtype: Any, numbers: Any) -> msgpack.ExtType:
    """An array as Flax packs it, by the format's own definition."""
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, numbers), use_bin_type=True))


def nested(depth: int) -> bytes:
    return b"\x81\xa1a" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a model of Flax, or a damaged one"),
        (b"\xc1", "not a model of Flax, or a damaged one"),
        (b"PK\x03\x04", "not a zip archive, or a damaged one"),
        (msgpack.packb(3), "not a model of Flax: it holds no tree of parameters"),
        (msgpack.packb([1, 2]), "not a model of Flax, or a damaged one"),
        (msgpack.packb({1: 2}), "not a model of Flax, or a damaged one"),
        (msgpack.packb({b"params": 2}), "holds a name twice, or one that is no text"),
        (b"\x82\xa1a\xc0\xa1a\xc0", "holds a name twice, or one that is no text"),
        (b"\xdf\xff\xff\xff\xff", "not a model of Flax, or a damaged one (4294967295 exceeds max_map_len"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not a model of Flax, or a damaged one (4294967295 exceeds max_array_len"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "not a model of Flax, or a damaged one"),
        (nested(100_000), "not a model of Flax, or a damaged one"),
        (
            msgpack.packb({"a": {str(i): {str(j): {} for j in range(60)} for i in range(60)}}),
            "holds more than 2000 dicts",
        ),
        (msgpack.packb({"a": msgpack.ExtType(2, b"\x92\x00\x00")}), "holds a value of the unknown type 2"),
        (msgpack.packb({"a": msgpack.ExtType(1, b"\xc0")}), "holds an array without shape, type and numbers"),
        (
            msgpack.packb({"a": array_bytes([2], "float32", b"1234")}),
            "announces an array of shape [2] and holds 4 bytes",
        ),
        (msgpack.packb({"a": array_bytes([2**40, 2**40], "float32", b"")}), "announces an array of shape [109951162"),
        (msgpack.packb({"a": array_bytes([-1], "float32", b"1234")}), "holds an array of an impossible shape"),
        (msgpack.packb({"a": array_bytes([True], "float32", b"1234")}), "holds an array of an impossible shape"),
        (msgpack.packb({"a": array_bytes(1, "float32", b"1234")}), "holds an array of an impossible shape"),
        (msgpack.packb({"a": array_bytes([1] * 9, "float32", b"1234")}), "not a model of Flax, or a damaged one"),
        (msgpack.packb({"a": array_bytes([1], "object", b"12345678")}), "holds an array of the type 'object', which"),
        (
            msgpack.packb({"a": array_bytes([1], "V8", b"12345678")}),
            "holds an array of the type 'V8', which is no num",
        ),
        (
            msgpack.packb({"a": array_bytes([1], "float32", 1234)}),
            "holds an array of the type 'float32', which is no",
        ),
    ],
)
def test_bytes_made_to_hurt_are_refused(data, complaint, tmp_path):
    path = tmp_path / "m.cleanrl_model"
    path.write_bytes(data)
    message = refusal(path, "cartpole")
    assert message.startswith(complaint), message


def test_a_file_larger_than_any_model_is_not_read(tmp_path):
    path = tmp_path / "m.cleanrl_model"
    with open(path, "wb") as file:
        file.write(struct.pack("B", 0x81))
        file.truncate(2**40)
    assert refusal(path, "cartpole") == f"has {2**40:,} bytes, more than any model of CleanRL"
    assert refusal(tmp_path / "absent.cleanrl_model", "cartpole") == "no such file"


def test_every_truncation_and_flipped_byte_is_refused_or_read(vector_params, tmp_path):
    whole, path = flax.serialization.to_bytes(vector_params), tmp_path / "m.cleanrl_model"
    rng = np.random.default_rng(0)
    for length in range(0, len(whole), 997):
        path.write_bytes(whole[:length])
        refusal(path, "cartpole")
    for _ in range(100):
        data = bytearray(whole)
        data[rng.integers(0, 200 if rng.random() < 0.5 else len(data))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
        try:
            load(path, "cartpole")
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_what_is_written_is_the_teacher_and_nothing_else(vector_params, tmp_path):
    path = write(tmp_path / "m.cleanrl_model", vector_params)
    params, metadata = import_teacher(str(path), "cartpole")
    assert os.listdir(tmp_path) == [path.name]
    save_teacher(tmp_path / "t.safetensors", params, metadata)
    assert read_teacher(tmp_path / "t.safetensors")[1] == metadata
