"""CleanRL models (``.cleanrl_model``): of its JAX scripts, written by ``flax.serialization.to_bytes`` as msgpack.

==============================  =====================================================================================
``dqn_atari_jax``               ``{"params": {Conv_0, Conv_1, Conv_2, Dense_0 (512), Dense_1 (actions)}}``: Q-values
``dqn_jax``                     ``{"params": {Dense_0 (120), Dense_1 (84), Dense_2 (actions)}}``: Q-values
``c51_atari_jax``, ``c51_jax``  ``{"model_weights": {"params": as above, actions x atoms wide}, "args": {n_atoms, v_min,
                                v_max, env_id, ...}}``: a softmax over atoms for each action; its mean is the Q-value
``ppo_atari_envpool_xla_jax``,  ``[args, [network, actor, critic]]``, in which Flax turns lists into dicts with the keys
``..._scan``                    ``"0"``, ``"1"``, ...: the network is ``{"params": {Conv_0..2, Dense_0 (512)}}``, the
                                actor ``{"params": {Dense_0 (actions)}}``: logits
==============================  =====================================================================================

Kernels have our layout already: the scripts' networks bring channels last before the first convolution.

Of its PyTorch scripts come ``dqn``, ``dqn_atari``, ``c51`` and ``c51_atari`` (``network.0`` and on, in the order of a
``Sequential``), and the agents of ``ppo_atari`` (``network`` and ``actor``) and ``ppo`` (``actor.0``, ``.2`` and
``.4``, with Tanh), which those scripts leave to their users to save. Their kernels and the first dense layer's inputs
are brought into our order.

The students of QDagger (``qdagger_dqn_atari_impalacnn`` and ``qdagger_dqn_atari_jax_impalacnn``) have residual blocks:
our ``impala_torch`` and ``impala_flax``.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.networks.residual import RESIDUAL_CHANNELS, RESIDUAL_FLAT, RESIDUAL_HIDDEN
from pd_jax.teachers.files import Params, open_regular_file
from pd_jax.teachers.importers.conversion import (
    NATURE_CONVOLUTIONS,
    NATURE_FLAT,
    NATURE_HIDDEN,
    Pair,
    channels_last,
    check_actions,
    check_layers,
    checked_pair,
    describe,
    from_torch,
    layer,
    listed,
    network_params,
)
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

# The largest models of these scripts have some ten megabytes.
_MAX_FILE_BYTES = 2**26
_MAX_ATOMS = 1024
_READABLE = "dqn_atari_jax, dqn_jax, c51_atari_jax, c51_jax, ppo_atari_envpool_xla_jax and qdagger are read"
_READABLE_OF_TORCH = "of its PyTorch scripts dqn, dqn_atari, c51, c51_atari, ppo, ppo_atari and qdagger are read"
_RESIDUAL_LAYERS = ("residual1_conv1", "residual1_conv2", "residual2_conv1", "residual2_conv2")
# The places of layers with weights in the scripts' ``Sequential``; activations and Flatten have the others.
_FRAMES_LAYERS = (0, 2, 4, 7, 9)
_VECTOR_LAYERS = (0, 2, 4)


@dataclasses.dataclass(frozen=True)
class _Model:
    """What every script's file comes down to.

    Attributes:
      algorithm: ``"dqn"``, ``"c51"`` or ``"ppo"``.
      output: what the last layer gives.
      layers: by Flax's names, the last ``Dense`` one being the output.
      arguments: of the script, ``{}`` where the file has none.
      activation: of the hidden dense layers.
      residual: the name of our network with residual blocks, if it is one; ``layers`` are then ours too.
    """

    algorithm: str
    output: Literal["q", "logits"]
    layers: dict[str, Any]
    arguments: dict[str, Any]
    activation: str = "relu"
    residual: str = ""


def convert_tree(tree: dict[str, Any], task: Task, path: Path, sha256: str) -> tuple[Params, TeacherMetadata]:
    """Converts a model of one of CleanRL's JAX scripts.

    Args:
      tree: what its file holds.
      task: that it plays.
      path: of its file.
      sha256: of its file.

    Returns:
      Parameters of our ``dqn`` or ``mlp``, for C51 with a categorical head, and metadata.

    Raises:
      Malformed: it is no such model, or was trained on another game.
    """
    return _converted(_identify(tree), task, path, sha256)


def convert_torch(
    tensors: Mapping[str, np.ndarray], arguments: dict[str, Any], task: Task, path: Path, sha256: str
) -> tuple[Params, TeacherMetadata]:
    """Converts the network of one of CleanRL's PyTorch scripts.

    Args:
      tensors: its parameters and buffers, finite, by name.
      arguments: of the script, ``{}`` where the file has none.
      task: that the agent plays.
      path: of its file.
      sha256: of its file.

    Raises:
      Malformed: it is of another script, or was trained on another game.
    """
    return _converted(_identify_torch(tensors, arguments, task), task, path, sha256)


def _converted(model: _Model, task: Task, path: Path, sha256: str) -> tuple[Params, TeacherMetadata]:
    """What the models of all scripts have in common."""
    _check_game(model.arguments.get("env_id"), task)
    if model.residual:
        return _converted_residual(model, task, path, sha256)
    convolutions, dense = _ordered(model.layers, task)
    support = _support(model.arguments) if model.algorithm == "c51" else ()
    outputs, atoms = len(dense[-1][1]), max(1, len(support))
    if outputs % atoms:
        raise Malformed(f"has {outputs} outputs, which are no number of actions with {atoms} atoms each")
    check_actions(outputs // atoms, task)
    torso = {f"conv{index + 1}": layer(*pair) for index, pair in enumerate(convolutions)}
    torso |= {f"fc{index + 1}": layer(*pair) for index, pair in enumerate(dense[:-1])}
    metadata = describe(
        task,
        library="cleanrl",
        algorithm=model.algorithm,
        output=model.output,
        source_sha256=sha256,
        how_made=f"imported from {path.name!r}, a model of CleanRL",
        hidden_sizes=() if convolutions else [len(bias) for _, bias in dense[:-1]],
        activation=model.activation,
        support=support,
        env_steps=model.arguments.get("total_timesteps"),
        seed=model.arguments.get("seed"),
        settings=model.arguments,
    )
    return network_params(torso, layer(*dense[-1])), metadata


def read_model(path: Path) -> bytes:
    """A file that Flax wrote, whole; raises `Malformed` if it is larger than any model."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_FILE_BYTES:
            raise Malformed(f"has {size:,} bytes, more than any model of CleanRL")
        return file.read()


def _identify(tree: dict[str, Any]) -> _Model:
    keys = tree.keys()
    if keys == {"params"} and "ConvSequence_0" in _layers(tree):
        return _Model("qdagger", "q", _residual_of_flax(_layers(tree)), {}, residual="impala_flax")
    if keys == {"params"}:
        return _Model("dqn", "q", _layers(tree), {})
    if keys == {"model_weights", "args"}:
        return _Model("c51", "q", _layers(tree["model_weights"]), _object(tree["args"], "args"))
    if keys == {"0", "1"}:
        networks = _object(tree["1"], "[1]")
        if not {"0", "1"} <= networks.keys():
            raise Malformed("not a model of CleanRL's PPO: it holds no network and no actor")
        layers, actor = _layers(networks["0"]), _layers(networks["1"])
        if actor.keys() != {"Dense_0"} or "Dense_1" in layers:
            raise Malformed("not a model of CleanRL's PPO: its actor is not one layer after the network")
        return _Model("ppo", "logits", layers | {"Dense_1": actor["Dense_0"]}, _object(tree["0"], "args"))
    raise Malformed(f"not a model of CleanRL: its tree has the branches {listed(tree)}; {_READABLE}")


def _identify_torch(tensors: Mapping[str, np.ndarray], arguments: dict[str, Any], task: Task) -> _Model:
    frames = task.kind == "atari"
    if "network.0.conv.weight" in tensors:
        return _Model("qdagger", "q", _residual_of_torch(tensors), arguments, residual="impala_torch")
    # A buffer of C51's, which its arguments tell too.
    names = {name for name in tensors if not name.startswith("critic.") and name != "atoms"}
    places = _FRAMES_LAYERS if frames else _VECTOR_LAYERS
    layers = tuple(f"network.{place}" for place in places)
    is_ppo = any(name.startswith("actor.") for name in names)
    if is_ppo:
        layers = (*layers[:-1], "actor") if frames else tuple(f"actor.{place}" for place in places)
    if names != {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}:
        shown = ", ".join(repr(name[:40]) for name in sorted(names)[:10])
        raise Malformed(
            f"its layers are not those of a script of CleanRL's for {task.name} ({shown}); {_READABLE_OF_TORCH}"
        )
    pairs = [from_torch(tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]) for layer in layers]
    convolutions = len(NATURE_CONVOLUTIONS) if frames else 0
    labels = [f"Conv_{index}" for index in range(convolutions)]
    labels += [f"Dense_{index}" for index in range(len(pairs) - convolutions)]
    if is_ppo:
        return _Model("ppo", "logits", dict(zip(labels, pairs, strict=True)), arguments, "relu" if frames else "tanh")
    algorithm = "c51" if "atoms" in tensors or arguments else "dqn"
    if algorithm == "c51" and not arguments:
        arguments = _arguments_of_atoms(tensors["atoms"])
    return _Model(algorithm, "q", dict(zip(labels, pairs, strict=True)), arguments)


def _converted_residual(model: _Model, task: Task, path: Path, sha256: str) -> tuple[Params, TeacherMetadata]:
    """A student of QDagger; its convolutions and dense layers have our names."""
    if task.kind != "atari":
        raise Malformed(f"its network sees frames, and {task.name} shows vectors")
    shapes = dict(_residual_shapes())
    for name in model.layers:
        if name not in shapes:
            raise Malformed(f"layer {name[:80]!r} does not belong to the network; {_READABLE}")
    torso: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name not in model.layers:
            raise Malformed(f"layer {name!r} is missing; the network holds {listed(model.layers)}; {_READABLE}")
        kernel, bias = _pair(name, model.layers[name], shape)
        block, _, inner = name.rpartition("/")
        (torso.setdefault(block, {}) if block else torso)[inner] = layer(kernel, bias)
    output = torso.pop("output")
    check_actions(len(output["bias"]), task)
    metadata = describe(
        task,
        library="cleanrl",
        algorithm=model.algorithm,
        output=model.output,
        source_sha256=sha256,
        how_made=f"imported from {path.name!r}, a model of CleanRL",
        network=model.residual,
    )
    return network_params(torso, output), metadata


def _residual_shapes() -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """The layers of the residual torso by our names, and the shapes of their kernels."""
    width = 4
    for index, channels in enumerate(RESIDUAL_CHANNELS):
        yield f"block{index + 1}/conv", (3, 3, width, channels)
        width = channels
        for inner in _RESIDUAL_LAYERS:
            yield f"block{index + 1}/{inner}", (3, 3, width, width)
    yield "fc1", (math.prod(RESIDUAL_FLAT), RESIDUAL_HIDDEN)
    yield "output", (RESIDUAL_HIDDEN, None)


def _residual_of_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Its layers by our names; what has no such name keeps its own, and is refused."""
    names = {f"network.{len(RESIDUAL_CHANNELS) + 2}": "fc1", f"network.{len(RESIDUAL_CHANNELS) + 4}": "output"}
    for index in range(len(RESIDUAL_CHANNELS)):
        names[f"network.{index}.conv"] = f"block{index + 1}/conv"
        for inner, ours in zip(("0.conv0", "0.conv1", "1.conv0", "1.conv1"), _RESIDUAL_LAYERS, strict=True):
            names[f"network.{index}.res_block{inner}"] = f"block{index + 1}/{ours}"
    layers: dict[str, Any] = {}
    for name, array in tensors.items():
        prefix, _, part = name.rpartition(".")
        parts = layers.setdefault(names.get(prefix, name), {})
        if part == "weight" and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif part == "weight" and array.ndim == 2:
            is_first = names.get(prefix) == "fc1" and array.shape[1] == math.prod(RESIDUAL_FLAT)
            array = channels_last(array, RESIDUAL_FLAT) if is_first else array.T
        parts["kernel" if part == "weight" else part] = array
    return layers


def _residual_of_flax(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what Flax named."""
    names = {"Dense_0": "fc1", "Dense_1": "output"}
    layers: dict[str, Any] = {names.get(name, name): value for name, value in tree.items()}
    for index in range(len(RESIDUAL_CHANNELS)):
        block = layers.pop(f"ConvSequence_{index}", None)
        for name, inner in block.items() if isinstance(block, dict) else ():
            if name == "Conv_0":
                layers[f"block{index + 1}/conv"] = inner
            for number in (0, 1):
                if (
                    name == f"ResidualBlock_{number}"
                    and isinstance(inner, dict)
                    and inner.keys() == {"Conv_0", "Conv_1"}
                ):
                    layers[f"block{index + 1}/residual{number + 1}_conv1"] = inner["Conv_0"]
                    layers[f"block{index + 1}/residual{number + 1}_conv2"] = inner["Conv_1"]
    return layers


def _arguments_of_atoms(atoms: np.ndarray) -> dict[str, Any]:
    """The range of values of a C51 network without its script's arguments."""
    if atoms.ndim != 1 or not len(atoms):
        raise Malformed("its atoms are no range of values")
    return {"n_atoms": len(atoms), "v_min": float(atoms[0]), "v_max": float(atoms[-1])}


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"not a model of CleanRL: its {where} is no object")
    return value


def _layers(tree: Any) -> dict[str, Any]:
    return _object(_object(tree, "network").get("params"), "params")


def _check_game(env_id: Any, task: Task) -> None:
    """Raises `Malformed` if the file says that it was trained on another game; most do not say anything."""
    if isinstance(env_id, str) and _spelling(env_id) != _spelling(task.env_id):
        raise Malformed(f"was trained on {env_id[:80]!r}, not on {task.name}")


def _spelling(env_id: str) -> str:
    """What ``"BreakoutNoFrameskip-v4"``, ``"ALE/Breakout-v5"`` and ``"Breakout-v5"`` have in common."""
    return re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", env_id.removeprefix("ALE/")).lower()


def _support(arguments: Mapping[str, Any]) -> tuple[float, ...]:
    """Values of the atoms, as the script spaces them."""
    low: Any = arguments.get("v_min")
    high: Any = arguments.get("v_max")
    atoms: Any = arguments.get("n_atoms")
    if type(atoms) is not int or not 2 <= atoms <= _MAX_ATOMS:
        raise Malformed(f"args: n_atoms is {str(atoms)[:40]!r}, not a whole number from 2 to {_MAX_ATOMS}")
    if not (_is_value(low) and _is_value(high) and low < high):
        raise Malformed("args: v_min and v_max are no range of values")
    return tuple(map(float, np.linspace(low, high, atoms)))


def _is_value(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e9


def _ordered(layers: dict[str, Any], task: Task) -> tuple[list[Pair], list[Pair]]:
    """The convolutions and the dense layers, checked one after the other."""
    frames = task.kind == "atari"
    convolutions = [f"Conv_{index}" for index in range(len(NATURE_CONVOLUTIONS))] if frames else []
    dense = [f"Dense_{index}" for index in range(2 if frames else max(1, len(layers)))]
    check_layers(layers, (*convolutions, *dense), _READABLE)
    # Of vectors there are no convolutions, and so no shapes.
    kernels = [_pair(name, layers[name], shape) for name, shape in zip(convolutions, NATURE_CONVOLUTIONS, strict=False)]
    width = math.prod(NATURE_FLAT) if frames else task.observation_shape[0]
    matrices = []
    for name in dense:
        # Of frames the first dense layer has a fixed width too; the output's is checked against the actions.
        out = NATURE_HIDDEN if frames and name == dense[0] else None
        matrices.append(_pair(name, layers[name], (width, out)))
        width = len(matrices[-1][1])
    return kernels, matrices


def _pair(name: str, value: Any, shape: Sequence[int | None]) -> Pair:
    return checked_pair(name, _object(value, f"layer {name!r}"), shape)
