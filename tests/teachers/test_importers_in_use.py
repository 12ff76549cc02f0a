"""Imported agents in use: the commands take them directly, and they score what their own library says they do."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import envpool
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.teachers import load
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.teachers.formats import is_foreign
from pd_jax.teachers.importers import import_teacher
from support import commands
from support.sb3_models import FRAMES, make_model, outputs, real_observations


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An agent that Stable-Baselines3 trained for seconds, and its archive: far from random, far from perfect."""
    path = tmp_path_factory.mktemp("trained") / "ppo-CartPole-v1.zip"
    torch.set_num_threads(1)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=512, learning_rate=1e-3, seed=1, device="cpu")
    model.learn(6_000)
    model.save(path)
    return model, path


def sb3_scores(model: Any, env: Any, episodes: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That no Monitor is around the environment.
        returns, _ = evaluate_policy(model, env, episodes, deterministic=True, return_episode_rewards=True)
    return np.array(returns)


def assert_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within three standard errors of the difference, which have to be those of noise."""
    error = np.hypot(ours.std(ddof=1) / np.sqrt(len(ours)), theirs.std(ddof=1) / np.sqrt(len(theirs)))
    assert error > 0
    assert abs(ours.mean() - theirs.mean()) <= 3 * error, (ours.mean(), theirs.mean(), error)


@pytest.mark.slow
def test_cartpole_is_scored_as_by_the_library(trained):
    model, path = trained
    theirs = sb3_scores(model, DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 4), 100)
    teacher = load(path, "cartpole")
    ours = evaluate(
        teacher.network.apply, teacher.variables, teacher.task, episodes=100, num_lanes=20, epsilon=0.0
    ).returns
    assert min(ours.mean(), theirs.mean()) > 60
    assert_agree(ours, theirs)


class OneLane(gymnasium.Env):
    """One lane of EnvPool, in the form in which Stable-Baselines3 plays: frames with channels first."""

    def __init__(self, game: str, seed: int, max_episode_steps: int) -> None:
        task = get_task(game)
        self.observation_space = FRAMES
        self.action_space = spaces.Discrete(task.num_actions)
        self.pool = envpool.make(
            task.env_id, env_type="gymnasium", num_envs=1, seed=seed, max_episode_steps=max_episode_steps
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.pool.reset()[0][0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, truncated, _ = self.pool.step(np.array([action], np.int32))
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}


def freeway_model() -> Any:
    """A policy that walks up, and hesitates by what it sees: its score hangs on every frame and every weight."""
    torch.set_num_threads(1)
    model = make_model("dqn", "freeway")
    q_values = outputs(model, real_observations(get_task("freeway"), 512))
    with torch.no_grad():
        bias = model.policy.q_net.q_net[0].bias
        bias -= torch.from_numpy(q_values.mean(axis=0))
        bias[1] += 1.6 * float(q_values.std(axis=0).mean())
    return model


@pytest.mark.slow
def test_freeway_is_scored_as_by_the_library(tmp_path):
    model, steps = freeway_model(), 500
    model.save(tmp_path / "dqn.zip")
    lanes = [lambda lane=lane: OneLane("freeway", 100 + lane, steps) for lane in range(6)]
    theirs = sb3_scores(model, DummyVecEnv(lanes), 24)
    teacher = load(tmp_path / "dqn.zip", "freeway")
    ours = evaluate(
        teacher.network.apply,
        teacher.variables,
        teacher.task,
        episodes=24,
        num_lanes=6,
        epsilon=0.0,
        environment_options={"max_episode_steps": steps},
    ).returns
    assert min(ours.mean(), theirs.mean()) > 1
    assert_agree(ours, theirs)


QUICK = commands.QUICK_EVALUATION | {
    "game": "cartpole",
    "student.network": "mlp",
    "schedule.rounds": 1,
    "schedule.steps-per-round": 1024,
    "schedule.updates-per-round": 50,
}


def test_an_archive_is_distilled_recorded_and_evaluated_directly(trained, tmp_path, capfd):
    _, path = trained
    commands.succeed("distill", QUICK | {"teacher": path, "out": tmp_path / "run"})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["teacher"] == "cartpole-stable-baselines3-ppo" and summary["teacher_network"] == "mlp"
    commands.succeed("distill", QUICK | {"teacher": path, "out": tmp_path / "run", "resume": True})
    commands.succeed("collect", {"teacher": path, "game": "cartpole", "out": tmp_path / "data", "steps": 1024})
    commands.succeed("distill", QUICK | {"teacher": path, "data": tmp_path / "data", "out": tmp_path / "recorded"})
    # The run knows its game.
    commands.succeed("evaluate", commands.QUICK_EVALUATION | {"teacher": path, "run": tmp_path / "run"})
    assert "cartpole" in capfd.readouterr().out


def test_a_converted_archive_is_the_same_teacher_to_the_commands(trained, tmp_path):
    params, metadata = import_teacher(str(trained[1]), "cartpole")
    save_teacher(tmp_path / "teacher.safetensors", params, metadata)
    assert import_teacher(str(tmp_path / "teacher.safetensors"), None)[1] == metadata
    quick = {name: value for name, value in QUICK.items() if name != "game"}
    commands.succeed("distill", quick | {"teacher": tmp_path / "teacher.safetensors", "out": tmp_path / "run"})
    with pytest.raises(UserError, match="plays cartpole, not pong"):
        import_teacher(str(tmp_path / "teacher.safetensors"), "pong")


def test_an_archive_without_a_game_or_of_another_is_refused_and_nothing_written(trained, tmp_path, capfd):
    _, path = trained
    for command in ("distill", "collect", "evaluate"):
        options = ["--teacher", str(path), "--out", str(tmp_path / "out")]
        message = commands.refusal(capfd, command, *options)
        archive = "is an archive of Stable-Baselines3, which does not say what it plays; add --game NAME"
        assert message == f"pd-jax {command}: {path}: {archive}"
        mlp = ["--student.network", "mlp"] if command == "distill" else []
        message = commands.refusal(capfd, command, *options, "--game", "acrobot", *mlp)
        assert message.endswith("sees observations of shape [4]; acrobot shows vectors of 6, [6]")
    assert not (tmp_path / "out").exists()


def test_training_goes_on_from_an_archive_that_fits(tmp_path, capfd):
    make_model("dqn", "cartpole", policy_kwargs={"net_arch": [16]}).save(tmp_path / "dqn.zip")
    options = {
        "game": "cartpole", "out": tmp_path / "run", "network": "mlp", "mlp-hidden": 16, "no-layer-norm": True,
        "init-from": tmp_path / "dqn.zip", "pqn.total-steps": 2048, "pqn.num-lanes": 16, "pqn.rollout-length": 32,
        "pqn.minibatches": 4, "evaluation.episodes": 2, "evaluation.progress-episodes": 2,
    }  # fmt: skip
    commands.succeed("train-teacher", options)
    assert read_teacher(tmp_path / "run" / "teacher.safetensors")[1].hidden_sizes == (16,)
    make_model("dqn", "cartpole", policy_kwargs={"net_arch": [16], "activation_fn": torch.nn.Tanh}).save(
        tmp_path / "tanh.zip"
    )
    values = options | {"init-from": tmp_path / "tanh.zip", "out": tmp_path / "other"}
    capfd.readouterr()
    assert main(["train-teacher", *commands.options(values)]) == 2
    # Before it stands the warning that statistics of its observations do not show.
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.endswith("tanh.zip has tanh units; pqn trains plain networks with relu")
    assert not (tmp_path / "other").exists()


def test_formats_are_told_apart_by_their_names():
    assert [is_foreign(name) for name in ("a.zip", "d/b.cleanrl_model", "hf://a/b/c.safetensors")] == [True] * 3
    assert [is_foreign(name) for name in ("pong", "a.safetensors", "zip", "a.zip/b")] == [False] * 4
