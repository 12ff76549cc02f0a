"""What goes into the ``summary.json`` of an online run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pd_jax.evaluation.scores import Score
from pd_jax.networks.policy import count_params
from pd_jax.online.setup import OnlineSetup
from pd_jax.online.state import OnlineCounters
from pd_jax.runs.summary import Summary


def summarise_online(
    setup: OnlineSetup,
    counters: OnlineCounters,
    student: Any,
    target: Any,
    scores: Mapping[str, Score],
    wall_seconds: float,
) -> Summary:
    """The summary; its teacher, with which the student is compared, is the target.

    Args:
      setup: of the run.
      counters: where it stands.
      student: its variables at the end.
      target: likewise.
      scores: of the final games of ``student``, ``target`` and ``teacher``.
      wall_seconds: of all sessions together.
    """
    config, task, devices = setup.config, setup.task, setup.student_setup.devices
    network = setup.target.metadata.network
    about: dict[str, Any] = {
        "student_network": config.student.network,
        "teacher_network": network,
        "teacher": f"{task.name}-{network}, {config.target}",
        "started_from": config.only_teacher,
        **({} if counters.init_from is None else {"init_from": counters.init_from}),
        "loss": config.loss.kind,
        **(
            {"temperature": counters.play.temperature, "target_entropy": config.loss.target_entropy}
            if config.loss.is_auto
            else {}
        ),
        "target": config.target,
        "target_changes": counters.target_changes,
        "target_env_steps": counters.target_env_steps,
        "teacher_env_steps": counters.teacher_env_steps,
        "stale": config.stale,
        "relabelled_steps": counters.relabelling.steps,
        "relabel_seconds": counters.relabelling.seconds,
        "learning_curve": counters.curve,
        "evaluation_epsilon": config.evaluation.epsilon,
        "max_noops": config.env.max_noops,
        **({"protocol": config.protocol_name} if task.is_console else {}),
        "devices": devices.size,
        "platform": devices.platform,
    }
    if setup.snapshots is not None:
        about["teacher_snapshots"] = list(setup.snapshots.sources)
    return Summary.compare(
        {task.name: scores["target"]},
        {task.name: scores["student"]},
        random_scores={task.name: task.random_score},
        about_games={task.name: scores["teacher"].entries("latest_teacher")},
        student_parameters=count_params(student),
        teacher_parameters=count_params(target),
        wall_seconds=wall_seconds,
        env_steps=counters.play.env_steps,
        updates=counters.updates,
        about=about,
    )
