"""What training a teacher takes, from the shapes of what it allocates."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.algorithms import DQNConfig, PPOConfig, PQNConfig
from pd_jax.config.sections import EvaluationConfig
from pd_jax.environments.tasks import Task
from pd_jax.networks.policy import count_params
from pd_jax.networks.student import Student
from pd_jax.replay import transitions
from pd_jax.resources.liveness import tree_bytes
from pd_jax.resources.memory import Part, largest
from pd_jax.resources.parts import (
    emulators_part,
    evaluation_part,
    forward_bytes,
    minibatch_bytes,
    rollout_part,
    spell_games,
)
from pd_jax.trainers.guided_pqn import GuidedPQN
from pd_jax.trainers.ppo import STATISTICS, PlayedStep, Samples
from pd_jax.trainers.pqn import Transitions

# What the rollout's scan stacks up, and the rows that the minibatches of the epochs are taken from.
_COPIES = 2


def learning_parts(
    student: Student, learning: PQNConfig | DQNConfig | PPOConfig, state: Any, key: str, evaluation: EvaluationConfig
) -> tuple[Part, ...]:
    """What a network that learns from rewards takes, and its games.

    Args:
      student: the network, of one game or several.
      learning: how it learns.
      state: of the learner, or its shapes.
      key: the setting that names the network.
      evaluation: how it is scored on the way.
    """
    name = {PQNConfig: "pqn", DQNConfig: "dqn", PPOConfig: "ppo"}[type(learning)]
    tasks, lanes = student.tasks, learning.num_lanes
    num_params = count_params(state.variables)
    learner = Part(
        "learner",
        tree_bytes(state) + 2 * tree_bytes(state.variables),
        f"{key}: training {num_params:,} parameters takes",
    )
    weights = {name: value for name, value in state.variables.items() if name != STATISTICS}
    policies = [(student.policy(game), weights) for game in range(student.num_games)]
    play = max(
        forward_bytes(apply, variables, task, lanes) for (apply, variables), task in zip(policies, tasks, strict=True)
    )
    activations = [
        Part("activations", play, f"{name}.num_lanes: {lanes} lanes at once take"),
        evaluation_part(evaluation, policies[:1], tasks[:1]),
        _minibatch_part(student, learning),
    ]
    both = [(task, lanes) for task in tasks]
    emulators = emulators_part(f"{name}.num_lanes", both, evaluation, tasks)
    return (*_stored_parts(student, learning), learner, largest(activations), emulators)


def teacher_part(guided: GuidedPQN, learning: PQNConfig) -> Part:
    """What a teacher takes that guides: its weights, and its outputs for a rollout."""
    (task,) = guided.student.tasks
    outputs = 4 * learning.steps_per_rollout * task.num_actions
    weights = guided.teacher.variables
    policy = forward_bytes(guided.teacher.apply, weights, task, learning.steps_per_rollout // learning.minibatches)
    subject = f"guidance.teacher: a teacher of {count_params(weights):,} parameters takes"
    return Part("teacher", tree_bytes(weights) + outputs + policy, subject)


def _stored_parts(student: Student, learning: PQNConfig | DQNConfig | PPOConfig) -> tuple[Part, ...]:
    """What is learnt from."""
    tasks, lanes, length = student.tasks, learning.num_lanes, learning.rollout_length
    if isinstance(learning, DQNConfig):
        size = sum(tree_bytes(_dqn_replay(learning, task)) for task in tasks)
        subject = f"dqn.replay_capacity: {learning.replay_capacity} steps of {spell_games(tasks)} take"
        return Part("replay", size, subject), rollout_part("dqn.num_lanes", [(task, lanes) for task in tasks], length)
    if isinstance(learning, PPOConfig):
        (task,) = tasks
        size = _COPIES * (tree_bytes(_ppo_steps(learning, task)) + tree_bytes(_ppo_samples(learning, task)))
        return (Part("rollout", size, f"ppo.rollout_length: {length} steps of {lanes} lanes of {task.name} take"),)
    size = _COPIES * sum(tree_bytes(_pqn_transitions(learning, task)) for task in tasks)
    subject = f"pqn.rollout_length: {length} steps of {lanes} lanes of {spell_games(tasks)}, in whole stacks, take"
    return (Part("rollout", size, subject),)


def _minibatch_part(student: Student, learning: PQNConfig | DQNConfig | PPOConfig) -> Part:
    if isinstance(learning, PPOConfig):
        batch = learning.steps_per_rollout // learning.minibatches
        # Of the policy and of the critic, which is as large.
        size = 2 * minibatch_bytes(student, batch)
        return Part("activations", size, f"ppo.minibatches: {batch} samples take")
    if isinstance(learning, PQNConfig):
        batch = learning.steps_per_rollout // learning.minibatches
        subject = f"pqn.minibatches: {batch} samples of {spell_games(student.tasks)} take"
        return Part("activations", minibatch_bytes(student, batch), subject)
    is_one_game = learning.games == "alternating" and student.num_games > 1
    subject = f"dqn.batch_size: {learning.batch_size} samples take"
    return Part("activations", minibatch_bytes(student, learning.batch_size, is_one_game), subject)


def _dqn_replay(learning: DQNConfig, task: Task) -> Any:
    init = functools.partial(
        transitions.init,
        learning.num_lanes,
        learning.capacity_per_lane,
        task.frame_shape,
        jnp.dtype(task.observation_dtype),
    )
    return jax.eval_shape(init)


def _pqn_transitions(learning: PQNConfig, task: Task) -> Transitions:
    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((learning.rollout_length, learning.num_lanes, *shape), jnp.dtype(dtype))

    numbers = of("float32")
    observations, flags = of(task.observation_dtype, *task.observation_shape), of(bool)
    return Transitions(observations, of("int32"), numbers, numbers, flags, flags, numbers)


def _ppo_steps(learning: PPOConfig, task: Task) -> PlayedStep:
    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((learning.rollout_length, learning.num_lanes, *shape), jnp.dtype(dtype))

    size, flags = task.num_actions, of(bool)
    observations = of(task.observation_dtype, *task.observation_shape)
    actions, outputs = of("float32", size), of("float32", 2 * size)
    return PlayedStep(observations, actions, outputs, of("float32"), flags, flags, flags)


def _ppo_samples(learning: PPOConfig, task: Task) -> Samples:
    def of(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((learning.steps_per_rollout, *shape), jnp.float32)

    return Samples(of(*task.observation_shape), of(task.num_actions), *(of() for _ in range(5)))
