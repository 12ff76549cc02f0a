"""Policies of rsl_rl and rl_games, which train robots: checkpoints of PPO whose actor is an MLP, weights only.

==========================================  ========================================================================
``{"model_state_dict": tensors, "iter"}``   rsl_rl before 4: ``actor.0 .2 ...``, ``std`` or ``log_std``, and the
                                            ``actor_obs_normalizer`` among them, or beside them as
                                            ``obs_norm_state_dict``
``{"actor_state_dict": tensors, "iter"}``   rsl_rl since 4: ``mlp.0 .2 ...``, ``distribution.std_param`` or
                                            ``.log_std_param``, ``obs_normalizer``
``{"model": tensors, "epoch"}``             rl_games: ``a2c_network.actor_mlp.0 .2 ...``, ``.mu``, ``.sigma`` (a log
                                            standard deviation), ``running_mean_std``
==========================================  ========================================================================

No checkpoint says which activation its layers have: it is ELU in the settings of both libraries. Statistics of the
observations are in the file, and are taken from there. rl_games has its policies act between -1 and 1, and scales that
to the task's range; rsl_rl leaves actions as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.teachers.files import Params
from pd_jax.teachers.importers.conversion import describe, listed
from pd_jax.teachers.importers.gaussian_policies import (
    Layer,
    check_task,
    free_deviations,
    to_params,
    to_range,
)
from pd_jax.teachers.importers.sb3_weights import Reader
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

ACTIVATION = "elu"
"""Of hidden layers, where nobody says otherwise."""
_RSL_RL_EPSILON = 1e-2
_RL_GAMES_EPSILON, _RL_GAMES_CLIP = 1e-5, 5.0


def is_rsl_rl(tree: Mapping[str, Any]) -> bool:
    """Whether a dict that PyTorch saved is a checkpoint of rsl_rl."""
    return any(isinstance(tree.get(name), dict) for name in ("model_state_dict", "actor_state_dict")) and "iter" in tree


def is_rl_games(tree: Mapping[str, Any]) -> bool:
    """Whether it is one of rl_games."""
    model = tree.get("model")
    return isinstance(model, dict) and any(str(name).startswith("a2c_network.") for name in model)


def rsl_rl_tensors(tree: Mapping[str, Any]) -> Any:
    """All tensors of a checkpoint that an actor may need, by name."""
    if isinstance(tree.get("actor_state_dict"), dict):
        return tree["actor_state_dict"]
    apart = tree.get("obs_norm_state_dict")
    named = {f"actor_obs_normalizer.{name}": value for name, value in apart.items()} if isinstance(apart, dict) else {}
    return tree["model_state_dict"] | named


def convert_rsl_rl(
    tensors: Mapping[str, np.ndarray], told: Mapping[str, Any], task: Task, path: Path, sha256: str
) -> tuple[Params, TeacherMetadata]:
    """Converts the actor of a checkpoint of rsl_rl.

    Args:
      tensors: as :func:`rsl_rl_tensors` gives them, finite.
      told: what the checkpoint says beside them.
      task: that the agent plays.
      path: of its file.
      sha256: of its file.

    Raises:
      Malformed: it has other layers, or other observations or actions than the task.
    """
    check_task(task)
    if any(name.startswith(("memory_a.", "rnn.")) for name in tensors):
        raise Malformed("its actor is recurrent; those of rsl_rl that are an MLP are read")
    read = Reader(tensors)
    is_new = any(name.startswith("mlp.") for name in tensors)
    actor, normaliser = ("mlp.", "obs_normalizer.") if is_new else ("actor.", "actor_obs_normalizer.")
    std = ("distribution.std_param", "distribution.log_std_param") if is_new else ("std", "log_std")
    layers = read.sequence(actor)
    if not layers:
        raise Malformed(f"tensor '{actor}0.weight' is missing; the actor holds {listed(tensors)}")
    if std[0] in tensors:
        deviation = read.vector(std[0])
        if not (deviation > 0).all():
            raise Malformed(f"tensor {std[0]!r} holds a standard deviation that is not above 0")
        log_std = np.log(deviation)
    else:
        log_std = read.vector(std[1])
    statistics = _rsl_rl_statistics(read, normaliser, task) if read.has(normaliser) else {}
    read.check_nothing_else(("critic.", "critic_obs_normalizer."))
    return _converted(
        layers[:-1],
        free_deviations(layers[-1], log_std),
        statistics,
        task,
        library="rsl_rl",
        sha256=sha256,
        how_made=f"imported from {path.name!r}, a checkpoint of rsl_rl",
        settings={"iter": told.get("iter")},
    )


def convert_rl_games(
    tensors: Mapping[str, np.ndarray], told: Mapping[str, Any], task: Task, path: Path, sha256: str
) -> tuple[Params, TeacherMetadata]:
    """As :func:`convert_rsl_rl`, of the model of a checkpoint of rl_games."""
    check_task(task)
    prefix = "a2c_network."
    if any(name.startswith((f"{prefix}rnn.", f"{prefix}a_rnn.", f"{prefix}actor_cnn.")) for name in tensors):
        raise Malformed("its actor is recurrent, or sees frames; those of rl_games that are an MLP are read")
    if f"{prefix}sigma.weight" in tensors:
        raise Malformed("its standard deviation depends on the observation (fixed_sigma: False), which is not read")
    read = Reader(tensors)
    hidden, mean = read.sequence(f"{prefix}actor_mlp."), read.pair(f"{prefix}mu.")
    output = free_deviations(mean, read.vector(f"{prefix}sigma"))
    statistics = _rl_games_statistics(read, task) if read.has("running_mean_std.") else {}
    read.check_nothing_else((f"{prefix}critic_mlp.", f"{prefix}value.", "value_mean_std."))
    return _converted(
        hidden,
        to_range(output, task, has_deviations=True),
        statistics,
        task,
        library="rl_games",
        sha256=sha256,
        how_made=f"imported from {path.name!r}, a checkpoint of rl_games",
        settings={name: told.get(name) for name in ("epoch", "frame")},
    )


def _converted(
    hidden: list[Layer],
    output: Layer,
    statistics: dict[str, Any],
    task: Task,
    *,
    library: str,
    sha256: str,
    how_made: str,
    settings: Mapping[str, Any],
) -> tuple[Params, TeacherMetadata]:
    params, hidden_sizes = to_params(hidden, output, task, has_deviations=True)
    metadata = describe(
        task,
        library=library,
        algorithm="ppo",
        output="gaussian",
        source_sha256=sha256,
        how_made=how_made,
        hidden_sizes=hidden_sizes,
        activation=ACTIVATION if hidden_sizes else "relu",
        normalisation={"observation": statistics} if statistics else {},
        settings=settings,
    )
    return params, metadata


def _rsl_rl_statistics(read: Reader, prefix: str, task: Task) -> dict[str, Any]:
    """``(x - mean) / (std + 0.01)``, as statistics that are applied as ``(x - mean) / sqrt(variance)``."""
    mean, std = (_of_observation(read, f"{prefix}{name}", task) for name in ("_mean", "_std"))
    _of_observation(read, f"{prefix}_var", task)
    count = read.number(f"{prefix}count") if read.has(f"{prefix}count") else 0
    variance = ((std.astype(np.float64) + _RSL_RL_EPSILON) ** 2).tolist()
    return {"mean": mean.tolist(), "variance": variance, "count": max(count, 1), "epsilon": 0.0}


def _rl_games_statistics(read: Reader, task: Task) -> dict[str, Any]:
    """``(x - mean) / sqrt(variance + 1e-5)`` between -5 and 5."""
    mean, variance = (
        _of_observation(read, f"running_mean_std.{name}", task) for name in ("running_mean", "running_var")
    )
    count = read.number("running_mean_std.count")
    told = {"mean": mean.tolist(), "variance": variance.tolist(), "count": max(count, 1)}
    return told | {"epsilon": _RL_GAMES_EPSILON, "clip": _RL_GAMES_CLIP}


def _of_observation(read: Reader, name: str, task: Task) -> np.ndarray:
    """A statistic with one number for each of an observation's."""
    array = read.array(name).reshape(-1)
    if array.shape != task.observation_shape:
        raise Malformed(f"tensor {name!r} has {array.size} numbers; {task.name} shows {task.observation_shape[0]}")
    return array
