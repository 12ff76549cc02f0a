"""Whose weights a training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config import TrainTeacherConfig
from pd_jax.errors import UserError
from pd_jax.tasks import Task
from pd_jax.teachers import Teacher, load


def load_start(config: TrainTeacherConfig, tasks: Sequence[Task]) -> Any:
    """The variables of the teacher that ``config.init_from`` names.

    Args:
      config: of the training, with ``init_from``.
      tasks: its games.

    Raises:
      UserError: there is no such teacher, or training cannot go on from its weights.
    """
    assert config.init_from is not None
    # A file of several games is the same weights for each of them.
    teacher = load(config.init_from, tasks[0].name)
    _check_start(teacher, config, tasks)
    return jax.tree.map(jnp.asarray, teacher.variables)


def _check_start(teacher: Teacher, config: TrainTeacherConfig, tasks: Sequence[Task]) -> None:
    """Raises a UserError unless training can go on from this teacher's weights."""
    metadata = teacher.metadata
    games, wanted_games = metadata.games or (metadata.game,), tuple(task.name for task in tasks)
    wanted = (wanted_games, config.network, config.uses_layer_norm)
    if (games, metadata.network, metadata.layer_norm) != wanted:
        raise UserError(
            f"init_from: {config.init_from} is a {metadata.network} for {', '.join(games)} "
            f"(layer_norm {metadata.layer_norm}), and the run wants a {config.network} for {', '.join(wanted_games)} "
            f"(layer_norm {config.uses_layer_norm})"
        )
    if teacher.gives_logits:
        raise UserError(f"init_from: {config.init_from} gives logits; {config.algorithm} learns Q-values")
    if metadata.activation != "relu" or metadata.support:
        what = "a categorical head" if metadata.support else f"{metadata.activation} units"
        raise UserError(f"init_from: {config.init_from} has {what}; {config.algorithm} trains plain networks with relu")
    _check_widths(teacher, config)


def _check_widths(teacher: Teacher, config: TrainTeacherConfig) -> None:
    widths, wanted = _widths(teacher.metadata.hidden_sizes), _widths(config.mlp_hidden)
    if config.network == "mlp" and widths != wanted:
        raise UserError(f"init_from: {config.init_from} has mlp_hidden {widths}, and the run wants {wanted}")
    for key in ("channels", "hidden", "head_hidden") if teacher.metadata.games else ():
        there, here = getattr(teacher.metadata, key), getattr(config, key)
        if there != here:
            raise UserError(f"init_from: {config.init_from} has {key} {there}, and the run wants {here}")


def _widths(sizes: Sequence[int]) -> str:
    return " ".join(map(str, sizes)) or "none"
