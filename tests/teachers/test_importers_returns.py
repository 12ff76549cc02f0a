"""Agents of continuous actions that Stable-Baselines3 trained: their returns here are those that they have there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from pd_jax.evaluation.evaluator import evaluate
from pd_jax.teachers import load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.importers import import_teacher

GAME, EPISODES = "Pendulum-v1", 50


def trained(algorithm: str, directory: Path) -> tuple[Any, Path | str, Any]:
    """A model, its statistics or ``"none"``, and what it is to be scored on."""
    # On a busy machine several threads wait for one another: minutes become many.
    torch.set_num_threads(1)
    if algorithm == "ppo":
        env = VecNormalize(make_vec_env(GAME, 4, seed=0), gamma=0.9)
        settings = {"n_steps": 256, "batch_size": 64, "learning_rate": 1e-3, "gamma": 0.9, "use_sde": False}
        model = PPO("MlpPolicy", env, device="cpu", seed=0, **settings).learn(60_000)
        env.training, env.norm_reward = False, False
        seen = env.obs_rms
        numbers = {"mean": seen.mean, "variance": seen.var, "count": seen.count}
        np.savez(directory / "statistics.npz", **numbers, epsilon=env.epsilon, clip=env.clip_obs)
        return model, directory / "statistics.npz", env
    env = make_vec_env(GAME, 1, seed=0)
    options: dict[str, Any] = {"learning_rate": 1e-3, "learning_starts": 500, "policy_kwargs": {"net_arch": [64, 64]}}
    model = (SAC if algorithm == "sac" else TD3)("MlpPolicy", env, device="cpu", seed=0, **options).learn(6_000)
    return model, "none", env


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "sac", "td3"])
def test_an_imported_agent_earns_what_it_earns_in_its_library(algorithm: str, tmp_path: Path) -> None:
    model, statistics, env = trained(algorithm, tmp_path)
    theirs, _ = evaluate_policy(model, env, n_eval_episodes=EPISODES, return_episode_rewards=True)
    model.save(tmp_path / "model.zip")
    save_teacher(tmp_path / "teacher.safetensors", *import_teacher(tmp_path / "model.zip", GAME, statistics))
    ours = evaluate(load(tmp_path / "teacher.safetensors"), episodes=EPISODES, epsilon=0.0).returns
    error = np.hypot(np.std(theirs), np.std(ours)) / np.sqrt(EPISODES)
    print(f"{algorithm}: {np.mean(ours):.1f} here, {np.mean(theirs):.1f} there, standard error {error:.1f}")
    # Chance is at about -1200: the agents have learnt something that can be lost.
    assert np.mean(theirs) > -900
    assert abs(np.mean(ours) - np.mean(theirs)) < 3 * error
