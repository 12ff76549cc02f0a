"""``pd-jax evaluate``: the score of teachers, of a run's student, or of both."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.games import check_games
from pd_jax.config.loading import to_mapping
from pd_jax.deploy.student import TrainedStudent, load_trained
from pd_jax.deploy.workers import Player, play_side_by_side
from pd_jax.environments.ale import check_backend
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.networks.policy import count_params
from pd_jax.resources.jobs import choose_jobs, jobs_memory
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.resources.parts import evaluation_memory
from pd_jax.resources.profiler import profiling
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.students import load_teacher
from pd_jax.runs.summary import GameSummary, Summary, one_or_list
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Progress, print_line
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import check_named_protocol, check_protocol, check_teacher_plays
from pd_jax.teachers.teacher import count_teachers_params


@stoppable
@computing()
def run_evaluate(
    config: EvaluateConfig,
    teacher: Teacher | Sequence[Teacher] | None = None,
    *,
    stop: threading.Event | None = None,
) -> Summary:
    """Scores teachers, a run's student, or both under one protocol.

    Args:
      config: what to play, and how often.
      teacher: who plays instead of the teachers that the configuration names, if it names any.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the summary: of both policies, or of the one that was given.

    Raises:
      UserError: the teachers, the run and the games do not fit together.
      Interrupted: a signal came, or ``stop`` was set; there are no scores.
    """
    started = time.monotonic()
    trained = load_trained(config.run, checkpoint=config.checkpoint) if config.run is not None else None
    teachers = (teacher,) if isinstance(teacher, Teacher) else tuple(teacher or _load_teachers(config, trained))
    tasks = _tasks_of(config, teachers, trained)
    check_backend(config.env.backend, *tasks)
    for player in teachers:
        check_protocol(player, config)
    if trained is not None:
        check_named_protocol(f"{config.run}", trained.config.protocol, config)
    config = dataclasses.replace(config, game=tuple(task.name for task in tasks))
    by_game = {teacher.task.name: teacher for teacher in teachers}
    memory = _memory(config, tasks, by_game, trained)
    memory.check()
    each = [_memory(config, [task], *who) for task in tasks for who in _each_alone(task, by_game, trained)]
    alone = None
    if (platform := memory.devices.platform) != "cpu":
        alone = f"policies play on {platform}, which is one process's at a time"
    elif teacher is not None:
        alone = "the teachers are objects of this process, which no other has"
    jobs, why = choose_jobs(config.jobs, each, "player", alone)
    if jobs > 1:
        memory = jobs_memory(each, jobs)
    with contextlib.ExitStack() as stack:
        directory = None
        if config.out is not None:
            directory = stack.enter_context(
                RunDirectory.create(config.out, "evaluate", to_mapping(config), resume=config.resume)
            )
        memory.tell()
        if config.jobs != 1:
            print_line(f"jobs: {jobs} ({why})", sys.stderr)
        if jobs == 1:
            scores = _score_all(config, tasks, by_game, trained)
        else:
            scores = _score_side_by_side(config, tasks, by_game, trained, jobs)
        summary = _summarise(config, tasks, by_game, trained, scores, time.monotonic() - started)
        if directory is not None:
            directory.write_summary(summary)
    return summary


def _load_teachers(config: EvaluateConfig, trained: TrainedStudent | None) -> tuple[Teacher, ...]:
    """The teachers by their names; the games, or those of the run, tell what files of other libraries play."""
    if config.teacher is None:
        return ()
    games: Sequence[str | None] = config.game or (trained.names if trained is not None else ())
    if len(games) != len(config.teacher):
        games = (None,) * len(config.teacher)
    return tuple(
        load_teacher(name, game, config.credibility, in_play=True)
        for name, game in zip(config.teacher, games, strict=True)
    )


def _tasks_of(config: EvaluateConfig, teachers: Sequence[Teacher], trained: TrainedStudent | None) -> tuple[Task, ...]:
    """The games to play, which have to be those of everyone who plays."""
    wanted = tuple(map(get_task, config.game)) if config.game is not None else None
    if trained is not None:
        wanted = wanted or trained.student.shown
        for task in wanted:
            if task.name not in trained.names:
                raise UserError(f"{config.run}: its student plays {', '.join(trained.names)}, not {task.name}")
    if not teachers:
        assert wanted is not None  # There are teachers or a run.
        return wanted
    wanted = wanted or tuple(teacher.task for teacher in teachers)
    check_games([teacher.task for teacher in teachers], one_student=False)
    names, taught = [task.name for task in wanted], [teacher.task.name for teacher in teachers]
    for teacher in teachers:
        if len(wanted) == 1:
            check_teacher_plays(teacher, wanted[0])
        elif teacher.task.name not in names:
            raise UserError(f"teacher {teacher.source}: plays {teacher.task.name}, none of {', '.join(names)}")
    for name in names:
        if name not in taught:
            raise UserError(f"teacher: {name} has none; give one for each game, or choose games with --game")
    return wanted


def _policies(
    task: Task, teachers: Mapping[str, Teacher], trained: TrainedStudent | None
) -> dict[str, tuple[Any, Any]]:
    """Who plays a game, as ``(apply, variables)``."""
    policies: dict[str, tuple[Any, Any]] = {}
    if task.name in teachers:
        policies["teacher"] = (teachers[task.name].network.apply, teachers[task.name].variables)
    if trained is not None:
        policies["student"] = (trained.student.player(trained.names.index(task.name)), trained.variables)
    return policies


def _each_alone(
    task: Task, teachers: Mapping[str, Teacher], trained: TrainedStudent | None
) -> Iterator[tuple[Mapping[str, Teacher], TrainedStudent | None]]:
    """The teacher and the student of a game, those who are there, each without the other."""
    if task.name in teachers:
        yield teachers, None
    if trained is not None:
        yield {}, trained


def _memory(
    config: EvaluateConfig, tasks: Sequence[Task], teachers: Mapping[str, Teacher], trained: TrainedStudent | None
) -> MemoryEstimate:
    players: list[tuple[Any, Task]] = []
    for task in tasks:
        if task.name in teachers:
            players.append(((teachers[task.name].network.apply, teachers[task.name].variables), task))
        if trained is not None:
            place = trained.names.index(task.name)
            players.append(((trained.student.policy(place), trained.variables), trained.student.tasks[place]))
    policies, games = zip(*players, strict=True)
    return evaluation_memory(config.evaluation, policies, games)


def _score_all(
    config: EvaluateConfig, tasks: Sequence[Task], teachers: Mapping[str, Teacher], trained: TrainedStudent | None
) -> dict[str, dict[str, Score]]:
    """Scores by ``"teacher"`` and ``"student"``, those who are there, and by game."""
    scores: dict[str, dict[str, Score]] = {}
    title = ", ".join(task.name for task in tasks)
    with (
        Interrupts() as interrupts,
        Progress(f"evaluate on {title}") as progress,
        profiling(config, Path(config.out or ""), progress.print) as on_stage,
    ):
        for task in tasks:
            protocol = Protocol.of(config, task)
            for who, (apply, variables) in _policies(task, teachers, trained).items():
                game = f"{who}'s games" if len(tasks) == 1 else f"{who}'s games of {task.name}"
                stage = functools.partial(on_stage, who if len(tasks) == 1 else f"{who}-{task.name}")
                on_progress = heeding(interrupts, progress.add(game, protocol.episodes), stage)
                played = play_games(apply, variables, task, protocol, on_progress=on_progress)
                scores.setdefault(who, {})[task.name] = Score.of(played.returns)
    return scores


def _score_side_by_side(
    config: EvaluateConfig,
    tasks: Sequence[Task],
    teachers: Mapping[str, Teacher],
    trained: TrainedStudent | None,
    jobs: int,
) -> dict[str, dict[str, Score]]:
    """As :func:`_score_all`, by several processes."""
    # In the order of their names.
    names = dict(zip(teachers, config.teacher or (), strict=True))
    players = []
    for task in tasks:
        if task.name in teachers:
            players.append(Player("teacher", task.name, names[task.name], teachers[task.name].task.name))
        if trained is not None:
            players.append(Player("student", task.name))
    updates = None if trained is None else trained.counters.updates
    scores: dict[str, dict[str, Score]] = {}
    for player, returns in zip(players, play_side_by_side(config, players, jobs, updates), strict=True):
        scores.setdefault(player.who, {})[player.game] = Score.of(returns)
    return scores


def _summarise(
    config: EvaluateConfig,
    tasks: Sequence[Task],
    teachers: Mapping[str, Teacher],
    trained: TrainedStudent | None,
    scores: Mapping[str, Mapping[str, Score]],
    wall_seconds: float,
) -> Summary:
    about: dict[str, Any] = {"epsilon": config.evaluation.epsilon, "seed": config.seed}
    about |= {"max_noops": config.env.max_noops}
    if any(task.is_console for task in tasks):
        about |= {"protocol": config.protocol_name}
    if any(task.is_continuous for task in tasks):
        # There epsilon scales noise.
        about |= {"actions": "continuous"}
    playing = [teachers[task.name].metadata for task in tasks if teachers]
    if playing:
        about |= {"teacher": one_or_list([metadata.name for metadata in playing])}
        about |= {"teacher_network": one_or_list([metadata.network for metadata in playing])}
    if trained is not None:
        about |= {"run": config.run, "student_network": trained.network}
    teaching, learnt = scores.get("teacher", {}), scores.get("student", {})
    games = {
        task.name: GameSummary(
            teaching.get(task.name), learnt.get(task.name), task.random_score if teaching and learnt else None
        )
        for task in tasks
    }
    return Summary(
        games,
        student_parameters=None if trained is None else count_params(trained.variables),
        teacher_parameters=count_teachers_params([teachers[task.name] for task in tasks]) if playing else None,
        wall_seconds=wall_seconds,
        env_steps=None if trained is None else trained.counters.env_steps,
        updates=None if trained is None else trained.counters.updates,
        about=about,
    )
