"""A policy's network as a plain list of layers with NumPy weights: what files for other programs are written from.

Formats that have no tracing write these layers in their own words; `pd_jax.deploy.onnx_file` is the first of them.
Scaling of frames and the choice of one game's head are done here, so no format has to know of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.deploy.policy import StudentPolicy
from pd_jax.environments.tasks import ATARI_FRAME_SHAPE, Task
from pd_jax.errors import UserError
from pd_jax.networks.bits import factors_of_bits
from pd_jax.networks.continuous import ContinuousHead
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.heads import CategoricalHead, DeepHead, MultiGameHead, SingleHead
from pd_jax.networks.joint import GameNetwork
from pd_jax.networks.memory import Memory, state_size
from pd_jax.networks.mixed import JointTorso, extra_offset
from pd_jax.networks.padded import PaddedTorso, same_margin
from pd_jax.networks.partition import PartitionedTorso
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.networks.residual import RESIDUAL_CHANNELS, ResidualTorso
from pd_jax.networks.torsos import AtariTorso, MLPTorso
from pd_jax.teachers import Teacher

NORM_EPSILON = 1e-6
"""Added to the variance by every LayerNorm, as Flax's does by default."""


@dataclasses.dataclass(frozen=True)
class Normalise:
    """``((x - mean) - mean_rest) / deviation``, between ``-clip`` and ``clip``; float32 ``[D]`` or ``[1]`` each."""

    mean: np.ndarray
    mean_rest: np.ndarray
    deviation: np.ndarray
    clip: float | None


@dataclasses.dataclass(frozen=True)
class Bits:
    """The bits of bytes that come as ``x / 255``: of each, its highest first, ``factors`` or ``-factors``.

    ``factors`` is float32 ``[D]``; ``[N, D]`` becomes ``[N, 8 D]``.
    """

    factors: np.ndarray


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A 2-D convolution: ``kernel`` ``[size, size, in, out]``, ``bias`` ``[out]``.

    ``padding`` is the number of zeros before and after, in either direction. ``input_range`` is as `Dense` has it.
    """

    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    input_range: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Maxima of 3x3 windows at every second place; ``before`` says how far before the first place they may begin."""

    before: int
    size: int = 3
    stride: int = 2


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """Normalisation over the features, ``[features]`` each; :data:`NORM_EPSILON` is added to the variance."""

    scale: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True)
class Activation:
    """One of `pd_jax.networks.torsos.ACTIVATIONS`."""

    name: str


@dataclasses.dataclass(frozen=True)
class Flatten:
    """``[N, H, W, C]`` to ``[N, H * W * C]``."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """``x @ kernel + bias``: ``[in, out]`` and ``[out]``.

    ``input_range`` is the largest absolute value of ``x`` that integers can say, float32 ``[]``, or ``[in]`` where each
    feature has its own; None where it is not known, or where ``x`` are bytes.
    """

    kernel: np.ndarray
    bias: np.ndarray
    input_range: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """One step of a recurrent layer, see `pd_jax.networks.memory`; the state goes in and out beside it.

    Attributes:
      kind: ``gru`` or ``lstm``.
      kernel, bias: of the inputs, ``[in, k H]`` and ``[k H]``.
      recurrent: of the state, ``[H, k H]``.
      recurrent_bias: of a GRU's candidate, ``[H]``; zeros of an LSTM.
    """

    kind: str
    kernel: np.ndarray
    bias: np.ndarray
    recurrent: np.ndarray
    recurrent_bias: np.ndarray

    @property
    def size(self) -> int:
        """H, the units."""
        return len(self.recurrent)

    @property
    def state_size(self) -> int:
        """Numbers in the state of one lane."""
        return state_size(self.kind, self.size)


@dataclasses.dataclass(frozen=True)
class Beside:
    """Layers over the last actions, which the state holds, and a dense layer over what comes and what these give.

    Attributes:
      layers: over the numbers of the last actions, ``[N, size]``.
      size: of them.
      kernel: of what comes, ``[in, out]``.
      beside_kernel: of what the layers give, ``[features, out]``.
      bias: ``[out]``.
    """

    layers: tuple[Layer, ...]
    size: int
    kernel: np.ndarray
    beside_kernel: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True)
class Residual:
    """What these layers make of ``x``, added to ``x``."""

    layers: tuple[Layer, ...]


@dataclasses.dataclass(frozen=True)
class Expectation:
    """``[N, actions * atoms]`` logits to the mean of each action's distribution over the ``support``, ``[atoms]``."""

    support: np.ndarray


Layer = (
    Bits
    | Normalise
    | Convolution
    | MaxPool
    | LayerNorm
    | Activation
    | Flatten
    | Dense
    | Recurrent
    | Beside
    | Residual
    | Expectation
)
RELU = Activation("relu")


def layers_of(policy: GreedyPolicy) -> tuple[Layer, ...]:
    """The layers of a teacher or a student, from its observations as they come to outputs ``[N, actions]``.

    Frames are uint8 ``[N, 84, 84, 4]``, to be taken as the numbers 0 to 255: the scaling to 1 is in the first kernel.
    Of a student of several games these are the layers of the one that the policy plays. A student that was trained with
    fake quantisation has ranges of the inputs of its layers, ``input_range`` among a layer's parameters.

    Args:
      policy: one that plays a single game.

    Raises:
      UserError: its network has parts that are no such layers: a function's, a user's own torso, bfloat16.
    """
    network, game = _network_of(policy)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), policy.variables["params"])
    torsos = (network.torso.frames, network.torso.vector) if isinstance(network.torso, JointTorso) else ()
    for part in (network.torso, *torsos, network.memory, network.head):
        # Their dtype is that of the arithmetic.
        dtype = getattr(part, "dtype", jnp.float32)
        if dtype != jnp.float32:
            raise _refused(policy, f"computes in {jnp.dtype(dtype).name}, and such a file has float32 alone")
    if isinstance(network.torso, JointTorso):
        joint = _joint(policy, network.torso, params["torso"], game)
        return (*joint, *_memory(network.memory, params), *_head(policy, network.head, params["head"], game))
    torso = (*_torso(policy, network.torso, params.get("torso", {})), *_memory(network.memory, params))
    return _narrowed([*torso, *_head(policy, network.head, params["head"], game)], policy.task)


def _narrowed(layers: Sequence[Layer], task: Task) -> tuple[Layer, ...]:
    """The same layers for the game's own vectors, which may be shorter than the longest of several games'.

    The network sees zeros in the place of the rest, so what the first kernel has for them changes nothing.
    """
    if task.kind != "vector":
        return tuple(layers)
    (length,) = task.observation_shape
    if any(isinstance(layer, Bits) for layer in layers):
        # All of them see the same memory.
        return tuple(layers)
    first = next(index for index, layer in enumerate(layers) if isinstance(layer, Dense | Recurrent))
    dense: Any = layers[first]
    if isinstance(dense, Recurrent):
        narrow = dataclasses.replace(dense, kernel=dense.kernel[:length])
        return (*layers[:first], narrow, *layers[first + 1 :])
    known = dense.input_range
    dense = Dense(dense.kernel[:length], dense.bias, known[:length] if np.ndim(known) else known)
    return (*layers[:first], dense, *layers[first + 1 :])


def _refused(policy: GreedyPolicy, why: str) -> UserError:
    return UserError(f"{policy.name}: {why}; stablehlo takes it")


def _network_of(policy: GreedyPolicy) -> tuple[PolicyNetwork | MultiGameNetwork, int]:
    """The network, and the place of the policy's game among its heads."""
    network: Any = policy.trained.student.network if isinstance(policy, StudentPolicy) else None
    game = policy.trained.names.index(policy.task.name) if isinstance(policy, StudentPolicy) else 0
    if isinstance(policy, Teacher):
        network = policy.network
        if isinstance(network, GameNetwork):
            network, game = network.apply.student.network, network.apply.game
    if not isinstance(network, PolicyNetwork | MultiGameNetwork):
        raise _refused(policy, "is a function, not a network of known layers")
    return network, game


def _torso(policy: GreedyPolicy, torso: Any, params: Mapping[str, Any]) -> tuple[Layer, ...]:
    task = policy.task
    if type(torso) in (AtariTorso, PartitionedTorso):
        return _atari(params, torso.layer_norm)
    if type(torso) is PaddedTorso:
        return _atari(params, layer_norm=False, padded=True)
    if type(torso) is ResidualTorso:
        return _residual(params, torso.pooling)
    if type(torso) is MLPTorso:
        return _mlp(torso, params, task)
    raise _refused(policy, f"its torso {type(torso).__name__!r} is none of known layers")


def _joint(policy: GreedyPolicy, torso: JointTorso, params: Mapping[str, Any], game: int) -> tuple[Layer, ...]:
    """The torso that a game has of several, and the layer that joins it with what is beside."""
    layout = torso.layouts[game]
    name = "frames" if layout.is_frames else "vector"
    own = _torso(policy, getattr(torso, name), params.get(name, {}))
    own = own if layout.is_frames else _narrowed(own, policy.task)
    kernel, bias = params[f"joint_{name}"]["kernel"], params["bias"]
    if not layout.extra:
        return (*own, Dense(kernel, bias), RELU)
    assert isinstance(torso.extra, MLPTorso)
    beside = _mlp(torso.extra, params["extra"], policy.task)
    first: Any = beside[0]
    # Of what all games have beside, this game's own.
    start = extra_offset(torso.layouts, game)
    first = Dense(first.kernel[start : start + layout.extra], first.bias)
    joint = Beside((first, *beside[1:]), layout.extra, kernel, params["joint_extra"]["kernel"], bias)
    return (*own, joint, RELU)


def _memory(memory: Memory | None, params: Mapping[str, Any]) -> tuple[Layer, ...]:
    if memory is None:
        return ()
    entering, recurrent = params["memory"]["input"], params["memory"]["recurrent"]
    bias = recurrent.get("bias", np.zeros(memory.size, np.float32))
    return (Recurrent(memory.kind, entering["kernel"], entering["bias"], recurrent["kernel"], bias),)


def _atari(params: Mapping[str, Any], layer_norm: bool, padded: bool = False) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    places = ATARI_FRAME_SHAPE[0]
    for index, stride in enumerate((4, 2, 1), start=1):
        convolution = params[f"conv{index}"]
        # As the network itself does, in float32.
        scale = np.float32(1.0 / 255.0 if index == 1 else 1.0)
        kernel = convolution["kernel"] * scale
        padding = same_margin(places, len(kernel), stride) if padded else (0, 0)
        layers.append(Convolution(kernel, convolution["bias"], stride, padding, convolution.get("input_range")))
        places = -(-places // stride)
        layers += [*_norm(params, f"norm{index}", layer_norm), RELU]
    return (*layers, Flatten(), _dense(params["fc1"]), *_norm(params, "norm4", layer_norm), RELU)


def _residual(params: Mapping[str, Any], pooling: str) -> tuple[Layer, ...]:
    def convolution(block: Mapping[str, Any], name: str, scale: float = 1.0) -> Layer:
        return Convolution(block[name]["kernel"] * np.float32(scale), block[name]["bias"], padding=(1, 1))

    layers: list[Layer] = []
    size = ATARI_FRAME_SHAPE[0]
    for index in range(len(RESIDUAL_CHANNELS)):
        block = params[f"block{index + 1}"]
        layers.append(convolution(block, "conv", 1.0 / 255.0 if index == 0 else 1.0))
        layers.append(MaxPool(before=1 if pooling == "torch" or size % 2 else 0))
        for name in ("residual1", "residual2"):
            inner = (RELU, convolution(block, f"{name}_conv1"), RELU, convolution(block, f"{name}_conv2"))
            layers.append(Residual(inner))
        size = -(-size // 2)
    return (*layers, RELU, Flatten(), _dense(params["fc1"]), RELU)


def _mlp(torso: MLPTorso, params: Mapping[str, Any], task: Task) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    if torso.bits:
        (size,) = task.observation_shape
        known = torso.normalisation
        layers.append(Bits(np.ones(size, np.float32) if known is None else factors_of_bits(known, size)))
    elif torso.normalisation is not None:
        known = torso.normalisation
        mean = np.asarray(known.mean, np.float64)
        high = mean.astype(np.float32)
        deviation = np.sqrt(np.asarray(known.variance, np.float64) + known.epsilon).astype(np.float32)
        layers.append(Normalise(high, (mean - high).astype(np.float32), deviation, known.clip))
    for index in range(len(torso.hidden_sizes)):
        norm = _norm(params, f"norm{index + 1}", torso.layer_norm)
        layers += [_dense(params[f"fc{index + 1}"]), *norm, Activation(torso.activation)]
    return tuple(layers)


def _head(policy: GreedyPolicy, head: Any, params: Mapping[str, Any], game: int) -> tuple[Layer, ...]:
    if type(head) is MultiGameHead:
        # Ranges are one for all games.
        own = {
            name: {key: leaf[game] if leaf.ndim else leaf for key, leaf in params[name].items()}
            for name in ("fc2", "norm")
            if name in params
        }
        return (*_hidden(own, head.hidden, head.layer_norm), _dense(params[f"output{game}"]))
    if type(head) is ContinuousHead and head.log_std_bounds is None and not head.low:
        return (_dense(params["output"]),)
    if type(head) is SingleHead:
        return (*_hidden(params, head.hidden, head.layer_norm), _dense(params["output"]))
    if type(head) is DeepHead:
        hidden = [(_dense(params[f"fc{i + 2}"]), Activation(head.activation)) for i in range(len(head.hidden_sizes))]
        return (*(layer for pair in hidden for layer in pair), _dense(params["output"]))
    if type(head) is CategoricalHead:
        return (_dense(params["output"]), Expectation(np.asarray(head.support, np.float32)))
    raise _refused(policy, f"its head {type(head).__name__!r} is none of known layers")


def _hidden(params: Mapping[str, Any], units: int, layer_norm: bool) -> tuple[Layer, ...]:
    return (_dense(params["fc2"]), *_norm(params, "norm", layer_norm), RELU) if units else ()


def _dense(params: Mapping[str, Any]) -> Dense:
    return Dense(params["kernel"], params["bias"], params.get("input_range"))


def _norm(params: Mapping[str, Any], name: str, layer_norm: bool) -> tuple[Layer, ...]:
    return (LayerNorm(params[name]["scale"], params[name]["bias"]),) if layer_norm else ()
