"""Agents of ``atari-agents`` (Gogianu et al. 2022): DQN, M-DQN and C51 on 60 Atari games, three trainings of each, 51
snapshots along each training.

A file, ``ALGORITHM_PROTOCOL/GAME/SEED/model_STEP.gz``, is a gzip file of what ``torch.save`` wrote: a dict whose
``estimator_state`` holds the tensors of a network that is our ``dqn``, named after the attributes of its class::

    _AtariNet__features.0  .2  .4   convolutions      _AtariNet__head.0  .2   dense layers
    _AtariNet__support              C51's atoms, of which each action's Q-value is the mean

A network of M-DQN is one of DQN. What the file does not say, its folders do, where they are as they were published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.teachers.files import Params
from pd_jax.teachers.importers.conversion import (
    NATURE_CONVOLUTIONS,
    NATURE_FLAT,
    NATURE_HIDDEN,
    check_actions,
    checked_pair,
    describe,
    from_torch,
    layer,
    listed,
    network_params,
)
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

PREFIX = "_AtariNet__"
"""With which the names of all its tensors begin."""
_SUPPORT = f"{PREFIX}support"
_SHAPES: Mapping[str, tuple[int | None, ...]] = {
    **{f"{PREFIX}features.{2 * index}": shape for index, shape in enumerate(NATURE_CONVOLUTIONS)},
    f"{PREFIX}head.0": (int(np.prod(NATURE_FLAT)), NATURE_HIDDEN),
    f"{PREFIX}head.2": (NATURE_HIDDEN, None),
}
_OURS = ("conv1", "conv2", "conv3", "fc1")
_MAX_ATOMS = 1024
_FOLDER = re.compile(r"(?P<algorithm>[A-Za-z0-9-]{1,20})_(?P<protocol>modern|classic)(?:_\w{1,20})?")
_FILE = re.compile(r"model_(?P<step>\d{1,18})\.\w{1,8}")
_STICKY_ACTIONS = {"modern": 0.25, "classic": 0.0}


def convert_estimator(
    tensors: Mapping[str, np.ndarray], task: Task, path: Path, sha256: str
) -> tuple[Params, TeacherMetadata]:
    """Converts the network of an agent.

    Args:
      tensors: its parameters, finite, by name.
      task: that the agent plays.
      path: of its file. The control steps behind a snapshot are in its name; its folders tell the rest.
      sha256: of its file.

    Raises:
      Malformed: a tensor is missing, is one too many or has another shape, its atoms are no range of values, it has
        another number of actions, or its folder is another game's.
    """
    if task.kind != "atari":
        raise Malformed(f"its network sees frames, and {task.name} shows vectors")
    wanted = {f"{name}.{part}" for name in _SHAPES for part in ("weight", "bias")}
    if missing := sorted(wanted - tensors.keys()):
        raise Malformed(f"tensor {missing[0]!r} is missing; the estimator holds {listed(tensors)}")
    if extra := sorted(tensors.keys() - wanted - {_SUPPORT}):
        raise Malformed(f"tensor {extra[0][:80]!r} does not belong to the estimator of DQN, M-DQN or C51")
    pairs = [
        checked_pair(name, from_torch(tensors[f"{name}.weight"], tensors[f"{name}.bias"]), shape)
        for name, shape in _SHAPES.items()
    ]
    support = _support(tensors[_SUPPORT]) if _SUPPORT in tensors else ()
    outputs, atoms = len(pairs[-1][1]), max(1, len(support))
    if outputs % atoms:
        raise Malformed(f"has {outputs} outputs, which are no number of actions with {atoms} atoms each")
    check_actions(outputs // atoms, task)
    torso = {name: layer(*pair) for name, pair in zip(_OURS, pairs[:-1], strict=True)}
    told = _told_by_folders(path, task)
    metadata = describe(
        task,
        library="atari-agents",
        algorithm="c51" if support else "m-dqn" if told.get("algorithm") == "mdqn" else "dqn",
        output="q",
        source_sha256=sha256,
        how_made=f"imported from {path.name!r}, an agent of atari-agents",
        support=support,
        env_steps=_steps(path),
        seed=told.get("seed"),
        settings={name: told[name] for name in ("protocol", "sticky_action_probability") if name in told},
    )
    return network_params(torso, layer(*pairs[-1])), metadata


def _support(atoms: np.ndarray) -> tuple[float, ...]:
    """Values of the atoms."""
    rises = atoms.ndim == 1 and 2 <= len(atoms) <= _MAX_ATOMS and bool((np.diff(atoms) > 0).all())
    if not rises:
        raise Malformed(f"tensor {_SUPPORT!r} is no range of values")
    return tuple(map(float, atoms))


def _steps(path: Path) -> int | None:
    """Control steps behind the snapshot."""
    match = _FILE.fullmatch(path.name)
    return int(match["step"]) if match else None


def _told_by_folders(path: Path, task: Task) -> dict[str, Any]:
    """The algorithm, the protocol and the seed, if the file lies where it lay when it was published."""
    parts = path.absolute().parts[-4:-1]
    folder = _FOLDER.fullmatch(parts[0]) if len(parts) == 3 else None
    if folder is None or not re.fullmatch(r"\d{1,9}", parts[2]):
        return {}
    game = re.sub(r"-v\d+$", "", task.env_id)
    if parts[1].lower() != game.lower():
        raise Malformed(f"lies in the folder of {parts[1][:40]!r}, not of {task.name}")
    return {
        "algorithm": folder["algorithm"].lower().replace("-", ""),
        "protocol": folder["protocol"],
        "sticky_action_probability": _STICKY_ACTIONS[folder["protocol"]],
        "seed": int(parts[2]),
    }
