"""The weights of a Stable-Baselines3 policy of continuous actions: PPO, A2C, SAC, TD3, DDPG and TQC."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from pd_jax.environments.tasks import Task
from pd_jax.teachers.files import Params
from pd_jax.teachers.importers.gaussian_policies import check_task, free_deviations, joined, to_params
from pd_jax.teachers.importers.sb3_weights import Reader
from pd_jax.teachers.metadata import Malformed

_ACTION_NET = "action_net."
_NOT_NEEDED = {
    "ppo": ("mlp_extractor.value_net.", "value_net."),
    "sac": ("critic.", "critic_target."),
    "td3": ("critic.", "critic_target.", "actor_target."),
}
# SAC's own, to which it clips what its layer of log standard deviations gives.
_BOUNDS = (-20.0, 2.0)
_KINDS = {"sac": "sac", "tqc": "sac", "td3": "td3", "ddpg": "td3"}


@dataclasses.dataclass(frozen=True)
class ContinuousPolicy:
    """A policy in our layout.

    Attributes:
      params: of our ``mlp``.
      hidden_sizes: of its hidden layers.
      output: ``"gaussian"``, or ``"means"`` of a deterministic policy.
      squashed: whether tanh takes the means to the range of the actions.
      log_std_bounds: that log standard deviations are clipped to; None leaves them.
    """

    params: Params
    hidden_sizes: tuple[int, ...]
    output: Literal["gaussian", "means"]
    squashed: bool
    log_std_bounds: tuple[float, float] | None


def is_continuous(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the tensors of a policy of continuous actions."""
    return "log_std" in tensors or any(name.startswith("actor.") for name in tensors)


def algorithm_of(tensors: Mapping[str, np.ndarray]) -> str:
    """What a policy that was saved alone can be, by its tensors."""
    if "log_std" in tensors:
        return "actor-critic"
    return "sac" if "actor.mu.weight" in tensors else "td3"


def convert_continuous(tensors: Mapping[str, np.ndarray], algorithm: str, task: Task) -> ContinuousPolicy:
    """Converts the policy's part of the tensors.

    Args:
      tensors: of ``policy.pth``, by name.
      algorithm: ``"sac"``, ``"tqc"``, ``"td3"``, ``"ddpg"``, or the name of an actor-critic.
      task: that it plays.

    Raises:
      Malformed: a tensor is missing, is one too many or has another shape.
    """
    check_task(task)
    read, kind = Reader(tensors), _KINDS.get(algorithm, "ppo")
    if kind == "ppo":
        hidden = [*read.sequence("mlp_extractor.shared_net."), *read.sequence("mlp_extractor.policy_net.")]
        output = free_deviations(read.pair(_ACTION_NET), read.vector("log_std"))
    elif kind == "sac":
        hidden = read.sequence("actor.latent_pi.")
        output = joined(read.pair("actor.mu."), read.pair("actor.log_std."))
    else:
        hidden = read.sequence("actor.mu.")
        if not hidden:
            raise Malformed("tensor 'actor.mu.0.weight' is missing")
        output = hidden.pop()
    read.check_nothing_else(_NOT_NEEDED[kind])
    has_deviations = kind != "td3"
    params, hidden_sizes = to_params(hidden, output, task, has_deviations=has_deviations)
    output_kind: Literal["gaussian", "means"] = "gaussian" if has_deviations else "means"
    return ContinuousPolicy(params, hidden_sizes, output_kind, kind != "ppo", _BOUNDS if kind == "sac" else None)


def check_range(space: Mapping[str, Any], task: Task) -> None:
    """Raises `Malformed` unless a box of actions, as an archive describes it, is that of the task.

    A range that the archive does not tell in numbers is taken for the task's.
    """
    shape = space.get("_shape", space.get("shape"))
    if shape != [task.num_actions]:
        raise Malformed(f"its actions have shape {str(shape)[:40]}; those of {task.name} have [{task.num_actions}]")
    for name, wanted in (("low", task.action_low), ("high", task.action_high)):
        found = _numbers(space.get(name), len(wanted))
        if found is not None and not np.allclose(found, wanted, rtol=1e-5, atol=1e-6):
            raise Malformed(f"its actions are {name} {_told(found)}; those of {task.name} are {name} {_told(wanted)}")


def _numbers(text: Any, count: int) -> list[float] | None:
    """The numbers of NumPy's way to print a vector, if they are all there."""
    words = re.findall(r"[^\s\[\],]+", text) if isinstance(text, str) and len(text) < 2**16 else []
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return numbers if len(numbers) == count else None


def _told(numbers: Any) -> str:
    values = [f"{float(number):g}" for number in numbers]
    return values[0] if len(set(values)) == 1 else f"[{', '.join(values[:8])}]"
