"""Whether a teacher's metadata, its weights and its task go together; for every format that teachers come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.games import MLPS, check_network
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.continuous import ContinuousHead
from pd_jax.networks.heads import DeepHead
from pd_jax.networks.joint import GameNetwork, make_joint_network
from pd_jax.networks.normalisation import Normalisation
from pd_jax.networks.policy import PolicyNetwork, shared
from pd_jax.networks.registry import NetworkOptions, make_network
from pd_jax.networks.student import Student
from pd_jax.teachers.files import PathLike, check_params
from pd_jax.teachers.metadata import TeacherMetadata

# Below this no network of ours leaves the range of float32, whatever it sees.
_LARGE_WEIGHT = 1e3
_PROBES = 4


def build_network(metadata: TeacherMetadata) -> PolicyNetwork | GameNetwork:
    """Makes the network that the metadata names; of a network of several games, what it is for this one.

    Raises:
      UserError: there is no such network, it needs what cannot be applied here, or a game that it is for is not known.
    """
    _check_applied(metadata)
    if metadata.games:
        return GameNetwork(build_student(metadata).policy(metadata.games.index(metadata.game)))
    options = NetworkOptions(
        layer_norm=metadata.layer_norm,
        hidden_sizes=metadata.hidden_sizes,
        activation=metadata.activation if metadata.network in MLPS or not metadata.head_sizes else "relu",
        support=metadata.support,
        channels=metadata.channels,
        hidden=metadata.hidden,
    )
    if metadata.head_hidden is not None:
        options["head_hidden"] = metadata.head_hidden
    network = make_network(metadata.network, metadata.num_outputs, **options)
    if metadata.is_continuous:
        is_tanh = metadata.output == "means" and metadata.squashed
        bounds = (metadata.action_low, metadata.action_high) if is_tanh else ((), ())
        network = network.clone(head=ContinuousHead(metadata.num_outputs, metadata.log_std_bounds, *bounds))
    if metadata.head_sizes:
        if metadata.support or metadata.layer_norm:
            raise UserError("head_sizes: a categorical head and layer_norm do not go with them")
        head = DeepHead(metadata.num_actions, metadata.head_sizes, metadata.activation)
        network = network.clone(head=head)
    if metadata.applied_statistics is not None:
        normalisation = Normalisation.of(metadata.applied_statistics)
        network = network.clone(torso=network.torso.clone(normalisation=normalisation))
    return shared(network)


def build_student(metadata: TeacherMetadata) -> Student:
    """Makes the network of several games that the metadata names.

    Raises:
      UserError: there is no such network, or a game that it is for is not known.
    """
    return make_joint_network(
        metadata.network,
        [get_task(game) for game in metadata.games],
        layer_norm=metadata.layer_norm,
        hidden_sizes=metadata.hidden_sizes,
        activation=metadata.activation,
        support=metadata.support,
        channels=metadata.channels,
        hidden=metadata.hidden,
        head_hidden=metadata.head_hidden,
    )


def check_fits(params: Mapping[str, Any], metadata: TeacherMetadata, path: PathLike) -> None:
    """Checks the weights against the network, and both against the task.

    Raises:
      UserError: the teacher sees or does something else than its task shows and lets one do, it needs what this
        version cannot apply, or a tensor is missing, is one too many, or has another shape. The message begins with
        ``path``.
    """
    try:
        _check_applied(metadata)
        _check_fits_task(metadata)
        variables = jax.eval_shape(_initialiser(metadata), jax.random.key(0))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_params(params, jax.tree.map(lambda leaf: leaf.shape, variables["params"]), path)
    if max(float(np.abs(leaf).max(initial=0)) for leaf in jax.tree.leaves(params)) > _LARGE_WEIGHT:
        _check_outputs(params, metadata, path)


def _check_outputs(params: Mapping[str, Any], metadata: TeacherMetadata, path: PathLike) -> None:
    """Finite weights of an absurd size give outputs that are not finite."""
    network, task = build_network(metadata), get_task(metadata.game)
    generator = np.random.default_rng(0)
    shape = (_PROBES, *task.observation_shape)
    seen = generator.integers(256, size=shape) if task.kind == "atari" else generator.normal(size=shape)
    outputs = jax.jit(network.apply)({"params": params}, jnp.asarray(seen, task.observation_dtype))
    if not np.isfinite(outputs).all():
        raise UserError(f"{path}: gives NaN or infinite values for random observations: its weights are of no use")


def _initialiser(metadata: TeacherMetadata) -> Callable[[Array], Any]:
    if metadata.games:
        return build_student(metadata).init
    task = get_task(metadata.game)
    return Student(build_network(metadata), (task,)).init


def _check_applied(metadata: TeacherMetadata) -> None:
    if metadata.unapplied:
        raise UserError(f"needs {metadata.unapplied}, which this pd_jax cannot apply: upgrade pd_jax")


def _listed(numbers: tuple[float, ...]) -> str:
    """A range's bounds: one number where all are the same."""
    return ", ".join(f"{number:g}" for number in (numbers if len(set(numbers)) > 1 else numbers[:1]))


def _check_fits_task(metadata: TeacherMetadata) -> None:
    task, observation = get_task(metadata.game), metadata.observation
    if metadata.is_continuous != task.is_continuous:
        has = {True: "continuous actions", False: "actions to choose among"}
        raise UserError(f"has {has[metadata.is_continuous]}, {task.name} has {has[task.is_continuous]}")
    if metadata.num_actions != task.num_actions:
        raise UserError(f"has {metadata.num_actions} actions, {task.name} has {task.num_actions}")
    if (metadata.action_low, metadata.action_high) != (task.action_low, task.action_high):
        raise UserError(
            f"its actions are from {_listed(metadata.action_low)} to {_listed(metadata.action_high)}; those of "
            f"{task.name} are from {_listed(task.action_low)} to {_listed(task.action_high)}"
        )
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
