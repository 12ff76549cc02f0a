"""Agents of Dopamine's JAX side (Castro et al. 2018): DQN, C51, Rainbow and full Rainbow, quantile regression.

A checkpoint, ``checkpoints/ckpt.N`` of an experiment, is a pickle of a dict::

    online_params    {"params": the network's layers}, as Flax names them
    target_params    the same, of the target network
    training_steps   control steps, as its agents count them
    optimizer_state, state, logs, current_iteration

The pickle is read as data (`pd_jax.teachers.importers.pickles`); of what it would make, arrays of NumPy and JAX and
Flax's frozen dicts are known. The layers alone are read as ``flax.serialization.to_bytes`` writes them, too.

==================  ================================================================================================
DQN                 Conv_0, Conv_1, Conv_2, Dense_0 (512), Dense_1 (actions): Q-values
C51, Rainbow        Dense_1 is 51 atoms wide for each action, from -10 to 10, whose mean is the Q-value
quantiles           Dense_1 is 200 quantiles wide for each action; their mean is folded into the layer, which is exact
full Rainbow        NoisyNetwork_0 to 2 or Dense_0 to 2: advantages, then values. The noise is off, as in evaluation;
                    both streams are folded into one layer, which is exact
==================  ================================================================================================

Their convolutions are padded: our ``dqn_same``. Atoms are those of Dopamine's settings, which no checkpoint tells. Nor
does it tell the protocol; with all of these settings for Atari, and by default, it is ``modern``.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.networks.padded import PADDED_FLAT, PADDED_HIDDEN
from pd_jax.teachers.files import Params, open_regular_file
from pd_jax.teachers.importers.conversion import (
    NATURE_CONVOLUTIONS,
    Pair,
    check_actions,
    check_layers,
    checked_pair,
    describe,
    layer,
    listed,
    network_params,
)
from pd_jax.teachers.importers.pickles import Made, Name, PickleMachine, interpret
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

# Full Rainbow for 18 actions has 9 million parameters, with noise twice; target and moments make it four times that.
_MAX_FILE_BYTES = 2**28
# Names that lead to others, the same ones again and again, would be followed for ever.
_MAX_DEPTH = 8
_MAX_ENTRIES = 2000
_ATOMS, _LIMIT = 51, 10.0
_QUANTILES = 200
# Sticky actions, neither no-ops nor FIRE, games over 27,000 control steps. Played otherwise it scores otherwise, and a
# teacher without a protocol would be played by classic ones without a word.
_PLAY = {"protocol": "modern", "sticky_action_probability": 0.25}
_READABLE = "of Dopamine's JAX agents on Atari dqn, c51, rainbow, full_rainbow and quantile are read"
_NOT_OPENED = (
    "is a pickle, which could run anything and is not opened; save weights with PyTorch (torch.save of a "
    "state_dict), Stable-Baselines3 (model.save) or Flax"
)
_DTYPES = {code: np.dtype(f"<{code}") for code in ("f2", "f4", "f8")}


def convert(path: Path, task: Task, is_told: bool = False) -> tuple[Params, TeacherMetadata]:
    """Reads a checkpoint as a teacher of a task.

    Args:
      path: of the checkpoint.
      task: that the agent plays.
      is_told: unused: these agents do not normalise what they see.

    Returns:
      Parameters of our ``dqn_same``, with a categorical head for C51 and Rainbow, and metadata.

    Raises:
      Malformed: it is another pickle, is damaged, or its agent is of a kind that is not read.
    """
    bundle, sha256 = read_checkpoint(path)
    return convert_params(_Tree().plain(bundle["online_params"]), task, path, sha256, bundle)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], str]:
    """What a checkpoint holds, and its SHA-256; of another pickle `Malformed` says that it is not opened."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_FILE_BYTES:
            raise Malformed(f"is a pickle of {size:,} bytes, more than any agent's")
        data = file.read()
    try:
        bundle = interpret(io.BytesIO(data), PickleMachine(), "a checkpoint of Dopamine's")
    except Malformed as problem:
        raise Malformed(f"{_NOT_OPENED} ({problem})") from None
    if not isinstance(bundle, dict) or "online_params" not in bundle:
        raise Malformed(_NOT_OPENED)
    return bundle, hashlib.sha256(data).hexdigest()


def is_dopamine(tree: Mapping[str, Any]) -> bool:
    """Whether the tree of a Flax model is of a network of Dopamine's: its layers are not those of CleanRL's."""
    layers = tree.get("params")
    if not isinstance(layers, dict):
        return False
    dense = layers.get("Dense_0")
    kernel = dense.get("kernel") if isinstance(dense, dict) else None
    is_padded = isinstance(kernel, np.ndarray) and kernel.shape == (math.prod(PADDED_FLAT), PADDED_HIDDEN)
    return "Conv_0" in layers and (is_padded or "NoisyNetwork_0" in layers)


def convert_params(
    tree: Any, task: Task, path: Path, sha256: str, bundle: Mapping[str, Any] | None = None
) -> tuple[Params, TeacherMetadata]:
    """Converts the parameters of an agent.

    Args:
      tree: ``{"params": layers}``.
      task: that the agent plays.
      path: of its file.
      sha256: of its file.
      bundle: what its checkpoint says beside them, if there is one.

    Raises:
      Malformed: they are of another network, do not fit together or the game, or are not finite.
    """
    if task.kind != "atari":
        raise Malformed(f"its network sees frames, and {task.name} shows vectors; {_READABLE}")
    layers = tree.get("params") if isinstance(tree, dict) else None
    if not isinstance(layers, dict):
        raise Malformed(f"is a checkpoint of Dopamine's without layers by name; {_READABLE}")
    pairs, is_dueling = _checked(layers)
    algorithm, output, support = _head(pairs[4:], task, is_dueling)
    torso = {f"conv{index + 1}": layer(*pair) for index, pair in enumerate(pairs[:3])} | {"fc1": layer(*pairs[3])}
    metadata = describe(
        task,
        library="dopamine",
        algorithm=algorithm,
        output="q",
        source_sha256=sha256,
        how_made=f"imported from {path.name!r}, a checkpoint of Dopamine; its protocol is that of Dopamine's settings",
        network="dqn_same",
        support=support,
        env_steps=_whole(bundle.get("training_steps")) if bundle else None,
        settings=_PLAY,
    )
    return network_params(torso, layer(*output)), metadata


def _checked(layers: dict[str, Any]) -> tuple[list[Pair], bool]:
    """Convolutions and dense layers, and whether the last two are advantages and values."""
    kind = "NoisyNetwork" if "NoisyNetwork_0" in layers else "Dense"
    is_dueling = f"{kind}_2" in layers
    convolutions = [f"Conv_{index}" for index in range(len(NATURE_CONVOLUTIONS))]
    dense = [f"{kind}_{index}" for index in range(3 if is_dueling else 2)]
    check_layers(layers, (*convolutions, *dense), _READABLE)
    shapes: list[Sequence[int | None]] = [*NATURE_CONVOLUTIONS, (math.prod(PADDED_FLAT), PADDED_HIDDEN)]
    shapes += [(PADDED_HIDDEN, None)] * (len(dense) - 1)
    named = zip((*convolutions, *dense), shapes, strict=True)
    return [checked_pair(name, _without_noise(name, layers[name]), shape) for name, shape in named], is_dueling


def _without_noise(name: str, found: Any) -> Any:
    """A noisy layer as it is in evaluation, when its noise is off: the means of its weights."""
    if not name.startswith("NoisyNetwork") or not isinstance(found, dict):
        return found
    if found.keys() != {"kernel_mu", "kernel_sigma", "bias_mu", "bias_sigma"}:
        raise Malformed(f"layer {name!r} is not made of means and deviations: {listed(found)}")
    return {"kernel": found["kernel_mu"], "bias": found["bias_mu"]}


def _head(layers: Sequence[Pair], task: Task, is_dueling: bool) -> tuple[str, Pair, tuple[float, ...]]:
    """The algorithm, the one output layer, and values of its atoms."""
    kernel, bias = layers[0]
    outputs = len(bias)
    atoms = next((width for width in (_ATOMS, _QUANTILES) if outputs % width == 0), 1)
    actions = outputs // atoms
    check_actions(actions, task)
    if is_dueling:
        values, value_bias = layers[1]
        if len(value_bias) != atoms or atoms == _QUANTILES:
            raise Malformed(f"has {outputs} advantages and {len(value_bias)} values, which do not fit together")
        kernel, bias = _folded(kernel, values, actions), _folded(bias, value_bias, actions)
    if atoms == _QUANTILES:
        means = kernel.reshape(-1, actions, atoms).mean(axis=2), bias.reshape(actions, atoms).mean(axis=1)
        return "quantile", means, ()
    name = "full-rainbow" if is_dueling else "c51" if atoms > 1 else "dqn"
    support = tuple(map(float, np.linspace(-_LIMIT, _LIMIT, atoms))) if atoms > 1 else ()
    return name, (kernel, bias), support


def _folded(advantages: np.ndarray, values: np.ndarray, actions: int) -> np.ndarray:
    """``value + advantage - mean over actions of the advantages``, which is linear in what comes before."""
    wide = advantages.astype(np.float64).reshape(*advantages.shape[:-1], actions, -1)
    whole = values.astype(np.float64)[..., None, :] + wide - wide.mean(axis=-2, keepdims=True)
    return whole.reshape(advantages.shape)


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


class _Tree:
    """What a pickle would have made of a tree of parameters."""

    def __init__(self) -> None:
        self._entries = 0

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Dicts, frozen or not, with arrays in them; anything else is refused by who needs it."""
        if isinstance(value, Made) and value.function.endswith(".FrozenDict"):
            value = _frozen(value)
        if not isinstance(value, dict):
            return _array(value) if isinstance(value, Made) else value
        self._entries += len(value)
        if depth > _MAX_DEPTH or self._entries > _MAX_ENTRIES:
            raise Malformed("is a checkpoint of Dopamine's with more names than any network's layers")
        if not all(isinstance(name, str) and name.isprintable() for name in value):
            raise Malformed("is a checkpoint of Dopamine's with a layer without a proper name")
        return {name: self.plain(item, depth + 1) for name, item in value.items()}


def _frozen(value: Made) -> Any:
    """What a frozen dict was made of: its only argument, or in old versions its state."""
    if isinstance(value.arguments, tuple) and len(value.arguments) == 1:
        return value.arguments[0]
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:
        state = state[1]
    return state.get("_dict") if isinstance(state, dict) else None


def _array(made: Made) -> np.ndarray:
    """An array of NumPy or JAX: JAX notes what NumPy would be called with, which is called here with nothing.

    NumPy's ``_reconstruct`` makes an empty array that gets ``(version, shape, dtype, in columns, bytes)`` as its state;
    since protocol 5 ``_frombuffer`` takes bytes, dtype, shape and order.
    """
    function, arguments, state = made.function, made.arguments, made.state
    if function.endswith(("_reconstruct_array", "reconstruct_device_array")) and _is_tuple(arguments, 3, 4):
        function = arguments[0].path if isinstance(arguments[0], Name) else ""
        state, arguments = arguments[2], arguments[1]
    if function.endswith(".multiarray._reconstruct") and _is_tuple(state, 5):
        _, shape, dtype, is_in_columns, content = state
    elif function.endswith("numeric._frombuffer") and _is_tuple(arguments, 4, 5) and arguments[3] in ("C", "F"):
        content, dtype, shape, order = arguments[:4]
        is_in_columns = order == "F"
    else:
        what = f", {function[:60]}" if function[:60].isprintable() and function else ""
        raise Malformed(f"is a checkpoint of Dopamine's with something else than an array among its weights{what}")
    numbers = _DTYPES.get(_code(dtype))
    if numbers is None:
        _refuse("an array of no floats, or of another machine's")
    if not isinstance(content, bytes | bytearray):
        _refuse("an array that an old version of pickle wrote")
    if not isinstance(shape, tuple) or len(shape) > 4 or not all(type(size) is int and size >= 0 for size in shape):
        _refuse("an array of an impossible shape")
    if math.prod(shape) * numbers.itemsize != len(content):
        _refuse("an array without the numbers that its shape announces")
    return np.frombuffer(content, numbers).reshape(shape, order="F" if is_in_columns else "C")


def _code(dtype: Any) -> str:
    """Such as ``f4``; "" for what is no number's, or has its bytes in the other order."""
    if not isinstance(dtype, Made) or dtype.function != "numpy.dtype" or not isinstance(dtype.arguments, tuple):
        return ""
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    return str(dtype.arguments[0]) if dtype.arguments and order in ("<", "=") else ""


def _is_tuple(value: Any, *lengths: int) -> bool:
    return isinstance(value, tuple) and len(value) in lengths


def _refuse(what: str) -> NoReturn:
    raise Malformed(f"is a checkpoint of Dopamine's with {what} among its weights")
