"""Finished runs for the tests of reports: real configurations and summaries, of students that nobody trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.loading import to_mapping
from pd_jax.config.sections import EvaluationConfig, LossConfig, StudentConfig
from pd_jax.distill.counters import DistillCounters, GameCounters
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.protocol import Rules
from pd_jax.evaluation.scores import Score
from pd_jax.learner.learner import learner_template
from pd_jax.networks.student import make_student
from pd_jax.report.groups import Report, build_report
from pd_jax.report.results import Recipe, Result, find_runs, read_results
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.students import network_label
from support.summaries import summary_of

PARAMETERS = {"dqn": 1_693_362, "net1": 427_874, "net2": 113_346, "net3": 61_954, "mlp": 386}


def write_distillation(
    path: Path,
    *,
    game: str = "pong",
    network: str = "net2",
    loss: str = "kl",
    temperature: float | None = 0.01,
    seed: int = 0,
    teacher: Sequence[float] = (18.0, 22.0),
    student: Sequence[float] = (17.0, 19.0),
    summary: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run of ``distill`` that ended with these returns; ``summary`` and ``settings`` replace entries."""
    config = DistillConfig(
        teacher=game,
        game=game,
        out=str(path),
        seed=seed,
        student=StudentConfig(network=network),  # type: ignore[arg-type]
        loss=LossConfig(kind=loss, temperature=temperature if loss == "kl" else None),  # type: ignore[arg-type]
        **settings,
    )
    random_score = get_task(game).random_score
    content = summary_of(
        {game: teacher},
        {game: student},
        random_scores={} if random_score is None else {game: random_score},
        student_parameters=PARAMETERS[network],
        teacher_parameters=PARAMETERS["dqn"],
        wall_seconds=1.0,
        env_steps=1000,
        updates=config.schedule.rounds * config.schedule.updates_per_round,
        student_network=network,
        teacher=f"{game}-dqn",
        teacher_network="dqn",
        loss=loss,
        evaluation_epsilon=config.evaluation.epsilon,
        max_noops=config.env.max_noops,
    )
    with RunDirectory.create(path, "distill", to_mapping(config)) as run:
        run.write_summary(content.to_json() | (summary or {}))
    return path


def write_evaluation(
    path: Path, of: Path, *, game: str = "pong", student: Sequence[float], teacher: Sequence[float] | None, **more: Any
) -> Path:
    """A run of ``evaluate`` that scored the student of the run ``of``, with its teacher or alone."""
    config = EvaluateConfig(run=str(of), teacher=None if teacher is None else game, game=game, out=str(path), **more)
    assert isinstance(config.evaluation, EvaluationConfig)
    both: dict[str, Any] = summary_of(
        {game: teacher or student},
        {game: student},
        student_parameters=PARAMETERS["net2"],
        teacher_parameters=PARAMETERS["dqn"],
        wall_seconds=1.0,
        env_steps=1000,
        updates=100_000,
    ).to_json()
    about = {"run": str(of), "student_network": "net2", "epsilon": config.evaluation.epsilon, "max_noops": 30}
    if teacher is None:
        entry = both["games"][game]
        alone = {name: entry[name] for name in ("student_score", "student_standard_error", "student_ci95", "episodes")}
        both = {"games": {game: alone}, "student_parameters": PARAMETERS["net2"], "updates": 100_000}
    else:
        about["teacher"] = f"{game}-dqn"
    with RunDirectory.create(path, "evaluate", to_mapping(config)) as run:
        run.write_summary(both | about)
    return path


def rules(
    epsilon: float | None, max_noops: int | None = 30, sticky: float | None = 0.0, limit: int | None = None
) -> Rules:
    """How games are played."""
    return Rules(epsilon=epsilon, max_noops=max_noops, sticky_action_probability=sticky, max_episode_steps=limit)


def read_all(*paths: Path) -> tuple[list[Result], list[str]]:
    """The results of runs, and the warnings that reading them gave."""
    warnings: list[str] = []
    results: list[Result] = []
    for run in find_runs(paths, warnings.append):
        results += read_results(run, warnings.append) or []
    return results, warnings


def report_of(*paths: Path) -> Report:
    return build_report(*read_all(*paths))


def result(
    *,
    game: str = "pong",
    network: str = "net2",
    loss: str | None = "kl",
    temperature: float | None = 0.01,
    seed: int | str = 0,
    student: float | Score | None = 18.0,
    teacher: float | Score | None = 20.0,
    random_score: float | None = 0.0,
    settings: dict[str, Any] | None = None,
    together: tuple[str, ...] = (),
    epsilon: float = 0.05,
    teacher_name: str = "a teacher",
    run: str | None = None,
    command: str = "distill",
) -> Result:
    """A result; a plain number is a score of 30 episodes with an interval of 1 to either side."""
    scores = [
        Score(score, 0.5, score - 1, score + 1, 30) if isinstance(score, int | float) else score
        for score in (student, teacher)
    ]
    return Result(
        run=run or f"runs/{game}-{network}-{loss}-{seed}",
        game=game,
        rules=rules(epsilon),
        recipe=Recipe(command, network, loss, temperature if loss == "kl" else None, together),
        settings=settings or {},
        seed=seed,
        teacher_name=teacher_name,
        student=scores[0],
        teacher=scores[1],
        random_score=random_score,
        student_parameters=PARAMETERS.get(network, 1000),
        teacher_parameters=PARAMETERS["dqn"],
        env_steps=1000,
        updates=100,
    )


def write_student_run(
    path: Path,
    games: Sequence[str],
    student: StudentConfig,
    *,
    updates: int = 100,
    params: Any = None,
    score: float | None = None,
) -> Path:
    """A run of ``distill`` that ended, with a checkpoint of a student that nobody trained, or of these parameters.

    With a score the checkpoint is the best of those that were scored on the way.
    """
    config = DistillConfig(teacher=tuple(games), game=tuple(games), out=str(path), student=student)
    template = learner_template(make_student(student, [get_task(game) for game in games]), config.learner, config.loss)
    generator = np.random.default_rng(0)
    # The PRNG key is the only leaf that is no plain array.
    state = jax.tree.map(
        lambda leaf: (
            jax.random.key(0)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else generator.standard_normal(leaf.shape).astype(leaf.dtype)
        ),
        template,
    )
    if params is not None:
        state = dataclasses.replace(state, variables={"params": params})
    counters = DistillCounters(
        updates=updates,
        network=network_label(student, [get_task(game) for game in games]),
        games=[
            GameCounters(name=game, env_steps=1000, teacher_sha256=f"{index}" * 64) for index, game in enumerate(games)
        ],
    )
    returns = {game: (10.0 + index, 12.0 + index) for index, game in enumerate(games)}
    summary = summary_of(
        returns, returns, student_parameters=1, teacher_parameters=2, updates=updates, temperature=0.01
    )
    with RunDirectory.create(path, "distill", to_mapping(config)) as run:
        with Checkpointer(run.checkpoints) as checkpointer:
            checkpointer.save(updates, state, counters.to_metadata(), score=score)
        run.write_summary(summary.to_json())
    return path
