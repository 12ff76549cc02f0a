"""CartPole played by networks that were made by hand: right, wrong in one region, or with a raised bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.environments.tasks import get_task
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.metadata import TeacherMetadata

GATE = 0.35
"""Right of it, the wrong teacher pushes right, always."""
TARGET = 0.9
"""Where the cart is steered to, so that every game comes by the gate."""
UNITS = 3
_GOOD = 100.0
"""What balancing for ever is worth at a discount of 0.99."""


def cartpole_params(*, is_wrong: bool = False, scale: float = 1.0, raised: float = 0.0) -> Any:
    """An mlp with one hidden layer that steers by ``x - TARGET + 2 v + 20 a + 10 w``, whose sign is the push.

    Args:
      is_wrong: whether it pushes right wherever the cart is right of the gate.
      scale: of its outputs' differences.
      raised: added to the bias of RIGHT.
    """
    steering = 0.05 * np.array([1.0, 2.0, 20.0, 10.0], np.float32)
    kernel = np.stack([steering, -steering, np.array([1.0, 0.0, 0.0, 0.0], np.float32)], axis=1)
    bias = np.array([-0.05 * TARGET, 0.05 * TARGET, -GATE], np.float32)
    to_right = np.array([0.2, -0.2, 20.0 if is_wrong else 0.0], np.float32) * scale
    return {
        "torso": {"fc1": {"kernel": kernel, "bias": bias}},
        "head": {
            "output": {
                "kernel": np.stack([-to_right, to_right], axis=1) / 2,
                "bias": np.array([_GOOD, _GOOD + raised], np.float32),
            }
        },
    }


def write_cartpole_teacher(path: Path, name: str = "made", *, output: str = "q", **options: Any) -> Path:
    """Such a network as a teacher file."""
    task = get_task("cartpole")
    metadata = TeacherMetadata(
        name=name,
        game=task.name,
        env_id=task.env_id,
        network="mlp",
        layer_norm=False,
        hidden_sizes=(UNITS,),
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype},
        output=output,
        algorithm="pqn",
        env_steps=0,
        seed=0,
        training_config={
            "algorithm": "pqn",
            "pqn": {"gamma": 0.99, "clip_rewards": True, "episodic_life": True},
        },
        evaluation={},
        learning_curve=[],
        how_made="by a test",
        licence="Apache-2.0",
        created="2024-01-01",
        pd_jax_version="0",
    )
    save_teacher(path, cartpole_params(**options), metadata)
    return path
