"""Policies that have learnt nothing, with weights from a generator: of all networks, without compiling anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy import StudentPolicy, TrainedStudent
from pd_jax.distill.counters import DistillCounters
from pd_jax.environments.tasks import Task, get_task
from pd_jax.networks.student import Student, make_student
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.checks import build_network


def random_weights(shapes: Any, seed: int = 0) -> Any:
    """Normal, of the size that keeps outputs about 1; norms and biases too, so that none can be left out unseen."""
    generator = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        inputs = max(1, int(np.prod(leaf.shape[:-1]))) if len(leaf.shape) > 1 else 4
        return (generator.standard_normal(leaf.shape) * np.sqrt(2 / inputs)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def random_teacher(game: str, **changes: Any) -> Teacher:
    """A teacher of ``pong`` or ``cartpole`` as their bundled ones, but for changes to the metadata and the weights."""
    metadata = dataclasses.replace(load(game).metadata, **({"layer_norm": False} | changes))
    student = Student(build_network(metadata), (get_task(game),))
    shapes = jax.eval_shape(student.init, jax.random.key(0))
    return Teacher(metadata, random_weights(shapes["params"]), f"random {game}", "0" * 64)


def random_student(games: Sequence[str], **options: Any) -> StudentPolicy:
    """A student of some games, of which ``for_game`` chooses."""
    config = StudentConfig(**options)
    student = make_student(config, [get_task(game) for game in games])
    variables = random_weights(jax.eval_shape(student.init, jax.random.key(0)))
    settings = DistillConfig(teacher=tuple(games), game=tuple(games), out="x", student=config)
    return StudentPolicy(TrainedStudent(student, variables, settings, DistillCounters()), "runs/random")


def random_observations(task: Task, count: int) -> np.ndarray:
    """As the task shows them."""
    generator = np.random.default_rng(1)
    if task.kind == "atari":
        return generator.integers(0, 256, (count, *task.observation_shape)).astype(np.uint8)
    return generator.standard_normal((count, *task.observation_shape)).astype(np.float32)


def metadata_of(task: Task) -> dict[str, Any]:
    """The least that a file says of its policy."""
    return {
        "format_version": 1,
        "game": task.name,
        "action_names": list(task.action_names),
        "observation": {"shape": list(task.observation_shape), "dtype": task.observation_dtype},
    }
