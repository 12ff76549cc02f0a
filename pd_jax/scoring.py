"""``pd-jax evaluate``: the score of a teacher, of a run's student, or of both."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp

from pd_jax.checkpoint import Checkpointer
from pd_jax.config import DistillConfig, EvaluateConfig
from pd_jax.config_loading import read_config, to_mapping
from pd_jax.errors import UserError
from pd_jax.evaluation import EpisodeScores, evaluate
from pd_jax.interrupts import Interrupts
from pd_jax.learner import LearnerState, make_optimizer
from pd_jax.networks import count_params
from pd_jax.play import environment_options
from pd_jax.preparation import check_teacher_plays
from pd_jax.progression import Progression
from pd_jax.reporting.progress import Progress
from pd_jax.reporting.summary import build_summary, summarise_scores
from pd_jax.run_directory import RunDirectory, read_run
from pd_jax.students import Student, make_student
from pd_jax.tasks import Task, get_task
from pd_jax.teachers import Teacher, load


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """A run's student, read from one of its checkpoints.

    Attributes:
      student: the network and its game.
      variables: its parameters, NumPy arrays.
      config: the run's.
      task: the game it plays.
      progression: where the run stood.
    """

    student: Student
    variables: Any
    config: DistillConfig
    task: Task
    progression: Progression


def load_student(path: str, *, checkpoint: Literal["newest", "best"] = "newest") -> TrainedStudent:
    """Reads the student of a ``distill`` run; the run may still be going.

    Args:
      path: the run's directory.
      checkpoint: the newest intact one, or the one with the best score on the way.

    Raises:
      UserError: not such a run, none of its checkpoints is intact, or none was scored and the best is wanted.
    """
    run = read_run(path)
    if run.command != "distill":
        raise UserError(f"{path}: is a run of pd-jax {run.command}, which has no student")
    config = read_config(DistillConfig, run.config_path)
    if config.game is None:
        raise UserError(f"{run.config_path}: names no game; it is not the resolved configuration of a run")
    task = get_task(config.game)
    student = make_student(config.student, [task])
    with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
        step = checkpointer.best_step() if checkpoint == "best" else None
        if checkpoint == "best" and step is None:
            raise UserError(f"{path}: no checkpoint has a score; evaluation.every_rounds is what scores them")
        restored = checkpointer.restore(_template(student, config), step, network=config.student.network)
    if restored is None:
        raise UserError(f"{path}: has no checkpoint yet")
    state, metadata, _ = restored
    return TrainedStudent(student, state.variables, config, task, Progression(**metadata))


def run_evaluate(config: EvaluateConfig, teacher: Teacher | None = None) -> dict[str, Any]:
    """Plays the games and returns a summary: of both policies, or of the one that was given.

    Args:
      config: what to play, and how often.
      teacher: who plays instead of the teacher that the configuration names, if it names one.

    Raises:
      UserError: the teacher, the run and the game do not fit together.
      Interrupted: a signal came; there are no scores.
    """
    started = time.monotonic()
    student = load_student(config.run, checkpoint=config.checkpoint) if config.run is not None else None
    if teacher is None and config.teacher is not None:
        teacher = load(config.teacher, config.game or (student.task.name if student is not None else None))
    task = _task_of(config, teacher, student)
    config = dataclasses.replace(config, game=task.name)
    policies: dict[str, tuple[Any, Any]] = {}
    if teacher is not None:
        policies["teacher"] = (teacher.network.apply, teacher.variables)
    if student is not None:
        policies["student"] = (student.student.policy(0), student.variables)
    with contextlib.ExitStack() as stack:
        directory = None
        if config.out is not None:
            directory = stack.enter_context(
                RunDirectory.create(config.out, "evaluate", to_mapping(config), resume=config.resume)
            )
        scores = _score_all(config, task, policies)
        summary = _summarise(config, task, teacher, student, scores, time.monotonic() - started)
        if directory is not None:
            directory.write_summary(summary)
    return summary


def _task_of(config: EvaluateConfig, teacher: Teacher | None, student: TrainedStudent | None) -> Task:
    """The game to play, which has to be that of everyone who plays."""
    wanted = get_task(config.game) if config.game is not None else None
    if student is not None:
        wanted = wanted or student.task
        if student.task.name != wanted.name:
            raise UserError(f"{config.run}: its student plays {student.task.name}, not {wanted.name}")
    if teacher is not None:
        wanted = wanted or teacher.task
        check_teacher_plays(teacher, wanted)
    assert wanted is not None  # There is a teacher or a run.
    return wanted


def _score_all(config: EvaluateConfig, task: Task, policies: dict[str, tuple[Any, Any]]) -> dict[str, EpisodeScores]:
    evaluation = config.evaluation
    options = environment_options(config.env) | {"max_episode_steps": evaluation.max_episode_steps}
    scores = {}
    with Interrupts() as interrupts, Progress(f"evaluate on {task.name}") as progress:
        for who, (apply, variables) in policies.items():
            games = progress.add(f"{who}'s games", evaluation.episodes)

            def on_progress(finished: int, wanted: int, games: Any = games) -> None:
                games.total = wanted
                games.set(finished)
                interrupts.check()

            scores[who] = evaluate(
                apply,
                variables,
                task,
                episodes=evaluation.episodes,
                num_lanes=evaluation.num_lanes,
                epsilon=evaluation.epsilon,
                seed=config.seed + evaluation.seed_offset,
                environment_options=options,
                on_progress=on_progress,
            )
    return scores


def _summarise(
    config: EvaluateConfig,
    task: Task,
    teacher: Teacher | None,
    student: TrainedStudent | None,
    scores: dict[str, EpisodeScores],
    wall_seconds: float,
) -> dict[str, Any]:
    about: dict[str, Any] = {"epsilon": config.evaluation.epsilon, "seed": config.seed}
    about |= {"max_noops": config.env.max_noops}
    if teacher is not None:
        about |= {"teacher": teacher.metadata.name, "teacher_network": teacher.metadata.network}
    if student is not None:
        about |= {"run": config.run, "student_network": student.config.student.network}
        about |= {"env_steps": student.progression.env_steps, "updates": student.progression.updates}
    if teacher is None or student is None:
        ((who, only),) = scores.items()
        policy = teacher if teacher is not None else student
        assert policy is not None
        return {
            "games": {task.name: _prefixed(who, summarise_scores(only.returns))},
            f"{who}_parameters": count_params(policy.variables),
            "wall_seconds": wall_seconds,
            **about,
        }
    return build_summary(
        {task.name: scores["teacher"].returns},
        {task.name: scores["student"].returns},
        random_scores={} if task.random_score is None else {task.name: task.random_score},
        student_parameters=count_params(student.variables),
        teacher_parameters=teacher.num_params,
        wall_seconds=wall_seconds,
        **about,
    )


def _prefixed(who: str, scores: dict[str, Any]) -> dict[str, Any]:
    names = {"mean": f"{who}_score", "standard_error": f"{who}_standard_error", "ci95": f"{who}_ci95"}
    return {names.get(name, name): value for name, value in scores.items()}


def _template(student: Student, config: DistillConfig) -> Any:
    """What the checkpoint of such a run holds, without computing it."""

    def init(key: jax.Array) -> LearnerState:
        variables = student.init(key)
        optimizer_state = make_optimizer(config.learner, total_updates=1).init(variables)
        return LearnerState(variables, optimizer_state, jnp.zeros((), jnp.int32), key)

    return jax.eval_shape(init, jax.random.key(0))
