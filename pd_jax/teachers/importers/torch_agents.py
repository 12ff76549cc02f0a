"""Agents as PyTorch saves them: policies of Stable-Baselines3 alone, models of CleanRL's PyTorch scripts, snapshots of
atari-agents, checkpoints of Sample Factory, rsl_rl and rl_games. Any of them may be gzipped.

================================================  ==================================================================
``policy.save("x.pth")`` of Stable-Baselines3     ``{"state_dict": tensors, "data": the policy's settings}``
``torch.save(policy.state_dict(), "x.pt")``       the tensors alone: activations are those of the policy by default
``torch.save(q_network.state_dict(), ...)``       CleanRL's ``dqn``, ``dqn_atari``; ``ppo`` and ``ppo_atari`` agents
``{"model_weights": tensors, "args": {...}}``     CleanRL's ``c51``, ``c51_atari``
``{"estimator_state": tensors, ...}``             atari-agents' DQN, M-DQN and C51
``{"model": tensors, "train_step": ..., ...}``    Sample Factory's Atari agents
``{"model_state_dict": tensors, "iter": ...}``    rsl_rl's actors that are an MLP
``{"model": {"a2c_network...": tensor}, ...}``    rl_games' actors that are an MLP
================================================  ==================================================================
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.teachers.files import Params, open_regular_file
from pd_jax.teachers.formats import GZIP
from pd_jax.teachers.importers import atari_agents, cleanrl, robot_agents, sample_factory, sb3
from pd_jax.teachers.importers.archives import gunzip
from pd_jax.teachers.importers.conversion import check_finite
from pd_jax.teachers.importers.pickles import Made, Name
from pd_jax.teachers.importers.torch_files import read_torch
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

_MAX_FILE_BYTES = 2**28
_OF_SB3 = ("q_net.", "quantile_net.", "mlp_extractor.", "features_extractor.", "pi_features_extractor.", "action_net.")
_OF_SB3_CONTINUOUS = ("actor.latent_pi.", "actor.mu.")
_READABLE = (
    "policies of Stable-Baselines3 (policy.save, policy.state_dict()), models of CleanRL's dqn, dqn_atari, c51, "
    "c51_atari, ppo, ppo_atari and qdagger, and those of atari-agents, Sample Factory, rsl_rl and rl_games are read"
)


def convert(path: Path, task: Task, is_told: bool = False) -> tuple[Params, TeacherMetadata]:
    """Reads a file of PyTorch's as a teacher of a task.

    Args:
      path: of the file.
      task: that the agent plays.
      is_told: unused: such a file never shows whether observations were normalised.

    Returns:
      Parameters of our ``dqn`` or ``mlp``, and metadata.

    Raises:
      Malformed: it is no such file, is damaged or hostile, or its agent is of a kind that is not read.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_FILE_BYTES:
            raise Malformed(f"has {size:,} bytes, more than any agent's")
        data = file.read()
    sha256 = hashlib.sha256(data).hexdigest()
    tree = read_torch(gunzip(data) if data.startswith(GZIP) or path.suffix.lower() == ".gz" else data)
    if isinstance(tree, Made):
        what = tree.function.rpartition(".")[2] if tree.function else "object"
        raise Malformed(
            f"holds a whole {_short(what)}, which was not made; save its weights: torch.save(x.state_dict(), FILE)"
        )
    if not isinstance(tree, dict) or not tree:
        raise Malformed(f"is a file of PyTorch's without weights by name; {_READABLE}")
    if tree.keys() == {"state_dict", "data"} and isinstance(tree["data"], dict):
        settings = _settings_of_policy(tree["data"])
        return sb3.convert_policy(_tensors(tree["state_dict"]), settings, task, path, sha256)
    if tree.keys() == {"model_weights", "args"} and isinstance(tree["args"], dict):
        return cleanrl.convert_torch(_tensors(tree["model_weights"]), tree["args"], task, path, sha256)
    if isinstance(tree.get("estimator_state"), dict):
        return atari_agents.convert_estimator(_tensors(tree["estimator_state"]), task, path, sha256)
    if robot_agents.is_rsl_rl(tree):
        return robot_agents.convert_rsl_rl(_tensors(robot_agents.rsl_rl_tensors(tree)), tree, task, path, sha256)
    if robot_agents.is_rl_games(tree):
        return robot_agents.convert_rl_games(_tensors(tree["model"]), tree, task, path, sha256)
    if sample_factory.is_checkpoint(tree):
        return sample_factory.convert_model(_tensors(tree["model"]), tree, task, path, sha256)
    tensors = _tensors(tree)
    if any(name.startswith(atari_agents.PREFIX) for name in tensors):
        return atari_agents.convert_estimator(tensors, task, path, sha256)
    if any(name.startswith((*_OF_SB3, *_OF_SB3_CONTINUOUS)) for name in tensors):
        return sb3.convert_policy(tensors, None, task, path, sha256)
    if any(name.startswith(("network.", "actor.")) for name in tensors):
        return cleanrl.convert_torch(tensors, {}, task, path, sha256)
    raise Malformed(f"is a file of PyTorch's with {_listed(tensors)}; {_READABLE}")


def _tensors(state: Any) -> dict[str, np.ndarray]:
    """Checked weights by name."""
    if not isinstance(state, dict) or not state:
        raise Malformed(f"is a file of PyTorch's without weights by name; {_READABLE}")
    for name, value in state.items():
        if not isinstance(name, str) or len(name) > 200 or not name.isprintable():
            raise Malformed("holds a tensor without a proper name")
        if not isinstance(value, np.ndarray):
            raise Malformed(f"holds {name!r}, which is no tensor, beside its weights; {_READABLE}")
        check_finite(name, value)
    return state


def _settings_of_policy(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of a policy as an archive's ``data`` has them."""
    spaces = {name: _space(data.get(name)) for name in ("observation_space", "action_space")}
    kwargs = {name: _plain(value) for name, value in data.items() if name not in spaces}
    return spaces | {"policy_kwargs": kwargs}


def _space(value: Any) -> Any:
    if not isinstance(value, Made):
        return None
    fields = value.state if isinstance(value.state, dict) else {}
    return {name: _plain(field) for name, field in fields.items()} | {":type:": f"<class '{value.function}'>"}


def _plain(value: Any) -> Any:
    """Plain values; classes by their names, shapes as lists, and NumPy's types and whole numbers."""
    if isinstance(value, Name):
        return f"<class '{value.path}'>"
    if isinstance(value, tuple | list):
        return [_plain(item) if isinstance(item, bool | int | float | str) else str(type(item)) for item in value]
    if isinstance(value, Made):
        arguments = value.arguments if isinstance(value.arguments, tuple) else ()
        if value.function == "numpy.dtype" and arguments and re.fullmatch(r"[biuf]\d", str(arguments[0])):
            return np.dtype(arguments[0]).name
        if value.function.endswith("multiarray.scalar") and len(arguments) == 2:
            return _whole_number(*arguments)
        return f"<{_short(value.function)}>"
    return value


def _whole_number(dtype: Any, content: Any) -> Any:
    """A NumPy scalar of a pickle, if it is a whole number: its type, and its bytes, as text in old protocols."""
    if isinstance(content, Made) and isinstance(content.arguments, tuple) and content.arguments:
        content = str(content.arguments[0]).encode("latin1", "replace")
    if not isinstance(content, bytes) or len(content) > 8 or not str(_plain(dtype)).lstrip("u").startswith("int"):
        return None
    return int.from_bytes(content, "little", signed=True)


def _listed(names: Any) -> str:
    return ", ".join(repr(name[:40]) for name in list(names)[:6])


def _short(text: str) -> str:
    return text[:60] if text[:60].isprintable() else repr(text[:60])
