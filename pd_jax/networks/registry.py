"""The paper's networks by name, and users' own: a torso and a head for each game, over uint8 frame stacks or vectors.

Parameters always have the field's usual shapes (convolution kernels HWIO, dense kernels ``[in, out]``), whatever
formulation of the convolution the platform prefers, so that files and checkpoints travel between platforms.
"""

from __future__ import annotations

import dataclasses
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import flax.linen as nn
import jax
import jax.numpy as jnp

from pd_jax.config import own_networks
from pd_jax.config.games import MLPS
from pd_jax.errors import UserError, nearest
from pd_jax.networks.convolutions import ConvolutionMethod
from pd_jax.networks.heads import CategoricalHead, MultiGameHead, SingleHead
from pd_jax.networks.memory import MEMORIES, Memory
from pd_jax.networks.padded import PaddedTorso
from pd_jax.networks.partition import PartitionedTorso
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork, shared
from pd_jax.networks.residual import Pooling, ResidualTorso
from pd_jax.networks.torsos import ACTIVATIONS, MLPTorso, TorsoSpec

_TORSOS = {
    "dqn": TorsoSpec((32, 64, 64), 512),
    "net1": TorsoSpec((16, 32, 32), 256),
    "net2": TorsoSpec((16, 16, 16), 128),
    "net3": TorsoSpec((16, 16, 16), 64),
    "multi3": TorsoSpec((32, 64, 64), 512),
    "multi10": TorsoSpec((64, 64, 64), 1500),
}
# Of agents that are imported; no student or teacher of ours has them.
_RESIDUAL: dict[str, Pooling] = {"impala_torch": "torch", "impala_flax": "flax"}
_PADDED = "dqn_same"
# Their heads have a hidden layer even for a single game.
_MULTI_GAME_NAMES = ("multi3", "multi10")
NETWORK_NAMES = (*_TORSOS, *MLPS)
"""Those that are always there; :func:`register_network` adds others."""


Quantisation = Literal["none", "int8"]
"""Whether a network learns as 8-bit integers will compute."""


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
    quantisation: Quantisation
    memory: str
    memory_size: int


@dataclasses.dataclass(frozen=True)
class TorsoOptions:
    """What :func:`make_network` was asked for that is the torso's; see there.

    Attributes:
      layer_norm, hidden_sizes, activation, convolution, channels, hidden: as given there.
      dtype: of the computation, from ``compute_dtype``.
      quantised: whether layers compute as 8-bit integers will, from ``quantisation``.
    """

    layer_norm: bool
    hidden_sizes: tuple[int, ...]
    activation: str
    convolution: ConvolutionMethod
    channels: tuple[int, ...] | None
    hidden: int | None
    dtype: Any
    quantised: bool = False


TorsoBuilder = Callable[[TorsoOptions], nn.Module]
"""Makes a linen module that maps observations ``[N, ...]``, as games show them, to features ``[N, features]``."""


def register_network(name: str, build_torso: TorsoBuilder) -> None:
    """Has :func:`make_network` know a network of the user's own by a name, for as long as the process runs.

    The torso is the user's, the heads are those of all networks: so it is there for one game and for several.

    Args:
      name: given again, it stands for the later torso.
      build_torso: makes the torso. It may use any of the options, or none; from equal ones it makes equal modules, by
        which compiled programs are found again. Frames come as uint8 ``[N, 84, 84, 4]``, vectors as float32
        ``[N, D]``, and there may be none (N is 0).

    Raises:
      UserError: the name is one of ``NETWORK_NAMES``, or empty.

    Example:
      A single dense layer over the frames::

        class Flat(nn.Module):
            units: int

            @nn.compact
            def __call__(self, observations):
                pixels = observations.reshape(len(observations), -1) / 255.0
                return nn.relu(nn.Dense(self.units)(pixels))

        register_network("flat", lambda options: Flat(options.hidden or 32))
        network = make_network("flat", num_actions=6)
    """
    if not name or name in NETWORK_NAMES:
        raise UserError(f"{name!r} cannot be the name of a network of your own ({', '.join(NETWORK_NAMES)} are taken)")
    own_networks.registered[name] = build_torso


def check_own_torso(name: str, torso: Any, shape: Sequence[int], dtype: str) -> None:
    """Checks that a torso of the user's own does what is asked of one; others do.

    Args:
      name: the network's.
      torso: as it was built.
      shape: of an observation.
      dtype: of observations.

    Raises:
      UserError: it is no module, it fails, has other variables than parameters, or gives no features ``[N, features]``
        of floats.
    """
    if name not in own_networks.registered:
        return
    if not isinstance(torso, nn.Module):
        raise UserError(f"network {name!r}: what builds its torso gave {type(torso).__name__}, and no linen module")
    count = 2
    observations = jnp.zeros((count, *shape), dtype)
    try:
        variables = jax.eval_shape(torso.init, jax.random.key(0), observations)
        features = jax.eval_shape(torso.apply, variables, observations)
    except UserError:
        raise
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        # Rather the user's own line than that of Flax or JAX, which say at length what can be done.
        place = inspect.getsourcefile(type(torso))
        line = next((line for line in reversed(lines) if line.filename == place), lines[-1])
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"network {name!r}: fails on observations {dtype} {[count, *shape]}: {type(error).__name__}: {said} "
            f"({line.filename}, line {line.lineno})"
        ) from None
    if others := sorted(set(variables) - {"params"}):
        raise UserError(f"network {name!r}: has variables in {', '.join(others)}, and a torso has parameters alone")
    told = getattr(features, "shape", None)
    if told is None or len(told) != 2 or told[0] != count or not jnp.issubdtype(features.dtype, jnp.floating):
        gives = type(features).__name__ if told is None else f"{features.dtype} {list(told)}"
        raise UserError(
            f"network {name!r}: gives {gives} for observations {[count, *shape]}; a torso gives floats "
            f"[{count}, features]"
        )


def network_names() -> tuple[str, ...]:
    """All that :func:`make_network` knows at present."""
    return (*NETWORK_NAMES, *own_networks.own_networks())


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
    quantisation: Quantisation = "none",
    memory: str = "none",
    memory_size: int = 128,
) -> PolicyNetwork | MultiGameNetwork:
    """Builds one of the paper's networks (Rusu et al. 2016, appendix A, table 4) or an MLP, for one game or several.

    Args:
      name: ``dqn``, ``net1``, ``net2``, ``net3``, ``multi3``, ``multi10`` for uint8 frames ``[N, 84, 84, 4]``; ``mlp``
        for float ``[N, D]``; ``mlp_bits`` for those of a console's memory; or one that was given to
        :func:`register_network`.
      num_actions: size of the output of a single game's network, or of every game's output in a network of several.
      layer_norm: normalise before every ReLU. The paper's networks have none; PQN relies on it.
      hidden_sizes: of ``mlp`` and ``mlp_bits``; ignored by the others.
      activation: ``relu`` or, for ``mlp`` and ``mlp_bits``, one of `ACTIVATIONS`.
      support: values of the atoms of a categorical head, whose mean is the output; by default outputs are plain.
      compute_dtype: ``float32`` or ``bfloat16``. Parameters and outputs stay float32.
      convolution: formulation of the convolutions; ``auto`` takes the faster one of the platform that the network is
        traced for, see `pd_jax.system.devices`. That of CPUs (``matmul``) has gradients backwards only; for `jax.jvp`
        and what is made of it take ``native``.
      channels: of the three convolutions, instead of those that the name stands for.
      hidden: units of the torso's dense layer, instead of those that the name stands for.
      head_hidden: units of the hidden layer (``fc2``) of each head, in networks of several games and in ``multi3`` and
        ``multi10``; 0 leaves it out. Other networks of a single game have none.
      quantisation: ``int8`` learns as 8-bit integers will compute, see `pd_jax.networks.quantisation`; for the networks
        of ``NETWORK_NAMES``, in float32.
      memory: ``gru`` or ``lstm`` puts a recurrent layer between torso and head, see `pd_jax.networks.memory`; such a
        network is applied by its method ``remember``.
      memory_size: units of that layer.

    Returns:
      a linen module with ``init(key, observations)`` and ``apply(variables, observations)``.

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
    quantised = quantisation != "none"
    has_integers = name in NETWORK_NAMES and name != "mlp_bits"
    if quantised and (compute_dtype != "float32" or support or not has_integers):
        why = f"{name!r} has no such layers" if not has_integers else "it is for plain outputs in float32"
        raise UserError(f"quantisation: {quantisation}: {why}")
    if memory not in ("none", *MEMORIES) or memory_size < 1:
        raise UserError(
            f"memory: {memory!r} of {memory_size} units is none of none, {', '.join(MEMORIES)}, of at least 1"
        )
    if memory != "none" and (quantised or support):
        raise UserError(f"memory: {memory} has no 8-bit integers, and no categorical head")
    dtype = jnp.dtype(compute_dtype)
    remembers = None if memory == "none" else Memory(memory, memory_size, dtype)
    options = TorsoOptions(
        layer_norm=layer_norm,
        hidden_sizes=tuple(hidden_sizes),
        activation=activation,
        convolution=convolution,
        channels=None if channels is None else tuple(channels),
        hidden=hidden,
        dtype=dtype,
        quantised=quantised,
    )
    # The features of a torso of convolutions follow a ReLU.
    signed = name in MLPS and (activation != "relu" or not options.hidden_sizes)
    torso = _make_torso(name, options)
    head: nn.Module
    if isinstance(num_actions, Sequence):
        if support:
            raise UserError("a categorical head is for a single game")
        head = MultiGameHead(sizes, head_hidden, layer_norm, dtype, quantised, signed)
        return shared(MultiGameNetwork(torso, head, remembers))
    head = SingleHead(
        num_actions,
        head_hidden if name in _MULTI_GAME_NAMES else 0,
        layer_norm=layer_norm,
        dtype=dtype,
        quantised=quantised,
        signed=signed,
    )
    if support:
        head = CategoricalHead(num_actions, tuple(support), dtype=dtype)
    return shared(PolicyNetwork(torso=torso, head=head, memory=remembers))


def _make_torso(name: str, options: TorsoOptions) -> nn.Module:
    if name in own_networks.registered:
        torso: nn.Module = own_networks.registered[name](options)
        return torso
    if name in MLPS:
        if options.channels is not None or options.hidden is not None:
            raise UserError(f"channels and hidden are widths of convolutional torsos, and {name!r} has none")
        return MLPTorso(
            options.hidden_sizes,
            options.layer_norm,
            options.activation,
            options.dtype,
            quantised=options.quantised,
            bits=name == "mlp_bits",
        )
    if name in _RESIDUAL or name == _PADDED:
        if options.layer_norm or options.channels is not None or options.hidden is not None:
            raise UserError(f"layer_norm, channels and hidden are not for {name!r}")
        if name == _PADDED:
            return PaddedTorso(options.convolution, options.dtype)
        return ResidualTorso(_RESIDUAL[name], options.dtype)
    if name not in _TORSOS:
        raise UserError(f"{name!r} is not a network{nearest(name, network_names())} ({', '.join(network_names())})")
    return PartitionedTorso(
        _with_widths(_TORSOS[name], options),
        options.layer_norm,
        method=options.convolution,
        dtype=options.dtype,
        quantised=options.quantised,
    )


def _with_widths(spec: TorsoSpec, options: TorsoOptions) -> TorsoSpec:
    """The layer sizes of a torso, but for those that are given."""
    if options.channels is not None:
        if len(options.channels) != len(spec.channels):
            raise UserError(f"channels: {len(options.channels)} widths for {len(spec.channels)} convolutions")
        spec = dataclasses.replace(spec, channels=options.channels)
    if options.hidden is not None:
        spec = dataclasses.replace(spec, hidden=options.hidden)
    if min(*spec.channels, spec.hidden) < 1:
        raise UserError(f"channels and hidden must be at least 1, got {spec.channels} and {spec.hidden}")
    return spec
