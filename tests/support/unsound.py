"""Teachers whose outputs become infinite in the middle of a game."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pd_jax.actors.live import LivePlay
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.teachers import load
from pd_jax.teachers.files import read_teacher, save_teacher
from support.commands import write_teacher


def write_overflowing_teacher(path: Path, threshold: float) -> Path:
    """A CartPole teacher of finite weights whose outputs are infinite wherever the cart is right of ``threshold``."""
    params, metadata = read_teacher(write_teacher(path.with_suffix(".plain.safetensors"), "cartpole"))
    for layer in (params["torso"]["fc1"], params["head"]["output"]):
        for name in layer:
            layer[name] = np.zeros_like(layer[name])
    params["torso"]["fc1"]["kernel"][0, 0] = 1e30
    params["torso"]["fc1"]["bias"][0] = -1e30 * threshold
    params["head"]["output"]["kernel"][0] = 1e30
    save_teacher(path, params, metadata)
    return path


def steps_until_right_of(threshold: float) -> int:
    teacher, lanes = load("cartpole"), OneGameEnvConfig(num_lanes=4)
    play = LivePlay(teacher, teacher.task, lanes, rollout_length=16, epsilon=1.0, seed=3)
    positions = np.concatenate([np.asarray(rollout.observations)[..., 0] for rollout in play.rollouts(8)])
    play.close()
    return 4 * int(np.flatnonzero((positions > threshold).any(axis=1))[0])
