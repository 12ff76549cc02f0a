"""Policies and networks as PyTorch saves them: they answer as the modules that were saved do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.importers import import_teacher
from support.sb3_models import make_model, outputs, random_observations, randomise, rewrite

FORMATS = pytest.mark.parametrize("is_new", [True, False], ids=["zip", "before 1.6"])
COUNT = 16


def assert_answers(path: Path, game: str, theirs: np.ndarray, observations: np.ndarray) -> Any:
    teacher = load(path, game)
    ours = np.asarray(teacher(observations))
    if teacher.gives_logits:
        ours, theirs = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (ours, theirs))
    assert theirs.std(axis=0).min() > 1e-2
    # Rounding errors are of the size of what is added up.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * max(1, np.abs(theirs).max()))
    return teacher.metadata


@pytest.mark.parametrize("algorithm", ["dqn", "qrdqn", "ppo"])
@pytest.mark.parametrize("game", ["pong", "cartpole"])
def test_a_policy_that_was_saved_alone_answers_as_it_did(algorithm, game, tmp_path):
    settings = {} if game == "pong" else {"policy_kwargs": {"net_arch": [16, 8], "activation_fn": nn.Tanh}}
    model = make_model(algorithm, game, **settings)
    observations = random_observations(get_task(game), COUNT)
    theirs = outputs(model, observations)
    model.policy.save(tmp_path / "x.pth")
    metadata = assert_answers(tmp_path / "x.pth", game, theirs, observations)
    assert metadata.source_format == "stable-baselines3" and metadata.output == (
        "logits" if algorithm == "ppo" else "q"
    )
    assert metadata.activation == ("relu" if game == "pong" else "tanh")


@FORMATS
def test_the_weights_of_a_policy_alone_are_those_of_one_with_its_default_activation(is_new, tmp_path, capfd):
    for algorithm, activation in (("dqn", "relu"), ("ppo", "tanh")):
        model = make_model(algorithm, "cartpole")
        torch.save(model.policy.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=is_new)
        observations = random_observations(get_task("cartpole"), COUNT)
        metadata = assert_answers(tmp_path / "w.pt", "cartpole", outputs(model, observations), observations)
        assert metadata.activation == activation
        assert "does not show whether its observations were normalised" in capfd.readouterr().err


def test_an_archive_of_before_pytorch_1_6_is_read(tmp_path):
    model = make_model("dqn", "cartpole")
    model.save(tmp_path / "new.zip")

    def older(data: bytes) -> bytes:
        buffer = io.BytesIO()
        state = torch.load(io.BytesIO(data), weights_only=True)
        torch.save(state, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()

    path = rewrite(tmp_path / "new.zip", tmp_path / "old.zip", policy=older)
    observations = random_observations(get_task("cartpole"), COUNT)
    assert_answers(path, "cartpole", outputs(model, observations), observations)


def nature() -> list[nn.Module]:
    """The hidden layers of the scripts' networks of frames."""
    convolutions = [nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()]
    return [*convolutions, nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()]


class QNetwork(nn.Module):
    """The networks of ``dqn``, ``dqn_atari``, ``c51`` and ``c51_atari``."""

    def __init__(self, game: str, atoms: int = 1, low: float = -10, high: float = 10) -> None:
        super().__init__()
        task = get_task(game)
        vector = [nn.Linear(task.observation_shape[0], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
        hidden, width = (nature(), 512) if task.kind == "atari" else (vector, 84)
        self.network = nn.Sequential(*hidden, nn.Linear(width, task.num_actions * atoms))
        if atoms > 1:
            self.register_buffer("atoms", torch.linspace(low, high, steps=atoms))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.network(x / 255.0 if x.ndim == 4 else x)
        if not hasattr(self, "atoms"):
            return x
        return (torch.softmax(x.view(len(x), -1, len(self.atoms)), dim=2) * self.atoms).sum(2)


class PPOAtari(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(*nature())
        self.actor, self.critic = nn.Linear(512, 6), nn.Linear(512, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.actor(self.network(x / 255.0))


class PPO(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
        self.critic = nn.Sequential(*layers, nn.Linear(64, 1))
        self.actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.actor(x)


def answers(network: nn.Module, observations: np.ndarray) -> np.ndarray:
    first = np.ascontiguousarray(observations.transpose(0, 3, 1, 2)) if observations.ndim == 4 else observations
    with torch.no_grad():
        return network(torch.from_numpy(first).float()).numpy()


def saved(network: nn.Module, path: Path, args: dict[str, Any] | None = None, is_new: bool = True) -> Path:
    value: Any = network.state_dict() if args is None else {"model_weights": network.state_dict(), "args": args}
    torch.save(value, path, _use_new_zipfile_serialization=is_new)
    return path


@FORMATS
@pytest.mark.parametrize(
    ("game", "make", "algorithm"),
    [
        ("pong", lambda: QNetwork("pong"), "dqn"),
        ("cartpole", lambda: QNetwork("cartpole"), "dqn"),
        ("pong", PPOAtari, "ppo"),
        ("cartpole", PPO, "ppo"),
        ("pong", lambda: QNetwork("pong", atoms=51), "c51"),
    ],
)
def test_models_of_cleanrls_pytorch_scripts_answer_as_they_do(game, make, algorithm, is_new, tmp_path):
    network = make()
    randomise(network)
    path = saved(network, tmp_path / "dqn_atari.cleanrl_model", is_new=is_new)
    observations = random_observations(get_task(game), COUNT)
    metadata = assert_answers(path, game, answers(network, observations), observations)
    assert (metadata.algorithm, metadata.source_format) == (algorithm, "cleanrl")
    assert metadata.activation == ("tanh" if make is PPO else "relu")


@pytest.mark.parametrize(("game", "atoms"), [("pong", 51), ("cartpole", 101)])
def test_c51_gives_the_mean_of_its_distribution(game, atoms, tmp_path):
    task = get_task(game)
    network = QNetwork(game, atoms, 0.0, 100.0)
    randomise(network)
    args = {"env_id": task.env_id, "n_atoms": atoms, "v_min": 0.0, "v_max": 100.0, "seed": 3, "total_timesteps": 500}
    path = saved(network, tmp_path / "c51.cleanrl_model", args)
    observations = random_observations(task, COUNT)
    theirs = answers(network, observations)
    teacher = load(path, game)
    np.testing.assert_allclose(teacher(observations), theirs, rtol=1e-5)
    assert (teacher.metadata.seed, teacher.metadata.env_steps, len(teacher.metadata.support)) == (3, 500, atoms)
    with pytest.raises(UserError, match="was trained on 'Acrobot-v1', not on"):
        load(saved(network, tmp_path / "c51.cleanrl_model", args | {"env_id": "Acrobot-v1"}), game)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0, self.conv1 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv1(torch.relu(self.conv0(torch.relu(x))))


class Block(nn.Module):
    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.res_block0, self.res_block1 = ResidualBlock(channels), ResidualBlock(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.max_pool2d(self.conv(x), kernel_size=3, stride=2, padding=1)
        return self.res_block1(self.res_block0(pooled))


class QDagger(nn.Module):
    """The students of ``qdagger_dqn_atari_impalacnn``."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Block(4, 16), Block(16, 32), Block(32, 32)]
        dense = [nn.Flatten(), nn.ReLU(), nn.Linear(3872, 256), nn.ReLU(), nn.Linear(256, 6)]
        self.network = nn.Sequential(*blocks, *dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x / 255.0)


@FORMATS
def test_a_student_of_qdagger_answers_as_it_does(is_new, tmp_path):
    network = QDagger()
    randomise(network)
    path = saved(network, tmp_path / "q.cleanrl_model", is_new=is_new)
    observations = random_observations(get_task("pong"), 16)
    metadata = assert_answers(path, "pong", answers(network, observations), observations)
    assert (metadata.network, metadata.algorithm, metadata.untrainable) == (
        "impala_torch",
        "qdagger",
        "residual blocks",
    )
    save_teacher(tmp_path / "t.safetensors", *import_teacher(path, "pong"))
    np.testing.assert_array_equal(load(tmp_path / "t.safetensors")(observations), load(path, "pong")(observations))


@pytest.mark.parametrize(
    ("change", "game", "complaint"),
    [
        (lambda state: state.pop("network.5.bias"), "pong", "layer 'fc1' is not made of a kernel and a bias: 'kernel'"),
        (lambda state: state.pop("network.1.conv.weight"), "pong", "layer 'block2/conv' is not made of a kernel and a"),
        (lambda state: state.update(x=torch.ones(1)), "pong", "layer 'x' does not belong to the network"),
        (
            lambda state: state.update({"network.2.conv.weight": torch.ones(32, 32, 5, 5)}),
            "pong",
            "tensor 'block3/conv/kernel' has shape (5, 5, 32, 32), the network needs (3, 3, 32, 32)",
        ),
        (lambda state: None, "breakout", "has 6 actions, breakout has 4"),
        (lambda state: None, "cartpole", "its network sees frames, and cartpole shows vectors"),
    ],
)
def test_residual_networks_of_another_make_are_refused(change, game, complaint, tmp_path):
    state = QDagger().state_dict()
    change(state)
    torch.save(state, tmp_path / "q.cleanrl_model")
    with pytest.raises(UserError) as refused:
        load(tmp_path / "q.cleanrl_model", game)
    assert str(refused.value).startswith(f"{tmp_path / 'q.cleanrl_model'}: {complaint}"), refused.value


@pytest.mark.parametrize(
    ("value", "game", "complaint"),
    [
        (nn.Linear(2, 2), "cartpole", "holds a whole Linear, which was not made; save its weights"),
        ([torch.ones(2)], "cartpole", "is a file of PyTorch's without weights by name"),
        ({}, "cartpole", "is a file of PyTorch's without weights by name"),
        ({"epoch": 3, "network.0.weight": torch.ones(2)}, "cartpole", "holds 'epoch', which is no tensor, beside"),
        ({"fc.weight": torch.ones(2, 4)}, "cartpole", "is a file of PyTorch's with 'fc.weight'; policies of Stable"),
        ({"network.0.weight": torch.ones(2, 4)}, "cartpole", "its layers are not those of a script of CleanRL's"),
        ({"network.0.weight": torch.full((2, 4), torch.nan)}, "cartpole", "tensor 'network.0.weight' holds NaN"),
        ({"actor.0.weight": torch.ones(2, 4)}, "cartpole", "its layers are not those of a script of CleanRL's"),
        (QNetwork("cartpole").state_dict(), "acrobot", "tensor 'Dense_0/kernel' has shape (4, 120), the network needs"),
        (QNetwork("cartpole").state_dict(), "pong", "its layers are not those of a script of CleanRL's for pong"),
        ({3: torch.ones(2)}, "cartpole", "holds a tensor without a proper name"),
        ({"model_weights": {"network.0.weight": torch.ones(2)}, "args": {}}, "cartpole", "its layers are not those"),
    ],
)
@FORMATS
def test_other_files_of_pytorch_are_refused_in_one_line(value, game, complaint, is_new, tmp_path):
    path = tmp_path / "x.pt"
    torch.save(value, path, _use_new_zipfile_serialization=is_new)
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: {complaint}"), message
    assert "\n" not in message and message.isprintable()


def test_without_a_game_it_is_said_what_is_missing(tmp_path):
    torch.save(QNetwork("cartpole").state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"is a file of PyTorch's, which does not say what it plays; add --game NAME"):
        load(tmp_path / "x.pt")
