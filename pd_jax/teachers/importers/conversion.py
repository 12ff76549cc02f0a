"""What all importers share: layers in our layout, and the metadata of what was imported."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.environments.registered import is_registered
from pd_jax.environments.spaces import simulator_of
from pd_jax.environments.tasks import Task
from pd_jax.networks.continuous import OutputKind
from pd_jax.teachers.files import Params
from pd_jax.teachers.metadata import Malformed, TeacherMetadata
from pd_jax.version import __version__

NATURE_CONVOLUTIONS = ((8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64))
"""Kernels (HWIO) of the network of Mnih et al. (2015), which is our ``dqn``."""
NATURE_FLAT = (7, 7, 64)
"""What the last of them leaves, height first."""
NATURE_HIDDEN = 512
Pair = tuple[np.ndarray, np.ndarray]
"""A kernel in our layout, and a bias."""
_MAX_WIDTH = 2**16


def layer(kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """One layer's parameters: ``kernel`` HWIO or ``[in, out]`` and ``bias [out]``, as contiguous float32."""
    with np.errstate(over="ignore"):
        return {"kernel": np.array(kernel, np.float32, order="C"), "bias": np.array(bias, np.float32, order="C")}


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises `Malformed` if an array holds NaN, or values that float32 does not."""
    with np.errstate(over="ignore"):
        if not np.isfinite(array.astype(np.float32)).all():
            raise Malformed(f"tensor {name!r} holds NaN or infinite weights")


def from_torch(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Kernels OIHW to HWIO, matrices ``[out, in]`` to ``[in, out]``, after convolutions from channels first to last."""
    if weight.ndim == 4:
        return {"kernel": weight.transpose(2, 3, 1, 0), "bias": bias}
    if weight.shape == (NATURE_HIDDEN, math.prod(NATURE_FLAT)):
        return {"kernel": channels_last(weight, NATURE_FLAT), "bias": bias}
    return {"kernel": weight.T, "bias": bias}


def channels_last(weight: np.ndarray, flat: tuple[int, int, int]) -> np.ndarray:
    """``[out, in]`` after channels first to ``[in, out]`` after channels last, of what convolutions left."""
    height, width, channels = flat
    ordered = weight.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    return ordered.reshape(-1, len(weight))


def checked_pair(name: str, value: Any, shape: Sequence[int | None]) -> Pair:
    """Kernel and bias of a layer; the kernel of a shape in which None stands for any width."""
    found = value if isinstance(value, dict) else {}
    if found.keys() != {"kernel", "bias"} or not all(isinstance(leaf, np.ndarray) for leaf in found.values()):
        raise Malformed(f"layer {name!r} is not made of a kernel and a bias: {listed(found)}")
    kernel, bias = found["kernel"], found["bias"]
    wanted = tuple(kernel.shape[-1:][0] if size is None and kernel.ndim else size for size in shape)
    if kernel.shape != wanted or not 0 < kernel.shape[-1] <= _MAX_WIDTH:
        raise Malformed(f"tensor '{name}/kernel' has shape {kernel.shape}, the network needs {_shown(shape)}")
    if bias.shape != kernel.shape[-1:]:
        raise Malformed(f"tensor '{name}/bias' has shape {bias.shape}, the network needs {kernel.shape[-1:]}")
    for part, array in found.items():
        check_finite(f"{name}/{part}", array)
    return kernel, bias


def _shown(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def listed(names: Iterable[str]) -> str:
    """The first of some names, for messages."""
    return ", ".join(repr(name[:40]) for name in sorted(names)[:8]) or "none"


def network_params(torso: Mapping[str, Params], output: Params, hidden: Sequence[Params] = ()) -> Params:
    """The parameters of a :class:`pd_jax.networks.policy.PolicyNetwork`; ``hidden`` are layers before the output."""
    head = {f"fc{index + 2}": params for index, params in enumerate(hidden)}
    return {"torso": dict(torso), "head": head | {"output": output}}


def check_actions(found: int, task: Task) -> None:
    """Raises `Malformed` unless the agent has as many actions as the task."""
    if found != task.num_actions:
        full = "; it was trained with the full action set of 18" if found == 18 and task.kind == "atari" else ""
        raise Malformed(f"has {found} actions, {task.name} has {task.num_actions}{full}")


def check_layers(layers: Mapping[str, Any], wanted: Sequence[str], readable: str) -> None:
    """Raises a Malformed unless a network has just the wanted layers; ``readable`` says which agents are read."""
    for name in wanted:
        if name not in layers:
            raise Malformed(f"layer {name!r} is missing; the network holds {listed(layers)}; {readable}")
    for name in layers:
        if name not in wanted:
            raise Malformed(f"layer {name[:80]!r} does not belong to the network; {readable}")


def describe(
    task: Task,
    *,
    library: str,
    algorithm: str,
    output: OutputKind,
    squashed: bool = False,
    log_std_bounds: tuple[float, float] | None = None,
    source_sha256: str,
    how_made: str,
    hidden_sizes: Sequence[int] = (),
    features: int = NATURE_HIDDEN,
    activation: str = "relu",
    network: str = "",
    support: Sequence[float] = (),
    normalisation: Mapping[str, Any] | None = None,
    env_steps: Any = None,
    seed: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> TeacherMetadata:
    """Metadata of an imported teacher; of ``env_steps``, ``seed`` and ``settings``, what makes sense is kept.

    The network is ``dqn`` or ``mlp`` unless another is named. Of frames, ``hidden_sizes`` are the layers after the
    convolutions and the dense layer of ``features`` units.
    """
    is_atari = task.kind == "atari"
    observation: dict[str, Any] = {
        "kind": task.kind,
        "shape": list(task.observation_shape),
        "dtype": task.observation_dtype,
    }
    if is_atari:
        observation |= {"frame_stack": 4, "frame_skip": 4, "grey": True, "scaling": "1/255"}
    return TeacherMetadata(
        name=f"{task.name}-{library}-{algorithm}",
        game=task.name,
        env_id=task.env_id,
        network=network or ("dqn" if is_atari else "mlp"),
        layer_norm=False,
        hidden_sizes=() if is_atari else tuple(hidden_sizes),
        head_sizes=tuple(hidden_sizes) if is_atari else (),
        hidden=features if is_atari and features != NATURE_HIDDEN else None,
        activation=activation,
        support=tuple(support),
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation=observation,
        action_low=task.action_low,
        action_high=task.action_high,
        output=output,
        squashed=squashed,
        log_std_bounds=log_std_bounds,
        normalisation=dict(normalisation or {}),
        simulator=simulator_of(task.env_id) if task.is_continuous and not is_registered(task) else "",
        algorithm=algorithm,
        env_steps=_count(env_steps),
        seed=_count(seed),
        training_config={name: value for name, value in (settings or {}).items() if _is_setting(name, value)},
        evaluation={},
        learning_curve=[],
        how_made=how_made,
        source_format=library,
        source_sha256=source_sha256,
        licence="that of its source, which the file does not name",
        created=datetime.date.today().isoformat(),
        pd_jax_version=__version__,
    )


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _is_setting(name: str, value: Any) -> bool:
    """Whether it is a plain number, word or switch that a report could show."""
    if name.startswith("_") or not name.isprintable():
        return False
    if isinstance(value, str):
        return len(value) <= 200 and value.isprintable()
    if type(value) is int:
        return abs(value) < 2**63
    return type(value) is bool or (type(value) is float and math.isfinite(value))
