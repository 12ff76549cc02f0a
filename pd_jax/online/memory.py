"""What an online run takes: a student's distillation, and a teacher's training."""

from __future__ import annotations

from typing import Any

import jax

from pd_jax.config.online import OnlineConfig
from pd_jax.distill.memory import distillation_parts
from pd_jax.networks.policy import count_params
from pd_jax.networks.student import Student
from pd_jax.online.state import state_template
from pd_jax.resources.liveness import tree_bytes
from pd_jax.resources.memory import MemoryEstimate, Part, largest
from pd_jax.resources.parts import checkpoint_part, evaluation_part
from pd_jax.system.devices import DeviceGroup
from pd_jax.trainers.memory import learning_parts


def online_memory(config: OnlineConfig, student: Student, network: Any, devices: DeviceGroup) -> MemoryEstimate:
    """What a run takes.

    Args:
      config: resolved.
      student: the network that is distilled into.
      network: the learning teacher's, and the target's.
      devices: that the student's part runs on; the teacher is on the first one.
    """
    state = state_template(config, student)
    teacher = Student(network, student.shown)
    if config.teacher_snapshots is None:
        key, variables, learnt = "teacher_network", state.target, state.teacher.variables
        learning = learning_parts(teacher, config.pqn, state.teacher, key, config.evaluation)
    else:
        key, variables = "teacher_snapshots", jax.eval_shape(teacher.init, jax.random.key(0))
        learnt = ()
        # The first snapshot, and the present one.
        weights = Part("learner", 2 * tree_bytes(variables), f"{key}: snapshots take")
        learning = (weights, evaluation_part(config.evaluation, [(network.apply, variables)], student.shown))
    distilling = distillation_parts(config.distillation, student, [(network.apply, variables)], devices)
    parts = [part for part in (*distilling, *learning) if part.name not in ("activations", "teachers", "checkpoint")]
    # The student, the teacher and the target take turns.
    parts.append(largest(part for part in (*distilling, *learning) if part.name == "activations"))
    # While a snapshot becomes the target, the one before it is still there.
    parts.append(Part("target", 2 * tree_bytes(variables), f"{key}: snapshots take"))
    num_params = count_params((learnt, state.student.variables, state.target))
    parts.append(checkpoint_part(key, state, num_params))
    return MemoryEstimate(tuple(parts), devices)
