"""Members of committees that are known: CartPole players that push to where the pole leans, or the other way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.teachers import load
from pd_jax.teachers.files import save_teacher

EVALUATION = {
    "mean": 500.0,
    "standard_error": 0.0,
    "ci95": [500.0, 500.0],
    "episodes": 10,
    "epsilon": 0.0,
    "max_noops": 30,
    "max_episode_steps": 500,
    "seed": 0,
}


def write_changed(path: Path, factor: float, score: float | None = None, **changes: Any) -> Path:
    """The bundled CartPole teacher in a file, its outputs multiplied: by -1, it is as bad as can be."""
    teacher = load("cartpole")
    params = jax.tree.map(np.asarray, teacher.variables["params"])
    params["head"]["output"] = {name: leaf * np.float32(factor) for name, leaf in params["head"]["output"].items()}
    evaluation = {} if score is None else EVALUATION | {"mean": score}
    save_teacher(path, params, dataclasses.replace(teacher.metadata, evaluation=evaluation, **changes))
    return path
