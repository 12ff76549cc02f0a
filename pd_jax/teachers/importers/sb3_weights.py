"""The weights of a Stable-Baselines3 policy: from ``policy.pth`` to our layout."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.teachers.files import Params
from pd_jax.teachers.formats import TORCH_BEFORE_1_6
from pd_jax.teachers.importers import archives
from pd_jax.teachers.importers.conversion import (
    NATURE_CONVOLUTIONS,
    NATURE_FLAT,
    check_actions,
    check_finite,
    layer,
    network_params,
)
from pd_jax.teachers.importers.torch_files import read_torch
from pd_jax.teachers.metadata import Malformed

_FLAT_SIZE = math.prod(NATURE_FLAT)
_MAX_WIDTH = 2**16
# Where a policy keeps its features extractor and the layers after it; the last two are the output layer of
# actor-critics, and what else it may hold: target networks, and a critic.
_EXTRACTORS = {
    "dqn": ("q_net.features_extractor.",),
    "qrdqn": ("quantile_net.features_extractor.",),
    # Extractors of its own for actor and critic came with SB3 1.7; before, and if shared, they are the same.
    "ppo": ("pi_features_extractor.", "features_extractor."),
}
_LAYERS = {
    "dqn": ("q_net.q_net.",),
    "qrdqn": ("quantile_net.quantile_net.",),
    # Before SB3 1.8 the first layers could be shared by actor and critic.
    "ppo": ("mlp_extractor.shared_net.", "mlp_extractor.policy_net."),
}
_OTHERS = {
    "dqn": ("q_net_target.",),
    "qrdqn": ("quantile_net_target.",),
    "ppo": ("vf_features_extractor.", "features_extractor.", "mlp_extractor.value_net.", "value_net."),
}
_ACTION_NET = "action_net."

Tensors = Mapping[str, np.ndarray]


def load_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Reads ``policy.pth`` with PyTorch's ``weights_only`` loader: no code in it is run.

    Returns:
      Finite float arrays by name.

    Raises:
      Malformed: it is damaged, or holds anything but dense tensors of floats by name.
      UserError: PyTorch is not installed.
    """
    if data.startswith(TORCH_BEFORE_1_6):
        return _load_old(data)
    try:
        import torch
    except ImportError:
        raise UserError("archives of Stable-Baselines3 are read with PyTorch: pip install 'pd-jax[sb3]'") from None
    # It is an archive itself, whose sizes are known before it is read.
    try:
        archives.check_archive(io.BytesIO(data))
    except Malformed as problem:
        raise Malformed(f"policy.pth: {problem}") from None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Malformed("policy.pth holds something else than weights, which was not run; refused") from None
    # PyTorch raises what it comes across; nothing of a stranger's file may end in a traceback.
    except Exception as error:
        raise Malformed(f"policy.pth is damaged ({type(error).__name__})") from None
    if not isinstance(state, dict) or not state:
        raise Malformed("policy.pth holds no tensors by name")
    return {_checked_name(name): _array(name, tensor, torch) for name, tensor in state.items()}


def _load_old(data: bytes) -> dict[str, np.ndarray]:
    """The format before PyTorch 1.6, by our own reader: PyTorch's allocates whatever it announces."""
    try:
        state = read_torch(data)
    except Malformed as problem:
        raise Malformed(f"policy.pth: {problem}") from None
    if not isinstance(state, dict) or not state:
        raise Malformed("policy.pth holds no tensors by name")
    for name, array in state.items():
        _checked_name(name)
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise Malformed(f"policy.pth: {name!r} is not a dense tensor of floats")
        check_finite(name, array)
    return state


def convert_weights(tensors: Tensors, algorithm: str, task: Task) -> tuple[Params, tuple[int, ...], int]:
    """Converts the policy's part of the tensors.

    Args:
      tensors: of ``policy.pth``, by name.
      algorithm: ``"dqn"``, ``"qrdqn"`` or the name of an actor-critic.
      task: what it plays.

    Returns:
      The parameters of our network, the widths of its hidden layers, of frames of those after the NatureCNN, and the
      number of features that the latter gives.

    Raises:
      Malformed: a tensor is missing, is one too many or has another shape.
    """
    key = algorithm if algorithm in _LAYERS else "ppo"
    read = Reader(tensors)
    torso: dict[str, Params] = {}
    width = task.observation_shape[0]
    if task.kind == "atari":
        prefixes = [prefix for prefix in _EXTRACTORS[key] if read.has(prefix)]
        torso = _nature(read, (prefixes or _EXTRACTORS[key])[0])
        width = len(torso["fc1"]["bias"])
    features = width
    layers = [pair for prefix in _LAYERS[key] for pair in read.sequence(prefix)]
    if key == "ppo":
        layers.append(read.pair(_ACTION_NET))
    read.check_nothing_else(_OTHERS[key])
    if not layers:
        raise Malformed(f"tensor '{_LAYERS[key][0]}0.weight' is missing")
    for weight, _ in layers:
        if weight.shape[1] != width:
            raise Malformed(f"a layer takes {weight.shape[1]} numbers where the one before it gives {width}")
        width = weight.shape[0]
    *hidden, output = layers
    dense = [layer(weight.T, bias) for weight, bias in hidden]
    if task.kind != "atari":
        torso, dense = {f"fc{index + 1}": params for index, params in enumerate(dense)}, []
    if key == "qrdqn":
        output = _mean_over_quantiles(*output, task)
    check_actions(len(output[1]), task)
    params = network_params(torso, layer(output[0].T, output[1]), dense)
    return params, tuple(len(bias) for _, bias in hidden), features


def _nature(read: Reader, prefix: str) -> dict[str, Params]:
    """NatureCNN: kernels OIHW to HWIO, and the dense layer's inputs from channels first to channels last."""
    torso = {}
    for index, shape in enumerate(NATURE_CONVOLUTIONS):
        height, width, channels, features = shape
        weight, bias = read.pair(f"{prefix}cnn.{2 * index}.", (features, channels, height, width))
        torso[f"conv{index + 1}"] = layer(weight.transpose(2, 3, 1, 0), bias)
    weight, bias = read.pair(f"{prefix}linear.0.")
    if weight.shape[1] != _FLAT_SIZE:
        raise Malformed(
            f"tensor '{prefix}linear.0.weight' has shape {weight.shape}, the network needs {_FLAT_SIZE} inputs"
        )
    height, width, channels = NATURE_FLAT
    kernel = weight.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    torso["fc1"] = layer(kernel.reshape(_FLAT_SIZE, -1), bias)
    return torso


def _mean_over_quantiles(weight: np.ndarray, bias: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The layer whose outputs are the means of ``[quantiles, actions]`` outputs: a mean of linear maps is one."""
    if len(bias) % task.num_actions:
        raise Malformed(f"has {len(bias)} outputs, which are no number of quantiles of {task.num_actions} actions")
    quantiles = weight.astype(np.float64).reshape(-1, task.num_actions, weight.shape[1])
    return quantiles.mean(axis=0), bias.astype(np.float64).reshape(-1, task.num_actions).mean(axis=0)


class Reader:
    """Hands out tensors, and knows which were never asked for.

    Args:
      tensors: finite floats by name.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def has(self, prefix: str) -> bool:
        """Whether there are tensors whose names begin so."""
        return any(name.startswith(prefix) for name in self._tensors)

    def pair(self, prefix: str, shape: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias below a prefix; the weight of ``shape``, or of any two dimensions."""
        for name in (f"{prefix}weight", f"{prefix}bias"):
            if name not in self._tensors:
                raise Malformed(f"tensor {name!r} is missing")
            self._used.add(name)
        weight, bias = self._tensors[f"{prefix}weight"], self._tensors[f"{prefix}bias"]
        if shape is not None and weight.shape != shape:
            raise Malformed(f"tensor '{prefix}weight' has shape {weight.shape}, the network needs {shape}")
        if shape is None and (weight.ndim != 2 or not 0 < min(weight.shape) <= max(weight.shape) <= _MAX_WIDTH):
            raise Malformed(f"tensor '{prefix}weight' has shape {weight.shape}, which is no layer's")
        if bias.shape != weight.shape[:1]:
            raise Malformed(f"tensor '{prefix}bias' has shape {bias.shape}, the network needs {weight.shape[:1]}")
        return weight, bias

    def array(self, name: str) -> np.ndarray:
        """One tensor of any shape."""
        if name not in self._tensors:
            raise Malformed(f"tensor {name!r} is missing")
        self._used.add(name)
        return self._tensors[name]

    def vector(self, name: str) -> np.ndarray:
        """One tensor of one dimension."""
        array = self.array(name)
        if array.ndim != 1 or not 0 < array.size <= _MAX_WIDTH:
            raise Malformed(f"tensor {name!r} has shape {array.shape}, which is no vector")
        return array

    def number(self, name: str) -> float:
        """One tensor of a single number."""
        array = self.array(name)
        if array.size != 1:
            raise Malformed(f"tensor {name!r} has shape {array.shape}, which is no number")
        return float(array.reshape(()))

    def sequence(self, prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """The linear layers of a ``torch.nn.Sequential`` in which every second module is an activation."""
        pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.(?:weight|bias)")
        found = sorted({int(match.group(1)) for match in map(pattern.fullmatch, self._tensors) if match})
        if found != list(range(0, 2 * len(found), 2)):
            raise Malformed(f"{prefix}* has layers at {_listed(found)}; linear layers and activations alternate")
        return [self.pair(f"{prefix}{index}.") for index in found]

    def check_nothing_else(self, prefixes: Sequence[str]) -> None:
        """Raises a Malformed if a tensor was never asked for, whose name begins with none of these."""
        for name in self._tensors:
            if name not in self._used and not name.startswith(tuple(prefixes)):
                raise Malformed(f"tensor {name!r} {self._tensors[name].shape} does not belong to such a policy")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10]))


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > 200 or not name.isprintable():
        raise Malformed("policy.pth holds a tensor without a proper name")
    return name


def _array(name: str, tensor: Any, torch: Any) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or not tensor.dtype.is_floating_point:
        raise Malformed(f"policy.pth: {name!r} is not a dense tensor of floats")
    # A stride of 0 lets a few bytes pass for any shape.
    if tensor.device.type != "cpu" or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Malformed(f"policy.pth: {name!r} does not hold the numbers that its shape announces")
    array: np.ndarray = tensor.detach().to(torch.float32).numpy()
    check_finite(name, array)
    return array
