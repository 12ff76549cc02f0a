"""What the tests of Stable-Baselines3 archives share: models of the real library, and archives made of theirs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TRPO, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO

from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task, get_task

FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
"""What VecFrameStack and VecTransposeImage make of Atari: channels first."""


class Still(gymnasium.Env):
    """An environment of given spaces in which nothing happens; models are built on it, not trained."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def vectors(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def make_env(game: str) -> Still:
    task = get_task(game)
    space = FRAMES if task.kind == "atari" else vectors(task.observation_shape[0])
    return Still(space, spaces.Discrete(task.num_actions))


def make_model(algorithm: str, game: str, env: gymnasium.Env | None = None, **kwargs: Any) -> Any:
    """A model of the library's with random weights and biases, so that every one of them matters."""
    policy = kwargs.pop("policy", "CnnPolicy" if get_task(game).kind == "atari" else "MlpPolicy")
    classes = {"dqn": DQN, "qrdqn": QRDQN, "ppo": PPO, "a2c": A2C, "trpo": TRPO, "maskable-ppo": MaskablePPO}
    if algorithm in ("dqn", "qrdqn"):
        kwargs.setdefault("buffer_size", 4)
    if algorithm in ("ppo", "trpo", "maskable-ppo"):
        kwargs = {"n_steps": 8, "batch_size": 8} | kwargs
    model = classes[algorithm](policy, env or make_env(game), device="cpu", **kwargs)
    randomise(model.policy)
    return model


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights that keep the size of what passes through them, and biases a tenth of it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)


def random_observations(task: Task, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if task.kind == "atari":
        return rng.integers(0, 256, (count, *task.observation_shape)).astype(np.uint8)
    return rng.standard_normal((count, *task.observation_shape)).astype(np.float32)


def varied_observations(task: Task, count: int) -> np.ndarray:
    """Random frames from dark to bright: what a network makes of them differs as it does over real ones."""
    brightness = np.linspace(0, 1, count)[:, None, None, None]
    return (random_observations(task, count) * brightness).astype(np.uint8)


def real_observations(task: Task, count: int) -> np.ndarray:
    """What random play shows in EnvPool."""
    rng, lanes = np.random.default_rng(2), 32
    environment = Environment(task, lanes, seed=5)
    _, timestep = environment.reset()
    seen = [np.asarray(timestep.observations)]
    is_last: Any = np.zeros(lanes, bool)
    while lanes * len(seen) < count:
        step = environment.step_host(rng.integers(0, task.num_actions, lanes), is_last)
        is_last = step.is_last
        seen.append(np.array(step.observations))
    return np.concatenate(seen)[:count]


def outputs(model: Any, observations: np.ndarray) -> np.ndarray:
    """The library's own Q-values, or log-probabilities, of observations as ours are."""
    policy = model.policy
    policy.set_training_mode(False)
    array = np.ascontiguousarray(observations.transpose(0, 3, 1, 2)) if observations.ndim == 4 else observations
    with torch.no_grad():
        tensor = torch.as_tensor(array)
        if hasattr(policy, "q_net"):
            return policy.q_net(tensor).numpy()
        if hasattr(policy, "quantile_net"):
            return policy.quantile_net(tensor).mean(dim=1).numpy()
        return policy.get_distribution(tensor).distribution.logits.numpy()


def rewrite(source: Path, target: Path, **changes: Callable[[bytes], bytes] | None) -> Path:
    """Copies an archive; of the members named, what the function makes of them, or nothing.

    ``data`` and ``policy`` stand for ``data`` and ``policy.pth``.
    """
    names = {"policy": "policy.pth"}
    edits = {names.get(name, name): change for name, change in changes.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if info.filename not in edits:
                new.writestr(info.filename, old.read(info))
            elif (edit := edits[info.filename]) is not None:
                new.writestr(info.filename, edit(old.read(info)))
    return target


def with_data(**changes: Any) -> Callable[[bytes], bytes]:
    """An edit of ``data``: fields set anew, or dropped where they are ``...``."""

    def edit(text: bytes) -> bytes:
        data = json.loads(text) | changes
        return json.dumps({name: value for name, value in data.items() if value is not ...}).encode()

    return edit


def with_tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """An edit of ``policy.pth``: ``change`` alters its dict in place, or returns what to save instead."""

    def edit(data: bytes) -> bytes:
        state = torch.load(io.BytesIO(data), weights_only=True)
        changed = change(state)
        buffer = io.BytesIO()
        torch.save(state if changed is None else changed, buffer)
        return buffer.getvalue()

    return edit
