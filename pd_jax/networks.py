"""The paper's networks by name: a torso and a head for each game, over uint8 frame stacks or vectors.

Parameters always have the field's usual shapes (convolution kernels HWIO, dense kernels ``[in, out]``), whatever
formulation of the convolution the platform prefers, so that files and checkpoints travel between platforms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypedDict, Unpack, overload

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.convolutions import matmul_convolution, native_convolution
from pd_jax.errors import UserError, nearest
from pd_jax.heads import CategoricalHead, MultiGameHead, SingleHead

ConvolutionMethod = Literal["auto", "matmul", "native"]


@dataclasses.dataclass(frozen=True)
class TorsoSpec:
    """Layer sizes that the games of a network share (Rusu et al. 2016, appendix A, table 4)."""

    channels: tuple[int, ...]
    hidden: int


_TORSOS = {
    "dqn": TorsoSpec((32, 64, 64), 512),
    "net1": TorsoSpec((16, 32, 32), 256),
    "net2": TorsoSpec((16, 16, 16), 128),
    "net3": TorsoSpec((16, 16, 16), 64),
    "multi3": TorsoSpec((32, 64, 64), 512),
    "multi10": TorsoSpec((64, 64, 64), 1500),
}
# Their heads have a hidden layer even for a single game.
_MULTI_GAME_NAMES = ("multi3", "multi10")
NETWORK_NAMES = (*_TORSOS, "mlp")
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType({"relu": nn.relu, "tanh": jnp.tanh})
"""What an ``mlp`` may apply to its hidden layers, by name."""
_KERNEL_SIZES = (8, 4, 3)
_STRIDES = (4, 2, 1)
# Examples that a CPU takes through the convolutions at once: their activations fit into the cache of a core, while the
# other cores work on the next ones. Fewer than two such parts are faster as one. XLA begins all of them together, and
# many leave the caches waiting for one another's activations: without a gradient two at a time, with one at most eight.
# A gradient keeps what the next layers need of a part; without one, narrow layers leave room for twice as many.
_CPU_PART = 16
_CPU_NARROW = 16
_CPU_PARTS = 8
# What a gradient keeps of more examples than so many outgrows the caches that the cores share: then so many at a time,
# but no fewer than what keeps two cores busy.
_CPU_GRADIENT_PART = 64


def _he_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """He initialisation, drawn as a matrix: XLA takes 2 s to compile a random number generator over four axes."""
    kernel: Array = nn.initializers.he_normal()(key, (math.prod(shape[:-1]), shape[-1]), dtype)
    return kernel.reshape(shape)


def _method(method: ConvolutionMethod) -> ConvolutionMethod:
    """The formulation that ``auto`` stands for on this platform."""
    if method == "auto":
        return "matmul" if jax.default_backend() == "cpu" else "native"
    return method


class Convolution(nn.Module):
    """A VALID 2-D convolution whose formulation follows the platform; its parameters do not."""

    features: int
    size: int
    stride: int
    input_scale: float = 1.0
    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``[N, H, W, C]`` to ``[N, h, w, features]``."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        # Scaling the kernel instead of the frames saves a pass over 28,224 pixels a sample.
        kernel = (kernel * self.input_scale).astype(self.dtype)
        convolve = matmul_convolution if _method(self.method) == "matmul" else native_convolution
        return convolve(x, kernel, self.stride) + bias.astype(self.dtype)


class AtariTorso(nn.Module):
    """Three convolutions and one dense layer, ReLU after each (Rusu et al. 2016, appendix A; Mnih et al. 2015).

    With ``layer_norm`` each layer is normalised over its features before the ReLU, as PQN trains (Gallici et al. 2024).
    """

    spec: TorsoSpec
    layer_norm: bool = False
    method: ConvolutionMethod = "auto"
    dtype: Any = jnp.float32
    parts: int | None = None
    """That a batch goes through the convolutions in; None is what suits the platform. Results are the same but for
    rounding."""

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps uint8 ``[N, 84, 84, 4]`` (oldest frame first) to features ``[N, hidden]``."""
        x = self._in_groups(observations)
        x = nn.Dense(self.spec.hidden, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name="fc1")(x)
        if self.layer_norm:
            x = nn.LayerNorm(dtype=self.dtype, name="norm4")(x)
        return nn.relu(x)

    def _in_groups(self, observations: Array) -> Array:
        """Maps observations to the last convolution's features ``[N, features]``, in groups of parts on a CPU."""
        count, part = len(observations), _CPU_PART * (2 if self.spec.channels[0] <= _CPU_NARROW else 1)
        if self.parts is not None or _method(self.method) != "matmul" or count <= _CPU_PART:
            return self._in_parts(observations)
        group = next((size for size in (2 * part, part) if count % size == 0), count)

        def next_group(torso: AtariTorso, _: None, planes: Array) -> tuple[None, Array]:
            return None, torso._in_parts(planes.transpose(0, 2, 3, 1), part)

        def in_turn(torso: AtariTorso, observations: Array) -> Array:
            if group == count:
                return torso._in_parts(observations, part)
            # With frames in front, as they come: see `pd_jax.convolutions`.
            planes = observations.transpose(0, 3, 1, 2)
            scan = nn.scan(next_group, variable_broadcast="params", split_rngs={"params": False})
            _, features = scan(torso, None, planes.reshape(-1, group, *planes.shape[1:]))
            return features.reshape(count, -1)

        # What a gradient needs would have to be kept of every group, which takes longer than is won.
        return nn.custom_vjp(
            in_turn,
            forward_fn=lambda torso, observations: nn.vjp(AtariTorso._in_parts, torso, observations),
            backward_fn=lambda pull_back, gradient: pull_back(gradient),
        )(self, observations)

    def _in_parts(self, observations: Array, part: int = _CPU_PART) -> Array:
        """As :meth:`_in_groups`, of one group, in parts of at least so many examples."""
        convolve, parts = self._convolutions(), self.parts
        if parts is None:
            parts = min(len(observations) // part, _CPU_PARTS) if _method(self.method) == "matmul" else 1
        size = max(-(-len(observations) // max(parts, 1)), 1)
        starts = range(0, max(len(observations), 1), size)
        features = [convolve(observations[start : start + size]) for start in starts]
        return jnp.concatenate(features) if len(features) > 1 else features[0]

    def _convolutions(self) -> Callable[[Array], Array]:
        """All of them, as ``uint8 [N, 84, 84, 4] -> [N, features]``."""
        layers: list[Callable[[Array], Array]] = []
        for index, features in enumerate(self.spec.channels):
            layers.append(
                Convolution(
                    features,
                    _KERNEL_SIZES[index],
                    _STRIDES[index],
                    input_scale=1.0 / 255.0 if index == 0 else 1.0,
                    method=self.method,
                    dtype=self.dtype,
                    name=f"conv{index + 1}",
                )
            )
            if self.layer_norm:
                layers.append(nn.LayerNorm(dtype=self.dtype, name=f"norm{index + 1}"))
            layers.append(nn.relu)

        def convolve(x: Array) -> Array:
            for layer in layers:
                x = layer(x)
            return x.reshape(len(x), math.prod(x.shape[1:]))

        return convolve


class MLPTorso(nn.Module):
    """Dense layers for vector observations, each followed by the activation; with none of them, the vector itself."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    layer_norm: bool = False
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Maps ``[N, D]`` to features ``[N, hidden_sizes[-1]]``."""
        x = observations.astype(self.dtype)
        for index, features in enumerate(self.hidden_sizes):
            x = nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"fc{index + 1}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype, name=f"norm{index + 1}")(x)
            x = ACTIVATIONS[self.activation](x)
        return x


class PolicyNetwork(nn.Module):
    """A torso and a head: ``init(key, observations)`` and ``apply(variables, observations)``."""

    torso: nn.Module
    head: nn.Module

    def __call__(self, observations: Array) -> Array:
        """Maps a batch of observations to float32 ``[N, actions]``."""
        return self.head(self.torso(observations))


class MultiGameNetwork(nn.Module):
    """A torso that all games share, and a head for each.

    ``init(key, observations)`` and ``apply(variables, observations)`` for all games at once, or
    ``apply(variables, observations, game, method="one_game")``.
    """

    torso: nn.Module
    head: MultiGameHead

    @property
    def num_actions(self) -> tuple[int, ...]:
        """Size of every game's action set."""
        return self.head.num_actions

    def __call__(self, observations: Array) -> Array:
        """Maps ``[G, B, ...]`` to float32 ``[G, B, A]``, A the widest action set; ``-inf`` where there is no action.

        Raises:
          AssertionError: there are not as many games as heads.
        """
        chex.assert_axis_dimension(observations, 0, len(self.num_actions))
        # One large batch: convolutions mapped over games would be grouped ones, which are slow everywhere.
        features = self.torso(observations.reshape(-1, *observations.shape[2:]))
        return self.head(features.reshape(*observations.shape[:2], -1))

    def one_game(self, observations: Array, game: int | Array) -> Array:
        """Maps one game's ``[B, ...]`` to float32 ``[B, A]``; ``game`` is an int or an int32 scalar."""
        return self.head(self.torso(observations), game)


class NetworkOptions(TypedDict, total=False):
    """What :func:`make_network` takes by keyword."""

    layer_norm: bool
    hidden_sizes: Sequence[int]
    activation: str
    support: Sequence[float]
    compute_dtype: str
    convolution: ConvolutionMethod
    channels: Sequence[int] | None
    hidden: int | None
    head_hidden: int


@overload
def make_network(name: str, num_actions: int, **options: Unpack[NetworkOptions]) -> PolicyNetwork: ...
@overload
def make_network(name: str, num_actions: Sequence[int], **options: Unpack[NetworkOptions]) -> MultiGameNetwork: ...
def make_network(
    name: str,
    num_actions: int | Sequence[int],
    *,
    layer_norm: bool = False,
    hidden_sizes: Sequence[int] = (128, 128),
    activation: str = "relu",
    support: Sequence[float] = (),
    compute_dtype: str = "float32",
    convolution: ConvolutionMethod = "auto",
    channels: Sequence[int] | None = None,
    hidden: int | None = None,
    head_hidden: int = 128,
) -> PolicyNetwork | MultiGameNetwork:
    """Builds one of the paper's networks (Rusu et al. 2016, appendix A, table 4) or an MLP, for one game or several.

    Args:
      name: ``dqn``, ``net1``, ``net2``, ``net3``, ``multi3``, ``multi10`` for uint8 frames ``[N, 84, 84, 4]``; ``mlp``
        for float ``[N, D]``.
      num_actions: size of the output of a single game's network, or of every game's output in a network of several.
      layer_norm: normalise before every ReLU. The paper's networks have none; PQN teachers do.
      hidden_sizes: of ``mlp``; ignored by the others.
      activation: ``relu`` or, for ``mlp``, ``tanh``.
      support: values of the atoms of a categorical head, whose mean is the output; by default outputs are plain.
      compute_dtype: ``float32`` or ``bfloat16``. Parameters and outputs stay float32.
      convolution: formulation of the convolutions; ``auto`` takes the platform's faster one. That of CPUs
        (``matmul``) has gradients backwards only; for `jax.jvp` and what is made of it take ``native``.
      channels: of the three convolutions, instead of those that the name stands for.
      hidden: units of the torso's dense layer, instead of those that the name stands for.
      head_hidden: units of the hidden layer (``fc2``) of each head, in networks of several games and in ``multi3`` and
        ``multi10``; 0 leaves it out. Other networks of a single game have none.

    Raises:
      UserError: the name or a number is not one of the above.
    """
    sizes = tuple(num_actions) if isinstance(num_actions, Sequence) else (num_actions,)
    if min(sizes, default=0) < 1:
        raise UserError(f"num_actions must be at least 1, got {min(sizes, default=0)}")
    if head_hidden < 0:
        raise UserError(f"head_hidden must be at least 0, got {head_hidden}")
    if compute_dtype not in ("float32", "bfloat16"):
        raise UserError(f"compute_dtype: {compute_dtype!r} is not one of float32, bfloat16")
    if activation not in ACTIVATIONS or (name in _TORSOS and activation != "relu"):
        choices = "relu" if name in _TORSOS else ", ".join(ACTIVATIONS)
        raise UserError(f"activation: {activation!r} is not one of those of {name} ({choices})")
    dtype = jnp.dtype(compute_dtype)
    torso: nn.Module
    if name == "mlp":
        if channels is not None or hidden is not None:
            raise UserError("channels and hidden are widths of convolutional torsos, and 'mlp' has none")
        torso = MLPTorso(tuple(hidden_sizes), layer_norm=layer_norm, activation=activation, dtype=dtype)
    else:
        spec = _torso_spec(name, channels, hidden)
        torso = AtariTorso(spec, layer_norm=layer_norm, method=convolution, dtype=dtype)
    if isinstance(num_actions, Sequence):
        if support:
            raise UserError("a categorical head is for a single game")
        return MultiGameNetwork(torso, MultiGameHead(sizes, head_hidden, layer_norm, dtype))
    head: nn.Module = SingleHead(
        num_actions, head_hidden if name in _MULTI_GAME_NAMES else 0, layer_norm=layer_norm, dtype=dtype
    )
    if support:
        head = CategoricalHead(num_actions, tuple(support), dtype=dtype)
    return PolicyNetwork(torso=torso, head=head)


def _torso_spec(name: str, channels: Sequence[int] | None, hidden: int | None) -> TorsoSpec:
    """The widths that a name stands for, but for those that are given."""
    if name not in _TORSOS:
        choices = ", ".join(NETWORK_NAMES)
        raise UserError(f"{name!r} is not a network{nearest(name, NETWORK_NAMES)} ({choices})")
    spec = _TORSOS[name]
    if channels is not None:
        if len(channels) != len(_STRIDES):
            raise UserError(f"channels: {len(channels)} widths for {len(_STRIDES)} convolutions")
        spec = dataclasses.replace(spec, channels=tuple(channels))
    if hidden is not None:
        spec = dataclasses.replace(spec, hidden=hidden)
    if min(*spec.channels, spec.hidden) < 1:
        raise UserError(f"channels and hidden must be at least 1, got {spec.channels} and {spec.hidden}")
    return spec


def gradient_parts(network: nn.Module, batch_size: int, num_games: int = 1) -> int:
    """Parts of one size that the gradients of a minibatch are best taken in, one after another, on this platform.

    Args:
      network: whose gradients are taken.
      batch_size: examples of each game.
      num_games: that are learnt from at once.
    """
    torso, examples = getattr(network, "torso", None), batch_size * num_games
    if not isinstance(torso, AtariTorso) or _method(torso.method) != "matmul" or examples <= _CPU_GRADIENT_PART:
        return 1
    least = -(-examples // _CPU_GRADIENT_PART)
    parts = next((count for count in range(least, batch_size) if batch_size % count == 0), batch_size)
    # Of numbers with few divisors the parts would be too small to pay.
    return parts if examples // parts >= 2 * _CPU_PART else 1


def in_one_part(network: PolicyNetwork | MultiGameNetwork) -> PolicyNetwork | MultiGameNetwork:
    """The same network, whose batches are not divided: what all parts of a batch take at once is what this takes."""
    if not isinstance(network.torso, AtariTorso):
        return network
    return network.clone(torso=network.torso.clone(parts=1))


def count_params(params: Any) -> int:
    """Number of scalars in a pytree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
