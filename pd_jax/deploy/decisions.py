"""Decisions of a policy for `pd_jax.deploy.monitor`: of its own play, of a recording."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from pd_jax.config.monitor import DisturbanceConfig
from pd_jax.deploy.policy import StudentPolicy, refuse_continuous, refuse_memory, refuse_senses
from pd_jax.deploy.runtime import Policy as FilePolicy
from pd_jax.deploy.runtime import PolicyError
from pd_jax.deploy.signals import Decisions, sight_of
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.joint import GameNetwork
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.replay.recordings import Dataset
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.teachers import Teacher
from pd_jax.teachers.files import params_fingerprint

_RECORDED_STEPS = 32


class Watched(NamedTuple):
    """A policy that is watched: a student's, a teacher's, or an exported file's.

    Attributes:
      name: what messages call it.
      game: that it plays.
      action_names: of the game.
      temperature: outputs are divided by it for their entropy.
      parameters: SHA-256 of its parameters.
      decide: observations to outputs ``[N, A]``, and features ``[N, F]`` or None.
      quantisation: what an exported file in 8-bit integers says of it; None for others.
    """

    name: str
    game: str
    action_names: tuple[str, ...]
    temperature: float
    parameters: str
    decide: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    quantisation: Any = None


def watched_policy(policy: GreedyPolicy) -> Watched:
    """A student or a teacher.

    Raises:
      UserError: it has memory, or senses of its own.
    """
    refuse_continuous(policy, "policy")
    refuse_memory(policy, "policy")
    refuse_senses(policy, "policy")
    return Watched(
        policy.name,
        policy.task.name,
        policy.task.action_names,
        _temperature("logits" if policy.gives_logits else "q"),
        params_fingerprint(policy.variables["params"]),
        _decider(policy),
    )


def watched_file(path: str) -> Watched:
    """An ONNX file of ``pd-jax export``, which has outputs alone.

    Raises:
      UserError: it is none, or damaged, or ONNX Runtime is missing.
    """
    try:
        policy = FilePolicy.load(path)
    except PolicyError as error:
        raise UserError(str(error)) from None
    except ImportError:
        raise UserError(f"{path}: needs ONNX Runtime, which is not installed: pip install 'pd-jax[export]'") from None
    if policy.state_size:
        raise UserError(f"{path}: has memory, and this is for policies without")
    if "senses" in policy.metadata.get("observation", {}):
        raise UserError(f"{path}: has senses of its own, and this is for policies that see what their game shows")
    parameters = str(policy.metadata.get("hashes", {}).get("parameters", ""))
    temperature = _temperature(str(policy.metadata.get("output", "logits")))
    return Watched(
        path,
        policy.game,
        policy.action_names,
        temperature,
        parameters,
        lambda frames: (policy.outputs(frames), None),
        policy.metadata.get("quantisation"),
    )


def _temperature(output: str) -> float:
    # As in distillation: Q-values are flat where logits are peaked.
    return 0.01 if output == "q" else 1.0


def _decider(policy: GreedyPolicy) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
    """Outputs and what the torso makes of observations, in one pass; a function of somebody's has no torso."""
    network: Any = policy.trained.student.network if isinstance(policy, StudentPolicy) else None
    if isinstance(policy, Teacher):
        network = policy.network
        network = network.apply.student.network if isinstance(network, GameNetwork) else network
    if not isinstance(network, PolicyNetwork | MultiGameNetwork):
        return lambda observations: (np.asarray(policy.outputs(observations)), None)

    @jax.jit
    def forward(variables: Any, observations: Any) -> tuple[Any, Any]:
        return _outputs_and_features(policy, network, variables, observations)

    def decide(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with tracing_for(platform_of(policy.variables)):
            outputs, features = forward(policy.variables, observations)
        return np.asarray(outputs), np.asarray(features, np.float32)

    return decide


def _outputs_and_features(policy: GreedyPolicy, network: Any, variables: Any, observations: Any) -> tuple[Any, Any]:
    seen: list[Any] = []

    def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = call(*args, **kwargs)
        if context.module.name == "torso" and context.method_name == "__call__":
            seen.append(found)
        return found

    with nn.intercept_methods(keep):
        outputs = policy.apply(variables, observations)
    return outputs, seen[-1]


def own_decisions(
    watched: Watched,
    task: Task,
    *,
    num_lanes: int,
    epsilon: float,
    seed: int,
    options: dict[str, Any],
    disturbance: DisturbanceConfig,
    teacher: GreedyPolicy | None = None,
) -> Generator[Decisions, None, None]:
    """What a policy decides when it plays, step by step without end.

    Args:
      watched: the policy.
      task: its game.
      num_lanes: games side by side.
      epsilon: chance of a random action.
      seed: of the emulators and of all that is drawn here.
      options: of `Environment`.
      disturbance: of the frames that the policy sees.
      teacher: is asked what it would have done.
    """
    generator = np.random.default_rng(seed)
    environment = Environment(task, num_lanes, seed, stepping="host", **options)
    try:
        _, timestep = environment.reset()
        is_last, is_first = np.zeros(num_lanes, bool), np.ones(num_lanes, bool)
        while True:
            observations = disturbed(np.ascontiguousarray(timestep.observations), disturbance, generator)
            outputs, features = watched.decide(observations)
            explores = generator.random(num_lanes) < epsilon
            actions = np.where(
                explores, generator.integers(task.num_actions, size=num_lanes), np.asarray(outputs).argmax(axis=1)
            )
            yield Decisions(
                outputs, actions, is_first, ~is_last, features, sight_of(observations), _asked(teacher, observations)
            )
            timestep = environment.step_host(actions, is_last)
            is_last, is_first = np.asarray(timestep.is_last), np.asarray(timestep.is_first)
    finally:
        environment.close()


def disturbed(observations: np.ndarray, disturbance: DisturbanceConfig, generator: np.random.Generator) -> np.ndarray:
    """Observations with noise and a black square, as a camera may show them; vectors with noise alone."""
    if disturbance.noise:
        noisy = observations + generator.normal(0.0, disturbance.noise, observations.shape)
        if observations.dtype == np.uint8:
            noisy = np.clip(np.rint(noisy), 0, 255)
        observations = noisy.astype(observations.dtype)
    if disturbance.occlusion and observations.ndim == 4:
        observations = observations.copy()
        middle = (observations.shape[1] - disturbance.occlusion) // 2
        hidden = slice(middle, middle + disturbance.occlusion)
        observations[:, hidden, hidden] = 0
    return observations


def recorded_decisions(
    watched: Watched, path: str, task: Task, teacher: GreedyPolicy | None = None
) -> Generator[Decisions, None, None]:
    """What a policy decides on what a recording shows; the actions are those that were recorded.

    Raises:
      UserError: there is no recording, or it is of another game.
    """
    dataset = Dataset.open(path)
    dataset.check_matches(task.name, task.num_actions)
    stacks: np.ndarray | None = None
    for trajectory in dataset.trajectories(_RECORDED_STEPS):
        for index, observations in enumerate(np.asarray(trajectory.observations)):
            is_first = np.asarray(trajectory.is_first[index])
            if task.kind == "atari":
                filled = np.repeat(observations[..., None], 4, axis=-1)
                moved = filled if stacks is None else np.concatenate([stacks[..., 1:], observations[..., None]], -1)
                observations = stacks = np.where(is_first[:, None, None, None], filled, moved)
            observations = np.ascontiguousarray(observations)
            outputs, features = watched.decide(observations)
            yield Decisions(
                outputs,
                np.asarray(trajectory.actions[index]),
                is_first,
                np.asarray(trajectory.is_decision[index]),
                features,
                sight_of(observations),
                _asked(teacher, observations),
            )


def _asked(teacher: GreedyPolicy | None, observations: np.ndarray) -> np.ndarray | None:
    return None if teacher is None else np.asarray(teacher.outputs(observations)).argmax(axis=1)
