"""A policy's layers as an ONNX model: a few common operations of opset 17, which every later one has as well.

Integers are written as ``QuantizeLinear`` and ``DequantizeLinear`` around ``Conv`` and ``Gemm``, from which ONNX
Runtime makes its integer kernels. No ReLU stands before units that begin at 0: rounding to them is one.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from pd_jax.deploy.layers import (
    NORM_EPSILON,
    Activation,
    Beside,
    Bits,
    Convolution,
    Dense,
    Expectation,
    Flatten,
    Layer,
    LayerNorm,
    MaxPool,
    Normalise,
    Recurrent,
    Residual,
)
from pd_jax.deploy.quantised import Integers, Quantise, QuantisedNetwork
from pd_jax.deploy.runtime import METADATA_KEY, seal
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.continuous import action_range
from pd_jax.version import __version__


def check_available() -> None:
    """Raises a UserError unless the packages of the format are installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"format: onnx needs {package}, which is not installed: pip install 'pd-jax[export]'")


def onnx_bytes(
    network: Sequence[Layer] | QuantisedNetwork, task: Task, metadata: dict[str, Any], opset: int = 17
) -> bytes:
    """An ONNX file: ``observations`` in, ``outputs`` float32 ``[N, actions]`` and greedy ``actions`` int64 ``[N]`` out.

    Of a continuous task ``outputs`` are ``[N, 2 D]`` of a Gaussian policy and ``[N, D]`` of another, and ``actions``
    float32 ``[N, D]``: those without noise, within the range.

    Of a policy with memory, or one that sees its last actions, ``state`` float32 ``[N, state]`` goes in as well, and
    ``next_state`` comes out, in which ``actions`` have been played.

    Args:
      network: the policy's layers, see `pd_jax.deploy.layers.layers_of`; or the same in integers.
      task: what it plays.
      metadata: goes into the file as JSON.
      opset: 17 to 21.

    Returns:
      the bytes, which `pd_jax.deploy.runtime.Policy.load` takes as a file. Equal arguments give equal bytes.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(task.frame_shape)
    if not isinstance(network, QuantisedNetwork):
        graph.take_state(network)
    # Frames are units as they are.
    if task.kind == "atari" and not isinstance(network, QuantisedNetwork):
        graph.add("Cast", to=TensorProto.FLOAT)
        graph.to_channels_first()
    for layer in network.steps if isinstance(network, QuantisedNetwork) else network:
        graph.write(layer)
    graph.rename_last("outputs")
    if task.is_continuous:
        graph.choose_actions(task)
        width, actions = graph.num_outputs, (TensorProto.FLOAT, ["N", task.num_actions])
    else:
        graph.nodes.append(helper.make_node("ArgMax", ["outputs"], ["actions"], axis=1, keepdims=0))
        width, actions = task.num_actions, (TensorProto.INT64, ["N"])
    graph.give_state(task)
    element = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[task.observation_dtype]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            task.name,
            [
                helper.make_tensor_value_info("observations", element, ["N", *task.observation_shape]),
                *(helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", size]) for size in graph.state_sizes),
            ],
            [
                helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", width]),
                helper.make_tensor_value_info("actions", *actions),
                *(
                    helper.make_tensor_value_info("next_state", TensorProto.FLOAT, ["N", size])
                    for size in graph.state_sizes
                ),
            ],
            graph.weights,
        ),
        producer_name="pd_jax",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
    )
    helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, allow_nan=False, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return seal(model.SerializeToString(deterministic=True))


def _zero(is_signed: bool) -> int:
    """What stands for 0 in bytes. Units below 0 are bytes too: of int8 ONNX Runtime's products are ten times slower."""
    return 128 if is_signed else 0


class _Graph:
    """Nodes one after another, each taking what the one before made.

    Images go through with channels in front, as ONNX has them. Where features are normalised they are turned for that.
    """

    def __init__(self, frame_shape: tuple[int, ...]) -> None:
        self._frame_shape: Any = frame_shape
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.current = "observations"
        # Height and width of images with channels in front, None for anything else.
        self._image: tuple[int, int] | None = None
        # Of the last dense layer.
        self._outputs = 0
        # Whether what comes is bytes that stand for other numbers.
        self._is_units = False
        # How long the parts of the state are, of a network that has one: its memory, and its last actions.
        self._memory_size, self._recent_size = 0, 0
        self._memory, self._recent, self._next_memory = "state", "state", ""

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """How long the state is; empty of a network without."""
        size = self._memory_size + self._recent_size
        return (size,) if size else ()

    def take_state(self, layers: Sequence[Layer]) -> None:
        """Parts the state into that of the memory and the last actions, if the layers have both."""
        self._memory_size = sum(layer.state_size for layer in layers if isinstance(layer, Recurrent))
        self._recent_size = sum(layer.size for layer in layers if isinstance(layer, Beside))
        if self._memory_size and self._recent_size:
            self._memory, self._recent = self._split("state", [self._memory_size, self._recent_size])

    def give_state(self, task: Task) -> None:
        """The next state, in which the actions have been played; nothing of a network without last actions."""
        if not self._recent_size:
            return
        if task.is_continuous:
            low, high = action_range(task)
            newest = self._node("Sub", "actions", self.weight((high + low) / 2))
            newest = self._node("Div", newest, self.weight((high - low) / 2))
        else:
            depth, values = self.weight(task.num_actions, np.int64), self.weight([0.0, 1.0])
            newest = self._node("OneHot", "actions", depth, values, axis=-1)
        kept = [self._next_memory] if self._memory_size else []
        older = self._recent_size - task.num_actions
        rest = [self._split(self._recent, [older, task.num_actions])[0]] if older else []
        self._node("Concat", *kept, newest, *rest, axis=1)
        self.nodes[-1].output[0] = "next_state"

    def rename_last(self, name: str) -> None:
        """Gives what the last operation made another name."""
        self.nodes[-1].output[0] = self.current = name

    @property
    def num_outputs(self) -> int:
        """Of the last dense layer."""
        return self._outputs

    def choose_actions(self, task: Task) -> None:
        """The actions of a continuous task without noise, as `pd_jax.networks.continuous.mean_actions` makes them."""
        low, high = action_range(task)
        is_gaussian = self._outputs > task.num_actions
        if is_gaussian:
            self.current, _ = self._split("outputs", [task.num_actions] * 2)
        if is_gaussian and task.squashed:
            self.add("Tanh")
            self.add("Mul", self.weight((high - low) / 2))
            self.add("Add", self.weight((high + low) / 2))
        self.add("Max", self.weight(low))
        self.add("Min", self.weight(high))
        self.rename_last("actions")

    def add(self, operation: str, *inputs: str, **attributes: Any) -> None:
        """An operation on the current tensor and others."""
        self.current = self._node(operation, self.current, *inputs, **attributes)

    def _node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """The name of what an operation makes."""
        from onnx import helper

        name = f"{operation.lower()}{len(self.nodes) + 1}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def weight(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant tensor."""
        from onnx import numpy_helper

        name = f"weight{len(self.weights) + 1}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def to_channels_first(self) -> None:
        """Turns frames ``[N, H, W, n]`` as ONNX's convolutions want them."""
        self.add("Transpose", perm=[0, 3, 1, 2])
        self._image = self._frame_shape

    @functools.singledispatchmethod
    def write(self, layer: Any) -> None:
        """Adds a layer."""
        raise TypeError(f"{type(layer).__name__} is no layer")

    @write.register
    def _(self, layer: Convolution) -> None:
        kernel, bias = self.weight(layer.kernel.transpose(3, 2, 0, 1)), self.weight(layer.bias)
        self._convolve(kernel, bias, layer.kernel.shape[:2], (layer.stride, layer.stride), layer.padding)

    @write.register
    def _(self, layer: MaxPool) -> None:
        assert self._image is not None
        height, width = (-(-length // layer.stride) for length in self._image)
        # Windows reach as far past the end as the last place needs.
        after = [
            max(0, (places - 1) * layer.stride + layer.size - length - layer.before)
            for places, length in zip((height, width), self._image, strict=True)
        ]
        pads = [layer.before, layer.before, *after]
        self.add("MaxPool", kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2, pads=pads)
        self._image = (height, width)

    @write.register
    def _(self, layer: Residual) -> None:
        before = self.current
        for inner in layer.layers:
            self.write(inner)
        self.add("Add", before)

    @write.register
    def _(self, layer: LayerNorm) -> None:
        image = self._image is not None
        if image:
            self.add("Transpose", perm=[0, 2, 3, 1])
        scale, bias = self.weight(layer.scale), self.weight(layer.bias)
        self.add("LayerNormalization", scale, bias, axis=-1, epsilon=NORM_EPSILON)
        if image:
            self.add("Transpose", perm=[0, 3, 1, 2])

    @write.register
    def _(self, layer: Activation) -> None:
        before = self.current
        match layer.name:
            case "silu":
                self.add("Sigmoid")
                self.add("Mul", before)
            case "gelu":
                self.add("Mul", self.weight(np.sqrt(0.5)))
                self.add("Erf")
                self.add("Add", self.weight(1.0))
                self.add("Mul", before)
                self.add("Mul", self.weight(0.5))
            case name:
                attributes: dict[str, Any] = {"elu": {"alpha": 1.0}, "leaky_relu": {"alpha": 0.01}}.get(name, {})
                operation = {"relu": "Relu", "tanh": "Tanh", "elu": "Elu", "leaky_relu": "LeakyRelu"}[name]
                self.add(operation, **attributes)

    @write.register
    def _(self, layer: Flatten) -> None:
        if self._is_units:
            # ONNX Runtime's own products of bytes have channels last, so that this cancels what it puts behind them.
            self.add("Transpose", perm=[0, 2, 3, 1])
            self._image = None
        # The next kernel is turned instead of the features: that costs nothing when a decision is made.
        self.add("Flatten", axis=1)

    @write.register
    def _(self, layer: Dense) -> None:
        self._outputs = len(layer.bias)
        self.add("Gemm", self.weight(self._turned(layer.kernel)), self.weight(layer.bias))

    @write.register
    def _(self, layer: Recurrent) -> None:
        size = layer.size
        hidden, cell = self._memory, ""
        # With last actions behind it, it is not the whole of the next state.
        self._next_memory = "next_memory" if self._recent_size else "next_state"
        if layer.kind == "lstm":
            hidden, cell = self._split(self._memory, [size, size])
        entering = self._node("Gemm", self.current, self.weight(self._turned(layer.kernel)), self.weight(layer.bias))
        gates = [size] * (layer.recurrent.shape[1] // size)
        if layer.kind == "gru":
            bias = np.concatenate([np.zeros(2 * size, np.float32), layer.recurrent_bias])
            product = self._node("Gemm", hidden, self.weight(layer.recurrent), self.weight(bias))
            self._gru(hidden, self._split(entering, gates), self._split(product, gates))
            self.rename_last(self._next_memory)
            return
        product = self._node("MatMul", hidden, self.weight(layer.recurrent))
        both = self._split(self._node("Add", entering, product), gates)
        output, cell = self._lstm(cell, both)
        self.current = output
        self.add("Concat", cell, axis=1)
        self.rename_last(self._next_memory)
        self.current = output

    @write.register
    def _(self, layer: Beside) -> None:
        joined = self._node("Gemm", self.current, self.weight(self._turned(layer.kernel)), self.weight(layer.bias))
        self.current = self._recent
        for own in layer.layers:
            self.write(own)
        self.add("MatMul", self.weight(layer.beside_kernel))
        self.add("Add", joined)

    def _gru(self, hidden: str, entering: list[str], product: list[str]) -> None:
        reset, update = (self._node("Sigmoid", self._node("Add", entering[gate], product[gate])) for gate in range(2))
        kept = self._node("Add", entering[2], self._node("Mul", reset, product[2]))
        candidate = self._node("Tanh", kept)
        self.current = self._node("Mul", self._node("Sub", self.weight(np.float32(1.0)), update), candidate)
        self.add("Add", self._node("Mul", update, hidden))

    def _lstm(self, cell: str, gates: list[str]) -> tuple[str, str]:
        """The output and the next cell."""
        enter, keep, leave = (self._node("Sigmoid", gates[gate]) for gate in (0, 1, 3))
        entered = self._node("Mul", enter, self._node("Tanh", gates[2]))
        cell = self._node("Add", self._node("Mul", keep, cell), entered)
        return self._node("Mul", leave, self._node("Tanh", cell)), cell

    def _split(self, name: str, sizes: list[int]) -> list[str]:
        """Names of the parts of a tensor along its features."""
        from onnx import helper

        names = [f"split{len(self.nodes) + 1}_{part}" for part in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [name, self.weight(sizes, np.int64)], names, axis=1))
        return names

    @write.register
    def _(self, step: Quantise) -> None:
        scale = np.float32(1.0)
        if len(step.factors) > 1:
            self.add("Mul", self.weight(step.factors))
        else:
            scale = np.float32(1 / step.factors[0])
        if step.is_signed:
            # Bytes would say -128 too, where units end at -127.
            self.add("Clip", self.weight(-127 * scale))
        self.add("QuantizeLinear", self.weight(scale), self.weight(_zero(step.is_signed), np.uint8))

    @write.register
    def _(self, step: Integers) -> None:
        is_dense = step.weights.ndim == 2
        strides, weights = (step.stride, step.stride), step.weights
        if not is_dense and self.current == "observations":
            strides, weights = self._frames_first(step)
        self.add(
            "DequantizeLinear",
            self.weight(np.float32(step.input_scale)),
            self.weight(_zero(step.is_signed), np.uint8),
        )
        size = weights.shape[:2]
        weights = self._turned(weights) if is_dense else weights.transpose(3, 2, 0, 1)
        stored, scales = self.weight(weights, np.int8), self.weight(step.weight_scales)
        # Without zeros that are said, ONNX Runtime 1.32 multiplies matrices in floats.
        zeros = self.weight(np.zeros(len(step.bias)), np.int8)
        kernel = self._node("DequantizeLinear", stored, scales, zeros, axis=1 if is_dense else 0)
        both = self.weight(np.float32(step.input_scale) * step.weight_scales)
        bias = self._node("DequantizeLinear", self.weight(step.bias, np.int32), both, axis=0)
        if is_dense:
            self._outputs = len(step.bias)
            self.add("Gemm", kernel, bias)
        else:
            self._convolve(kernel, bias, size, strides, step.padding)
        self._is_units = step.units_scale is not None
        if step.units_scale is not None:
            self.add("QuantizeLinear", self.weight(np.float32(step.units_scale)), self.weight(0, np.uint8))

    def _frames_first(self, step: Integers) -> tuple[tuple[int, int], np.ndarray]:
        """Turns frames for the first convolution; its strides, and its weights ``[height, width, in, out]``.

        Where the stride divides all widths, pixels side by side become channels of one: the same sums, which read four
        times fewer places. In int8 that takes a fifth off a decision of ``net2``.
        """
        size, _, channels, outputs = step.weights.shape
        height, width = self._frame_shape
        strides, weights, stride = (step.stride, step.stride), step.weights, step.stride
        if not any(step.padding) and size % stride == width % stride == 0:
            width //= stride
            strides, weights = (stride, 1), weights.reshape(size, size // stride, stride * channels, outputs)
            self.add("Reshape", self.weight([0, height, width, stride * channels], np.int64))
        self.add("Transpose", perm=[0, 3, 1, 2])
        self._image = (height, width)
        return strides, weights

    @write.register
    def _(self, layer: Bits) -> None:
        size = len(layer.factors)
        self.add("Mul", self.weight(np.float32(255.0)))
        self.add("Round")
        self.add("Clip", self.weight(np.float32(0.0)), self.weight(np.float32(255.0)))
        self.add("Reshape", self.weight([-1, size, 1], np.int64))
        # A byte without its lower bits, and then without its higher ones: exact in float32.
        self.add("Div", self.weight(2.0 ** np.arange(7, -1, -1, dtype=np.float32)))
        self.add("Floor")
        self.add("Mod", self.weight(np.float32(2.0)), fmod=1)
        self.add("Mul", self.weight(np.float32(2.0)))
        self.add("Sub", self.weight(np.float32(1.0)))
        self.add("Mul", self.weight(layer.factors[:, None]))
        self.add("Reshape", self.weight([-1, 8 * size], np.int64))

    @write.register
    def _(self, layer: Normalise) -> None:
        self.add("Sub", self.weight(layer.mean))
        self.add("Sub", self.weight(layer.mean_rest))
        self.add("Div", self.weight(layer.deviation))
        if layer.clip is not None:
            self.add("Clip", self.weight(-layer.clip), self.weight(layer.clip))

    @write.register
    def _(self, layer: Expectation) -> None:
        atoms = len(layer.support)
        # The head's own size says how many actions there are.
        actions = self._outputs // atoms
        self.add("Reshape", self.weight([-1, actions, atoms], np.int64))
        self.add("Softmax", axis=-1)
        self.add("Mul", self.weight(layer.support))
        self.add("ReduceSum", self.weight([2], np.int64), keepdims=0)

    def _convolve(
        self, kernel: str, bias: str, size: Sequence[int], strides: tuple[int, int], padding: tuple[int, int]
    ) -> None:
        assert self._image is not None
        pads = [side for side in padding for _ in range(2)]
        self.add("Conv", kernel, bias, strides=list(strides), pads=pads, kernel_shape=list(size))
        height, width = (
            (length + sum(padding) - seen) // stride + 1
            for length, seen, stride in zip(self._image, size, strides, strict=True)
        )
        self._image = (height, width)

    def _turned(self, kernel: np.ndarray) -> np.ndarray:
        """A dense layer's kernel for features as they come: of an image with its channels in front."""
        if self._image is None:
            return kernel
        height, width = self._image
        self._image = None
        return kernel.reshape(height, width, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
