"""Distillation as one would write it in PyTorch for speed: the same networks, losses, optimisers and minibatches.

On a CPU: all cores, convolutions in ``channels_last``, frames kept in that layout, uint8 until they are in the network.
On a GPU also ``torch.compile`` with its most thorough search, TensorFloat-32 in float32, and autocast in bfloat16.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

STRIDES = (4, 2, 1)
STACK = 4


def has_cuda() -> bool:
    """Whether there is a GPU that PyTorch can use."""
    return bool(torch.cuda.is_available())


def describe(device: str, dtype: str) -> str:
    """What the table calls it: version and settings."""
    compiled = ", torch.compile" if device == "cuda" else f", {torch.get_num_threads()} threads"
    return f"PyTorch {torch.__version__} channels_last{compiled}{', bf16 autocast' if dtype == 'bfloat16' else ''}"


def prepare(device: str) -> None:
    """All cores on a CPU; on a GPU the fast paths that JAX takes by default, too."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # As XLA does: a sharpened softmax has gradients so small that processors take a hundred times as long for them.
    torch.set_flush_denormal(True)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


class Network(torch.nn.Module):
    """The paper's networks for one game, with the very weights of one of ours.

    Args:
      variables: those of a network of :func:`pd_jax.networks.registry.make_network`, with or without LayerNorm.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        super().__init__()
        torso, head = variables["params"]["torso"], variables["params"]["head"]["output"]
        self.convolutions = torch.nn.ModuleList(
            _convolution(torso[f"conv{index + 1}"], stride) for index, stride in enumerate(STRIDES)
        )
        self.norms = torch.nn.ModuleList(_norm(torso[f"norm{index + 1}"]) for index in range(4) if "norm1" in torso)
        self.hidden = _dense(torso["fc1"])
        self.output = _dense(head)

    def forward(self, frames: Any) -> Any:
        """Maps uint8 ``[N, 4, 84, 84]`` in ``channels_last`` to ``[N, actions]``."""
        # One pass from uint8 to scaled floats; the layout stays.
        x = frames * (1.0 / 255.0)
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if self.norms:
                # Over the features, which in this layout are the last axis in memory: no copies.
                x = self.norms[index](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = F.relu(x)
        # As it lies in memory; flattening in PyTorch's own order would copy, and need other weights than ours.
        x = self.hidden(x.permute(0, 2, 3, 1).flatten(1))
        if self.norms:
            x = self.norms[3](x)
        return self.output(F.relu(x))


def _convolution(params: Mapping[str, Any], stride: int) -> Any:
    kernel = np.asarray(params["kernel"])
    size, _, inputs, outputs = kernel.shape
    layer = torch.nn.Conv2d(inputs, outputs, size, stride)
    return _load(layer, kernel.transpose(3, 2, 0, 1), params["bias"])


def _dense(params: Mapping[str, Any]) -> Any:
    kernel = np.asarray(params["kernel"])
    return _load(torch.nn.Linear(*kernel.shape), kernel.T, params["bias"])


def _norm(params: Mapping[str, Any]) -> Any:
    scale = np.asarray(params["scale"])
    # Flax's epsilon.
    return _load(torch.nn.LayerNorm(len(scale), eps=1e-6), scale, params["bias"])


def _load(layer: Any, weight: Any, bias: Any) -> Any:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        layer.bias.copy_(torch.from_numpy(np.array(bias)))
    return layer


class Student:
    """A network in its fastest form.

    Args:
      variables: as for :class:`Network`.
      device: ``"cpu"`` or ``"cuda"``.
      dtype: ``"float32"`` or ``"bfloat16"``, by autocast.
      optimizer: ``"rmsprop"`` as in the paper or ``"adam"``.
      learning_rate, decay, epsilon: as in ``pd_jax.config.sections.LearnerConfig``. PyTorch adds RMSProp's epsilon
        outside of the root and Optax inside, which costs the same.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        device: str,
        dtype: str = "float32",
        *,
        optimizer: str = "rmsprop",
        learning_rate: float = 2.5e-4,
        decay: float = 0.95,
        epsilon: float = 1e-6,
    ) -> None:
        self.device = device
        self._dtype = dtype
        self.network = Network(variables).to(device=device, memory_format=torch.channels_last)
        self._forward: Callable[..., Any] = self.network
        self._loss: Callable[..., Any] = self._kl
        if device == "cuda":
            self._forward = torch.compile(self.network, mode="max-autotune")
            self._loss = torch.compile(self._kl, mode="max-autotune")
        parameters = self.network.parameters()
        if optimizer == "adam":
            self._optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
        else:
            # There is no fused RMSProp; over all tensors at once it is up to a tenth faster, also on a CPU.
            self._optimizer = torch.optim.RMSprop(parameters, lr=learning_rate, alpha=decay, eps=epsilon, foreach=True)

    def frames(self, observations: np.ndarray) -> Any:
        """uint8 ``[N, 84, 84, 4]`` on the device, as ``[N, 4, 84, 84]`` in ``channels_last``: on a CPU no copy."""
        return torch.from_numpy(observations).to(self.device).permute(0, 3, 1, 2)

    def infer(self, frames: Any) -> Any:
        """Outputs ``[N, actions]``, on the device."""
        with torch.inference_mode(), self._autocast():
            return self._forward(frames)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Outputs of observations that come from the host and go back to it."""
        outputs: np.ndarray = self.infer(self.frames(observations)).float().cpu().numpy()
        return outputs

    def update(self, frames: Any, q_values: Any, temperature: float) -> Any:
        """One update from a minibatch; returns its mean loss, on the device."""
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss(frames, q_values, temperature)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _kl(self, frames: Any, q_values: Any, temperature: float) -> Any:
        log_teacher = F.log_softmax(q_values / temperature, dim=-1)
        log_student = F.log_softmax(self.network(frames).float(), dim=-1)
        return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        if self._dtype == "float32":
            yield
            return
        with torch.autocast(self.device, dtype=torch.bfloat16):
            yield


class Store:
    """The same job as our replay's: every frame once, minibatches of stacks drawn uniformly from all decisions.

    Which steps may be drawn, and how far back each one's stack reaches, is worked out beforehand.

    Args:
      frames: uint8 ``[L, C, 84, 84]``, the newest of each step.
      is_first: bool ``[L, C]``, the step opens an episode.
      is_decision: bool ``[L, C]``.
      q_values: float32 ``[L, C, A]``.
      device: where all of it is kept.
    """

    def __init__(
        self, frames: np.ndarray, is_first: np.ndarray, is_decision: np.ndarray, q_values: np.ndarray, device: str
    ) -> None:
        lanes, capacity = is_first.shape
        history = np.zeros((lanes, capacity), np.int64)
        for step in range(1, capacity):
            history[:, step] = np.where(is_first[:, step], 0, np.minimum(history[:, step - 1] + 1, STACK - 1))
        usable = is_decision.copy()
        usable[:, : STACK - 1] = False
        self.frame_shape = frames.shape[2:]
        self.frames = torch.from_numpy(frames.reshape(lanes * capacity, -1)).to(device)
        self.q_values = torch.from_numpy(q_values.reshape(lanes * capacity, -1)).to(device)
        self.history = torch.from_numpy(history.ravel()).to(device)
        self.usable = torch.from_numpy(np.flatnonzero(usable)).to(device)
        self._back = torch.arange(STACK - 1, -1, -1, device=device)

    def sample(self, batch_size: int) -> tuple[Any, Any]:
        """Frames uint8 ``[B, 4, 84, 84]`` in ``channels_last``, and the teacher's outputs."""
        drawn = torch.randint(len(self.usable), (batch_size,), device=self.usable.device)
        return self.take(self.usable[drawn])

    def take(self, places: Any) -> tuple[Any, Any]:
        """As :meth:`sample`, of given steps: their places in the lanes, one lane after the other."""
        slots = places[:, None] - torch.minimum(self._back, self.history[places][:, None])
        frames = self.frames.index_select(0, slots.flatten()).view(len(places), STACK, -1)
        # Frame by frame, as it is a third of what PyTorch's own change of the layout takes on a CPU.
        stacks = torch.empty((len(places), frames.shape[-1], STACK), dtype=frames.dtype, device=frames.device)
        for index in range(STACK):
            stacks[:, :, index] = frames[:, index]
        return stacks.view(-1, *self.frame_shape, STACK).permute(0, 3, 1, 2), self.q_values[places]
