"""Policies of continuous actions as PyTorch's libraries have them, in our layout.

Our network gives D means and then D log standard deviations, or D means alone. A standard deviation that does not
depend on the observation, as PPO and A2C have it, becomes biases whose weights are 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.teachers.files import Params
from pd_jax.teachers.importers.conversion import check_actions, layer, network_params
from pd_jax.teachers.metadata import Malformed

Layer = tuple[np.ndarray, np.ndarray]
"""Weight ``[out, in]`` and bias ``[out]``, as PyTorch has them."""


def free_deviations(mean: Layer, log_std: np.ndarray) -> Layer:
    """The output layer of means and of log standard deviations ``[D]`` that are the same for all observations."""
    weight, bias = mean
    if log_std.shape != bias.shape:
        raise Malformed(f"has {bias.size} means and standard deviations of shape {log_std.shape}")
    return np.concatenate([weight, np.zeros_like(weight)]), np.concatenate([bias, log_std])


def joined(mean: Layer, log_std: Layer) -> Layer:
    """The output layer of means and of log standard deviations that are layers both."""
    if mean[0].shape != log_std[0].shape:
        raise Malformed(f"has means of shape {mean[0].shape} and standard deviations of shape {log_std[0].shape}")
    return np.concatenate([mean[0], log_std[0]]), np.concatenate([mean[1], log_std[1]])


def to_range(output: Layer, task: Task, *, has_deviations: bool) -> Layer:
    """The output layer of a policy that acts between -1 and 1, for one that acts between the bounds of the task."""
    low, high = np.array(task.action_low, np.float64), np.array(task.action_high, np.float64)
    scale, centre = (high - low) / 2, (high + low) / 2
    weight, bias = (array.astype(np.float64) for array in output)
    count = len(centre)
    weight[:count] *= scale[:, None]
    bias[:count] = bias[:count] * scale + centre
    if has_deviations:
        bias[count:] += np.log(scale)
    return weight, bias


def to_params(
    hidden: Sequence[Layer], output: Layer, task: Task, *, has_deviations: bool
) -> tuple[Params, tuple[int, ...]]:
    """The parameters of our ``mlp``, and the widths of its hidden layers.

    Raises:
      Malformed: a layer does not fit the one before it, or there are other observations or actions than the task's.
    """
    width = task.observation_shape[0]
    for index, (weight, _) in enumerate((*hidden, output)):
        if weight.shape[1] != width:
            before = f"{task.name} shows {width}" if index == 0 else f"the layer before it gives {width}"
            raise Malformed(f"a layer takes {weight.shape[1]} numbers, and {before}")
        width = weight.shape[0]
    check_actions(len(output[1]) // (2 if has_deviations else 1), task)
    torso = {f"fc{index + 1}": layer(weight.T, bias) for index, (weight, bias) in enumerate(hidden)}
    return network_params(torso, layer(output[0].T, output[1])), tuple(len(bias) for _, bias in hidden)


def check_task(task: Task) -> None:
    """Raises `Malformed` unless the task's actions are continuous and its observations vectors."""
    if not task.is_continuous:
        raise Malformed(f"its actions are continuous; {task.name} has {task.num_actions} discrete ones")
    if task.kind == "atari":
        raise Malformed(f"its network sees vectors, and {task.name} shows frames")
