"""Agents of Sample Factory's Atari example (Petrenko et al. 2020): APPO policies whose layers are those of our ``dqn``.

A checkpoint is what ``torch.save`` wrote of ``{"model": tensors, "train_step", "env_steps", "optimizer", ...}``::

    encoder.encoders.obs.enc.conv_head.0  .2  .4    convolutions (convnet_atari)
    encoder.encoders.obs.enc.mlp_layers.0           the dense layer
    action_parameterization.distribution_linear     logits
    critic_linear, returns_normalizer               of no use here

With ``normalize_input``, as by default, each pixel is normalised by statistics of its own and clipped before the first
convolution: a layer that we do not have. Such agents are refused; those of ``--normalize_input=False`` are read. A
checkpoint does not tell its nonlinearity: it is ReLU in the example's settings, as here.
"""

from __future__ import annotations

import math
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

_ENCODER = "encoder.encoders.obs.enc"
_SHAPES: Mapping[str, tuple[int | None, ...]] = {
    **{f"{_ENCODER}.conv_head.{2 * index}": shape for index, shape in enumerate(NATURE_CONVOLUTIONS)},
    f"{_ENCODER}.mlp_layers.0": (math.prod(NATURE_FLAT), NATURE_HIDDEN),
    "action_parameterization.distribution_linear": (NATURE_HIDDEN, None),
}
_OURS = ("conv1", "conv2", "conv3", "fc1")
_NOT_NEEDED = ("critic_linear.", "returns_normalizer.")


def is_checkpoint(tree: Mapping[str, Any]) -> bool:
    """Whether a dict that PyTorch saved is one of its checkpoints."""
    return isinstance(tree.get("model"), dict) and "train_step" in tree


def convert_model(
    tensors: Mapping[str, np.ndarray], told: Mapping[str, Any], task: Task, path: Path, sha256: str
) -> tuple[Params, TeacherMetadata]:
    """Converts the actor of a checkpoint.

    Args:
      tensors: its parameters and buffers, finite, by name.
      told: what the checkpoint says beside them.
      task: that the agent plays.
      path: of its file.
      sha256: of its file.

    Raises:
      Malformed: its observations were normalised, it has other layers, or another number of actions.
    """
    if task.kind != "atari":
        raise Malformed(f"its network sees frames, and {task.name} shows vectors")
    if any(name.startswith("obs_normalizer.") for name in tensors):
        raise Malformed(
            "normalises each pixel by statistics of its own before its layers, which no network here does; Sample "
            "Factory's agents of --normalize_input=False are read"
        )
    wanted = {f"{name}.{part}" for name in _SHAPES for part in ("weight", "bias")}
    if missing := sorted(wanted - tensors.keys()):
        raise Malformed(f"tensor {missing[0]!r} is missing; the model holds {listed(tensors)}")
    for name in sorted(tensors.keys() - wanted):
        if not name.startswith(_NOT_NEEDED):
            raise Malformed(f"tensor {name[:80]!r} does not belong to an actor of convolutions and one dense layer")
    pairs = [
        checked_pair(name, from_torch(tensors[f"{name}.weight"], tensors[f"{name}.bias"]), shape)
        for name, shape in _SHAPES.items()
    ]
    check_actions(len(pairs[-1][1]), task)
    torso = {name: layer(*pair) for name, pair in zip(_OURS, pairs[:-1], strict=True)}
    metadata = describe(
        task,
        library="sample-factory",
        algorithm="appo",
        output="logits",
        source_sha256=sha256,
        how_made=f"imported from {path.name!r}, a checkpoint of Sample Factory",
        # Its environment steps may be frames or control steps; the file does not say which.
        settings={name: told[name] for name in ("train_step", "env_steps") if name in told},
    )
    return network_params(torso, layer(*pairs[-1])), metadata
