"""Agents of Sample Factory's Atari example: read where their layers are ours, refused where they normalise pixels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from support.sb3_models import randomise, real_observations, varied_observations


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
        self.conv_head = nn.Sequential(*(part for layer in convolutions for part in (layer, nn.ReLU())))
        self.mlp_layers = nn.Sequential(nn.Linear(3136, 512), nn.ReLU())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.mlp_layers(self.conv_head(frames).flatten(1))


def named(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class Actor(nn.Module):
    """Names as their modules have them: an encoder of the observation ``obs``, a layer of logits, a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = named(encoders=named(obs=named(enc=Encoder())))
        self.critic_linear = nn.Linear(512, 1)
        self.action_parameterization = named(distribution_linear=nn.Linear(512, 6))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        features = self.encoder.encoders.obs.enc(frames / 255.0)
        return self.action_parameterization.distribution_linear(features)


@functools.cache
def make() -> Actor:
    """Not to be changed; the dicts that it gives are new ones."""
    network = Actor()
    randomise(network)
    return network


def statistics(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(shape, dtype=torch.float64)
    return {"running_mean": zeros, "running_var": zeros + 1, "count": torch.ones(1, dtype=torch.float64)}


def checkpoint(network: nn.Module, **changes: Any) -> dict[str, Any]:
    model = network.state_dict()
    model |= {f"returns_normalizer.{name}": value for name, value in statistics((1,)).items()}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    about = {"train_step": 2442, "env_steps": 10_002_432, "best_performance": 19.5, "curr_lr": 1e-4}
    return about | {"model": model, "optimizer": optimizer} | changes


def saved(directory: Path, value: Any) -> Path:
    path = directory / "checkpoint_000002442_10002432.pth"
    torch.save(value, path)
    return path


def refusal(path: Path, game: str = "pong") -> str:
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=pytest.mark.slow, id="a thousand real frames")])
def test_an_agent_answers_as_its_actor(is_real, tmp_path):
    network = make()
    task = get_task("pong")
    seen = real_observations(task, 1000) if is_real else varied_observations(task, 16)
    with torch.no_grad():
        theirs = network(torch.from_numpy(np.ascontiguousarray(seen.transpose(0, 3, 1, 2))).float()).numpy()
    teacher = load(saved(tmp_path, checkpoint(network)), "pong")
    assert theirs.std(axis=0).min() > 1e-2
    np.testing.assert_allclose(teacher(seen), theirs, rtol=0, atol=1e-4)
    metadata = teacher.metadata
    assert (metadata.source_format, metadata.algorithm, metadata.output) == ("sample-factory", "appo", "logits")
    assert metadata.training_config == {"train_step": 2442, "env_steps": 10_002_432}
    assert metadata.env_steps is None, "it may count frames"
    assert metadata.named_protocol is None, "without a word it is played by classic, as it was trained"


def test_agents_that_normalise_pixels_are_refused_with_the_reason(tmp_path):
    value = checkpoint(make())
    prefix = "obs_normalizer.running_mean_std.running_mean_std.obs"
    value["model"] |= {f"{prefix}.{name}": array for name, array in statistics((4, 84, 84)).items()}
    assert refusal(saved(tmp_path, value)).startswith(
        "normalises each pixel by statistics of its own before its layers"
    )


@pytest.mark.parametrize(
    ("edit", "game", "complaint"),
    [
        (
            lambda m: m.pop("action_parameterization.distribution_linear.bias"),
            "pong",
            "tensor 'action_parameterization.",
        ),
        (lambda m: m.update({"core.rnn.weight": torch.ones(2)}), "pong", "tensor 'core.rnn.weight' does not belong to"),
        (
            lambda m: m.update({"encoder.encoders.obs.enc.conv_head.4.weight": torch.ones(128, 64, 3, 3)}),
            "pong",
            "tensor 'encoder.encoders.obs.enc.conv_head.4/kernel' has shape (3, 3, 64, 128), the network needs",
        ),
        (
            lambda m: m.update({"critic_linear.bias": torch.tensor([torch.nan])}),
            "pong",
            "tensor 'critic_linear.bias' h",
        ),
        (lambda m: None, "breakout", "has 6 actions, breakout has 4"),
        (lambda m: None, "cartpole", "its network sees frames, and cartpole shows vectors"),
        (lambda m: m.clear(), "pong", "is a file of PyTorch's without weights by name"),
    ],
)
def test_other_models_are_refused(edit, game, complaint, tmp_path):
    value = checkpoint(make())
    edit(value["model"])
    assert refusal(saved(tmp_path, value), game).startswith(complaint)
