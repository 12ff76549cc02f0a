"""What an exported file says of its policy."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np

from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.distill.counters import GameCounters
from pd_jax.environments.senses import FULL_SIZE
from pd_jax.environments.tasks import RAM_SIZE, Task
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.runs.directory import read_run
from pd_jax.teachers import Teacher
from pd_jax.teachers.files import fingerprint, params_fingerprint
from pd_jax.version import __version__


def describe_policy(policy: GreedyPolicy, score: Score | None, protocol: Protocol) -> dict[str, Any]:
    """The metadata of a file.

    Args:
      policy: a student or a teacher.
      score: that was taken for the export; None if none was.
      protocol: of this score.
    """
    task, observation = policy.task, describe_observation(policy)
    memory = _describe_memory(policy)
    measured = None
    if score is not None:
        measured = {
            "policy": score.to_json(),
            "protocol": named_rules(task, protocol),
            "by": "JAX, when it was exported",
        }
    return {
        "format_version": 3 if task.is_continuous else 1 if memory is None else 2,
        "game": task.name,
        "env_id": task.env_id,
        "action_names": list(task.action_names),
        "observation": observation,
        **_of_outputs(policy),
        "parameters": policy.num_params,
        **(_of_student(policy) if isinstance(policy, StudentPolicy) else _of_teacher(policy)),
        **({} if memory is None else {"memory": memory}),
        "measured": measured,
        "versions": {"pd_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _describe_memory(policy: GreedyPolicy) -> dict[str, Any] | None:
    """What a file says of the state that each lane carries; None of a policy without."""
    state = policy.initial_state(1)
    if state is None or not isinstance(policy, StudentPolicy):
        return None
    student = policy.trained.student
    told = {"kind": "none" if student.memory is None else student.memory.kind, "state_size": state.shape[1]}
    return told | ({"last_actions": student.last_actions} if student.last_actions else {})


def describe_observation(policy: GreedyPolicy) -> dict[str, Any]:
    """What a file says of what its policy sees, and how that is made."""
    task = policy.task
    observation: dict[str, Any] = {
        "kind": task.kind,
        "shape": list(task.observation_shape),
        "dtype": task.observation_dtype,
    }
    if task.kind == "atari":
        stack, size = task.stack, task.frame_shape[0]
        smaller = "" if size == FULL_SIZE else f", and from there by means over areas, halves up, to {size}x{size}"
        copies = {4: "four copies", 1: "one copy"}.get(stack, f"{stack} copies")
        observation["rule"] = {
            "screens": "grey 210x160, as ALE's getScreenGrayscale gives them",
            "frame_skip": 4,
            "maximum_of": 2,
            "resized": f"INTER_AREA to {FULL_SIZE}x{FULL_SIZE}{smaller}",
            "stack": stack,
            "order": f"oldest first; {copies} of its first frame open a game",
            "scaling": "1/255, inside the file",
        }
    elif task.ram:
        observation["rule"] = {"bytes": RAM_SIZE, "scaling": "1/255 in float32, before the file"}
    if policy.senses is not None:
        observation["senses"] = policy.senses.told
    return observation


def _of_outputs(policy: GreedyPolicy) -> dict[str, Any]:
    """What the outputs are; of a continuous task also the range of actions."""
    task = policy.task
    if not task.is_continuous:
        return {"output": "logits" if policy.gives_logits else "q"}
    is_gaussian = policy.num_outputs > task.num_actions
    return {
        "output": "gaussian" if is_gaussian else "means",
        "action_range": {
            "low": list(task.action_low),
            "high": list(task.action_high),
            "squashed": task.squashed and is_gaussian,
        },
    }


def named_rules(task: Task, protocol: Protocol) -> dict[str, Any]:
    """A protocol with its name, which games of Atari have."""
    return {"name": protocol.name if task.is_console else None} | protocol.to_json()


def _of_student(policy: StudentPolicy) -> dict[str, Any]:
    trained, task = policy.trained, policy.task
    place, scored = trained.names.index(task.name), {}
    learnt_from = trained.counters.games[place] if place < len(trained.counters.games) else GameCounters()
    told: Any = None if policy.summary is None else policy.summary.get("temperature")
    temperature = told[place] if isinstance(told, list) else told
    if policy.summary is not None and task.name in policy.summary.games:
        entry = policy.summary.games[task.name]
        own = entry.teacher if isinstance(trained.config, TrainTeacherConfig) else entry.student
        scored = {
            "policy": None if own is None else own.to_json(),
            "teacher": None if entry.teacher is None else entry.teacher.to_json(),
            "protocol": named_rules(task, Protocol.of(trained.config, task)),
            "of": f"the end of the run, after {policy.summary.updates} updates",
        }
    return {
        "name": f"{task.name}-{trained.network}-student",
        "network": trained.network,
        "temperature": temperature,
        "scores": scored or None,
        "source": {"run": os.path.basename(os.path.abspath(policy.source)), "updates": trained.counters.updates},
        "hashes": {
            "parameters": params_fingerprint(policy.variables["params"]),
            "run_config": fingerprint(read_run(policy.source).config_path),
            "teacher": learnt_from.teacher_sha256 or None,
            "recording": learnt_from.recording or None,
        },
        "licence": "that of its teachers",
    }


def _of_teacher(policy: GreedyPolicy) -> dict[str, Any]:
    assert isinstance(policy, Teacher)
    metadata, scores = policy.metadata, None
    if evaluation := metadata.evaluation:
        own = ("mean", "standard_error", "ci95", "episodes")
        rules = {"name": metadata.protocol} | {key: value for key, value in evaluation.items() if key not in own}
        scores = {"policy": {key: evaluation.get(key) for key in own}, "protocol": rules, "of": "the teacher's file"}
    return {
        "name": metadata.name,
        "network": metadata.network,
        "temperature": None,
        "scores": scores,
        "source": {"teacher": os.path.basename(policy.source), "how_made": metadata.how_made},
        "hashes": {
            "parameters": params_fingerprint(policy.variables["params"]),
            "teacher_file": policy.sha256,
        },
        "licence": metadata.licence,
    }
