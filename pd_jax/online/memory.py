"""What an online run takes: a student's distillation, and a teacher's training."""

from __future__ import annotations

from typing import Any

from pd_jax.config.online import OnlineConfig
from pd_jax.distill.memory import distillation_parts
from pd_jax.networks.policy import count_params
from pd_jax.networks.student import Student
from pd_jax.online.state import state_template
from pd_jax.resources.liveness import tree_bytes
from pd_jax.resources.memory import MemoryEstimate, Part, largest
from pd_jax.resources.parts import checkpoint_part
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
    teacher = Student(network, student.tasks)
    distilling = distillation_parts(config.distillation, student, [(network.apply, state.target)], devices)
    learning = learning_parts(teacher, config.pqn, state.teacher, "teacher_network", config.evaluation)
    parts = [part for part in (*distilling, *learning) if part.name not in ("activations", "teachers", "checkpoint")]
    # The student, the teacher and the target take turns.
    parts.append(largest(part for part in (*distilling, *learning) if part.name == "activations"))
    # While a snapshot becomes the target, the one before it is still there.
    parts.append(Part("target", 2 * tree_bytes(state.target), "teacher_network: snapshots take"))
    num_params = count_params((state.teacher.variables, state.student.variables, state.target))
    parts.append(checkpoint_part("teacher_network", state, num_params))
    return MemoryEstimate(tuple(parts), devices)
