"""A teacher in memory: its network, weights and metadata; found by name among the bundled ones or by file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config import check_network
from pd_jax.errors import UserError, nearest
from pd_jax.networks import count_params, make_network
from pd_jax.tasks import get_task
from pd_jax.teachers.files import TeacherMetadata, check_params, fingerprint, read_teacher

_ZOO = Path(__file__).parent / "zoo"
_SUFFIX = ".safetensors"


class Teacher:
    """A policy network that labels observations with Q-values (or logits).

    Args:
      metadata: what it is.
      params: nested dict of float32 arrays that fit the network the metadata names.
      source: the file it came from.
      sha256: of that file.

    Attributes:
      task: the game it plays.
      network: the linen module; ``network.apply(teacher.variables, observations)``.
      variables: ``{"params": ...}`` on the default device.
    """

    def __init__(self, metadata: TeacherMetadata, params: dict[str, Any], source: str, sha256: str) -> None:
        self.metadata = metadata
        self.source = source
        self.sha256 = sha256
        self.task = get_task(metadata.game)
        self.network = make_network(
            metadata.network,
            metadata.num_actions,
            layer_norm=metadata.layer_norm,
            hidden_sizes=metadata.hidden_sizes or (1,),
        )
        self.variables = {"params": jax.tree.map(jnp.asarray, params)}

    def __call__(self, observations: Array | np.ndarray) -> Array:
        """Q-values (or logits) of a batch.

        Args:
          observations: uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``.

        Returns:
          float32 ``[N, actions]``.

        Raises:
          ValueError: another shape or dtype.
        """
        shape, dtype = self.task.observation_shape, self.task.observation_dtype
        if observations.ndim != len(shape) + 1 or observations.shape[1:] != shape or observations.dtype != dtype:
            wanted = ", ".join(map(str, ("N", *shape)))
            raise ValueError(
                f"observations are {observations.dtype} {list(observations.shape)}; "
                f"{self.metadata.name} takes {dtype} [{wanted}]"
            )
        return self._apply(self.variables, observations)

    @functools.cached_property
    def _apply(self) -> Callable[[Any, Any], Array]:
        return jax.jit(self.network.apply)

    @property
    def num_params(self) -> int:
        """Number of scalars, LayerNorm's included."""
        return count_params(self.variables)

    @property
    def gives_logits(self) -> bool:
        """Whether the outputs are a policy's logits instead of Q-values."""
        return self.metadata.output == "logits"


def bundled_names() -> tuple[str, ...]:
    """Names of the teachers that come with the package."""
    return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in _ZOO.glob(f"*{_SUFFIX}")))


def load(name_or_path: str | os.PathLike[str]) -> Teacher:
    """Loads a bundled teacher by name, or a teacher file.

    Args:
      name_or_path: such as ``"pong"``, or the path of a ``.safetensors`` file.

    Raises:
      UserError: no such name or file, a damaged or foreign file, or weights that do not fit the network it names.
    """
    text = os.fspath(name_or_path)
    names = bundled_names()
    path = _ZOO / f"{text.lower()}{_SUFFIX}" if text.lower() in names else Path(text)
    if not path.exists() and not text.endswith(_SUFFIX) and os.sep not in text:
        bundled = f"bundled: {', '.join(names)}" if names else "none are bundled"
        raise UserError(f"{text!r} is neither a bundled teacher nor a file{nearest(text, names)} ({bundled})")
    params, metadata = read_teacher(path)
    try:
        _check_fits_task(metadata)
        teacher = Teacher(metadata, params, text, fingerprint(path))
    except UserError as error:
        raise UserError(f"{text}: {error}") from None
    check_params(params, _shapes_of(teacher), path)
    return teacher


def _check_fits_task(metadata: TeacherMetadata) -> None:
    """Raises a UserError unless the teacher sees and does what its task shows and lets one do."""
    task, observation = get_task(metadata.game), metadata.observation
    if metadata.num_actions != task.num_actions:
        raise UserError(f"has {metadata.num_actions} actions, {task.name} has {task.num_actions}")
    if tuple(metadata.action_names) != task.action_names:
        raise UserError(
            f"its actions are {', '.join(metadata.action_names)}; those of {task.name} are "
            f"{', '.join(task.action_names)}"
        )
    sees = (observation["dtype"], list(observation["shape"]))
    shows = (task.observation_dtype, list(task.observation_shape))
    if sees != shows:
        raise UserError("sees {} {}, {} shows {} {}".format(*sees, task.name, *shows))
    for name in ("frame_stack", "frame_skip"):
        if observation.get(name, 4) != 4:
            raise UserError(f"was trained with {name} {observation[name]}; environments here have 4")
    check_network(metadata.network, task)


def _shapes_of(teacher: Teacher) -> dict[str, Any]:
    task = teacher.task
    example = jax.ShapeDtypeStruct((1, *task.observation_shape), task.observation_dtype)
    variables = jax.eval_shape(teacher.network.init, jax.random.key(0), example)
    return jax.tree.map(lambda leaf: leaf.shape, variables["params"])
