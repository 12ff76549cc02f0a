"""Small teachers of continuous tasks, with drawn weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.environments.tasks import get_task
from pd_jax.teachers.checks import build_network
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.importers.conversion import describe
from pd_jax.teachers.metadata import TeacherMetadata


def metadata_of(game: str = "Pendulum-v1", output: Any = "gaussian", **changes: Any) -> TeacherMetadata:
    """Of a teacher with two layers of 8 units."""
    known = describe(
        get_task(game), library="test", algorithm="ppo", output=output, source_sha256="", how_made="drawn",
        hidden_sizes=(8, 8), activation="tanh",
    )  # fmt: skip
    return dataclasses.replace(known, **({"source_format": "", "format_version": 6} | changes))


def params_of(metadata: TeacherMetadata, seed: int = 0) -> Any:
    """Drawn weights that fit, NumPy's."""
    shape = (1, *metadata.observation["shape"])
    variables = build_network(metadata).init(jax.random.key(seed), np.zeros(shape, np.float32))
    return jax.tree.map(np.asarray, variables["params"])


def write_teacher(path: Path, game: str = "Pendulum-v1", output: Any = "gaussian", **changes: Any) -> Path:
    """A teacher file."""
    metadata = metadata_of(game, output, **changes)
    save_teacher(path, params_of(metadata), metadata)
    return path
