"""Stable-Baselines3 and RL-Zoo archives (``.zip``): DQN, QR-DQN, PPO, A2C, TRPO and MaskablePPO, ``CnnPolicy`` or
``MlpPolicy``; and of continuous actions PPO, A2C, TRPO, SAC, TD3, DDPG and TQC with ``MlpPolicy``.

An archive holds ``data``, a JSON object whose values are plain or, under ``":serialized:"``, pickles in base64, and
``policy.pth``, the weights as PyTorch saves them. The pickles are never looked at: what an agent is follows from the
plain values beside them, from the names of classes, and from the names and shapes of the tensors. These are read by
PyTorch's ``weights_only`` loader, which builds tensors and refuses everything else.

What the training environments of SB3's Atari agents do otherwise than ours is in ``docs/teachers.md``, under
"Existing agents".
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.teachers.files import Params, open_regular_file
from pd_jax.teachers.importers import archives
from pd_jax.teachers.importers.conversion import check_actions, describe
from pd_jax.teachers.importers.sb3_continuous import algorithm_of, check_range, convert_continuous, is_continuous
from pd_jax.teachers.importers.sb3_weights import convert_weights, load_tensors
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

_MAX_FILE_BYTES = 2**30
# Weights are 7 MB, twice that with a target network; the data holds a few observations.
_LIMITS = {"data": 2**26, "policy.pth": 2**28, "_stable_baselines3_version": 2**10}
_READABLE_ACTIVATIONS = "ReLU, Tanh, ELU, LeakyReLU, SiLU and GELU"
_READABLE = (
    "DQN, QR-DQN, PPO, A2C, TRPO and MaskablePPO with CnnPolicy or MlpPolicy are read, and SAC, TD3, DDPG and TQC with "
    "MlpPolicy"
)
_EXTRACTORS = {f"stable_baselines3.common.torch_layers.{name}" for name in ("NatureCNN", "FlattenExtractor")}
_ACTIVATIONS = {
    f"torch.nn.modules.activation.{theirs}": ours
    for theirs, ours in {
        "ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "LeakyReLU": "leaky_relu", "SiLU": "silu", "GELU": "gelu",
    }.items()
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Family:
    """Algorithms that share policy classes.

    Attributes:
      classes: that are read.
      activation: of their ``MlpPolicy`` by default.
      output: what their networks give.
    """

    classes: frozenset[str]
    activation: str
    output: Literal["q", "logits", "gaussian", "means"]


_FAMILIES = {
    "stable_baselines3.dqn.policies": Family(frozenset({"DQNPolicy", "CnnPolicy"}), "relu", "q"),
    "sb3_contrib.qrdqn.policies": Family(frozenset({"QRDQNPolicy", "CnnPolicy"}), "relu", "q"),
    "stable_baselines3.common.policies": Family(
        frozenset({"ActorCriticPolicy", "ActorCriticCnnPolicy"}), "tanh", "logits"
    ),
    # Without masks, which no task here has, its policy is that of PPO.
    "sb3_contrib.common.maskable.policies": Family(
        frozenset({"MaskableActorCriticPolicy", "MaskableActorCriticCnnPolicy"}), "tanh", "logits"
    ),
    "stable_baselines3.sac.policies": Family(frozenset({"SACPolicy"}), "relu", "gaussian"),
    "sb3_contrib.tqc.policies": Family(frozenset({"TQCPolicy"}), "relu", "gaussian"),
    "stable_baselines3.td3.policies": Family(frozenset({"TD3Policy"}), "relu", "means"),
}
_ALGORITHMS = {
    "stable_baselines3.dqn.policies": "dqn",
    "sb3_contrib.qrdqn.policies": "qrdqn",
    "sb3_contrib.common.maskable.policies": "maskable-ppo",
    "stable_baselines3.sac.policies": "sac",
    "sb3_contrib.tqc.policies": "tqc",
}


def convert(path: Path, task: Task, is_told: bool = False) -> tuple[Params, TeacherMetadata]:
    """Reads an archive as a teacher of a task.

    Args:
      path: of the archive.
      task: that it plays.
      is_told: whether the caller knows if its observations were normalised; otherwise an archive that shows the use of
        ``VecNormalize`` is refused.

    Returns:
      Parameters of our ``dqn`` or ``mlp`` and metadata. PPO and A2C give the logits of their policy; QR-DQN's mean
      over quantiles is folded into the output layer, which is exact.

    Raises:
      Malformed: it is no such archive, is damaged or hostile, or its agent is of a kind that is not read.
      UserError: PyTorch is not installed.
    """
    sha256, members = _read(path)
    data = _parse_data(members["data"])
    family, algorithm = _identify(data)
    _check_inputs_and_outputs(data, task)
    version = members.get("_stable_baselines3_version", b"").decode("ascii", "replace").strip()
    if family.output == "logits" and not is_told:
        _check_normalisation(data, task, version)
    tensors = load_tensors(members["policy.pth"])
    version = version if re.fullmatch(r"[\w.+-]{1,40}", version) else "of unknown version"
    how_made = f"imported from {path.name!r}, an archive of Stable-Baselines3 {version}"
    return _converted(tensors, data, task, algorithm, family, sha256, how_made)


def convert_policy(
    tensors: Mapping[str, np.ndarray], data: dict[str, Any] | None, task: Task, path: Path, sha256: str
) -> tuple[Params, TeacherMetadata]:
    """Converts a policy that was saved alone, without its algorithm.

    Args:
      tensors: of the policy, finite floats by name.
      data: its spaces and its settings (as ``policy_kwargs``), as an archive has them; None if these are not known.
        Then its activation is that of such a policy by default.
      task: that it plays.
      path: of its file.
      sha256: of its file.

    Raises:
      Malformed: it is of a kind that is not read.
    """
    if any(name.startswith("q_net.") for name in tensors):
        module, algorithm = "stable_baselines3.dqn.policies", "dqn"
    elif any(name.startswith("quantile_net.") for name in tensors):
        module, algorithm = "sb3_contrib.qrdqn.policies", "qrdqn"
    elif is_continuous(tensors) and (algorithm := algorithm_of(tensors)) != "actor-critic":
        module = f"stable_baselines3.{algorithm}.policies"
    else:
        module, algorithm = "stable_baselines3.common.policies", "actor-critic"
    if data is not None:
        _check_inputs_and_outputs(data, task)
    what = "a policy of Stable-Baselines3" if data else "the weights of a policy of Stable-Baselines3"
    how_made = f"imported from {path.name!r}, {what}"
    return _converted(tensors, data or {}, task, algorithm, _FAMILIES[module], sha256, how_made)


def _converted(
    tensors: Mapping[str, np.ndarray],
    data: dict[str, Any],
    task: Task,
    algorithm: str,
    family: Family,
    sha256: str,
    how_made: str,
) -> tuple[Params, TeacherMetadata]:
    """What archives and policies have in common."""
    activation_fn = _check_policy_kwargs(data, task)
    output, squashed, log_std_bounds = family.output, False, None
    if task.is_continuous or is_continuous(tensors):
        policy = convert_continuous(tensors, algorithm, task)
        params, hidden_sizes, features = policy.params, policy.hidden_sizes, task.observation_shape[0]
        output, squashed, log_std_bounds = policy.output, policy.squashed, policy.log_std_bounds
    else:
        params, hidden_sizes, features = convert_weights(tensors, algorithm, task)
    activation = _ACTIVATIONS.get(activation_fn, "") if activation_fn else family.activation
    if hidden_sizes and not activation:
        raise Malformed(f"its activation_fn is {_short(activation_fn)}; {_READABLE_ACTIVATIONS} are read")
    metadata = describe(
        task,
        library="stable-baselines3",
        algorithm=algorithm,
        output=output,
        squashed=squashed,
        log_std_bounds=log_std_bounds,
        source_sha256=sha256,
        how_made=how_made,
        hidden_sizes=hidden_sizes,
        features=features,
        # Where no layer uses it, any will do.
        activation=activation if hidden_sizes else "relu",
        env_steps=data.get("num_timesteps"),
        seed=data.get("seed"),
        settings=data,
    )
    return params, metadata


def _read(path: Path) -> tuple[str, dict[str, bytes]]:
    """The file's SHA-256 and its members; whatever is read from it is read from one open file."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_FILE_BYTES:
            raise Malformed(f"has {size:,} bytes, more than any archive of Stable-Baselines3")
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        members = archives.read_members(file, _LIMITS)
    for name in ("data", "policy.pth"):
        if name not in members:
            raise Malformed(f"not an archive of Stable-Baselines3, or one that was cut short: it holds no {name!r}")
    return sha256, members


def _parse_data(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    # ValueError covers bad JSON, bad UTF-8 and numbers of too many digits.
    except (ValueError, RecursionError):
        raise Malformed("not an archive of Stable-Baselines3: its 'data' is not JSON") from None
    if not isinstance(data, dict) or not isinstance(data.get("policy_class"), dict):
        raise Malformed("not an archive of Stable-Baselines3: its 'data' names no policy_class")
    return data


def _identify(data: dict[str, Any]) -> tuple[Family, str]:
    """The policy's family and the algorithm, from the names of classes alone."""
    module = str(data["policy_class"].get("__module__"))
    named = re.match(r"<function (\w{1,80})\.__init__ at ", str(data["policy_class"].get("__init__")))
    name = named.group(1) if named else "of unknown name"
    if "recurrent" in module or "Lstm" in name:
        raise Malformed(f"its policy {name} is recurrent: it needs more than the frames that a student sees")
    if "MultiInput" in name:
        raise Malformed(f"its policy {name} takes several inputs; {_READABLE}")
    if module not in _FAMILIES or name not in _FAMILIES[module].classes:
        raise Malformed(f"its policy class {_short(name)} of {_short(module)} is not one that is read; {_READABLE}")
    if module in _ALGORITHMS:
        return _FAMILIES[module], _ALGORITHMS[module]
    if module == "stable_baselines3.td3.policies":
        # DDPG is TD3 with one critic.
        return _FAMILIES[module], "ddpg" if (data.get("policy_kwargs") or {}).get("n_critics") == 1 else "td3"
    # PPO, A2C and TRPO share their policy classes and differ in their settings.
    if "clip_range" in data:
        return _FAMILIES[module], "ppo"
    if "gae_lambda" in data:
        return _FAMILIES[module], "trpo" if "cg_max_steps" in data else "a2c"
    raise Malformed(f"its algorithm is unknown to pd_jax; {_READABLE}")


def _check_normalisation(data: dict[str, Any], task: Task, version: str) -> None:
    """Refuses an actor-critic that may have seen normalised observations."""
    # Algorithms with a replay buffer keep it always, the others only beside VecNormalize.
    if data.get("_last_original_obs") is None:
        return
    # Since SB3 1.7, VecNormalize makes float32 of frames if it normalises them: these are as they were.
    if task.kind == "atari" and re.match(r"([2-9]|\d\d+)\.\d", version):
        return
    raise Malformed(
        "was trained with VecNormalize, whose statistics are not in the archive: pd-jax teachers import takes them "
        "(--observation-statistics FILE), or 'none' if only rewards were normalised"
    )


def _check_inputs_and_outputs(data: dict[str, Any], task: Task) -> None:
    observations, actions = _space(data, "observation_space"), _space(data, "action_space")
    kind = _class_name(observations)
    if kind != "Box":
        raise Malformed(f"its observations are a {kind} space; {task.name} shows arrays")
    frames = task.kind == "atari"
    wanted = [4, 84, 84] if frames else list(task.observation_shape)
    shape = observations.get("_shape", observations.get("shape"))
    if shape != wanted:
        shows = "stacks of 4 grey frames of 84x84" if frames else f"vectors of {wanted[0]}"
        raise Malformed(f"sees observations of shape {_short(shape)}; {task.name} shows {shows}, {wanted}")
    if frames and observations.get("dtype") != "uint8":
        raise Malformed(
            f"sees frames of {_short(observations.get('dtype'))}, normalised outside the network; need uint8"
        )
    kind = _class_name(actions)
    if task.is_continuous:
        if kind != "Box":
            raise Malformed(f"its actions are a {kind} space; those of {task.name} are continuous")
        check_range(actions, task)
        return
    if kind != "Discrete":
        raise Malformed(f"its actions are a {kind} space; {task.name} has {task.num_actions} discrete ones")
    count = str(actions.get("n"))
    if not re.fullmatch(r"\d{1,9}", count):
        raise Malformed("does not say how many actions it has")
    check_actions(int(count), task)
    start = actions.get("start", 0)
    if str(start) != "0":
        raise Malformed(f"its actions begin at {_short(start)}, those of {task.name} at 0")


def _check_policy_kwargs(data: dict[str, Any], task: Task) -> str:
    """Refuses what changes the network beyond what is read, and returns the activation's class, ``""`` by default."""
    kwargs = data.get("policy_kwargs") or {}
    if not isinstance(kwargs, dict):
        raise Malformed(f"its policy_kwargs are {_short(kwargs)}, not an object")
    if data.get("use_sde") or kwargs.get("use_sde"):
        raise Malformed("uses state-dependent exploration (use_sde), whose policies are not read")
    if task.kind == "atari" and not kwargs.get("normalize_images", True):
        raise Malformed("has normalize_images=False: its network takes frames that something else has normalised")
    extractor = _class_path(kwargs.get("features_extractor_class"))
    if extractor and extractor not in _EXTRACTORS:
        raise Malformed(f"has a features extractor of its own, {_short(extractor)}; NatureCNN and none are read")
    return _class_path(kwargs.get("activation_fn"))


def _space(data: dict[str, Any], name: str) -> dict[str, Any]:
    space = data.get(name)
    if not isinstance(space, dict):
        raise Malformed(f"not an archive of Stable-Baselines3: its 'data' has no {name}")
    return space


def _class_name(value: dict[str, Any]) -> str:
    """``"Box"`` for ``{":type:": "<class 'gymnasium.spaces.box.Box'>"}``."""
    return _short(_class_path(value.get(":type:")).rpartition(".")[2] or "nameless")


def _class_path(text: Any) -> str:
    """``"a.b.C"`` for ``"<class 'a.b.C'>"``, the text itself for anything else."""
    if text is None:
        return ""
    found = re.fullmatch(r"<class '(.*)'>", str(text))
    return found.group(1) if found else str(text)


def _short(value: Any) -> str:
    """For a message: one printable line of a stranger's text."""
    text = str(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return text if text.isprintable() else repr(text)
