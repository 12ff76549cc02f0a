"""Games of several policies played side by side, by worker processes that each have cores of their own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.loading import from_mapping, to_mapping
from pd_jax.deploy.student import TrainedStudent, load_trained
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.runs.students import load_teacher
from pd_jax.system.computing import computing
from pd_jax.system.files import to_plain
from pd_jax.system.interrupts import Interrupts, stopped_by
from pd_jax.system.progress import Progress
from pd_jax.system.workers import Advanced, Ended, Said, Task, TaskMeters, Workers


class Player(NamedTuple):
    """Who plays what.

    Attributes:
      who: ``teacher`` or ``student``.
      game: name of the task.
      teacher: the teacher's name or file; None of the student.
      taught: name of the game that the teacher says it plays.
    """

    who: str
    game: str
    teacher: str | None = None
    taught: str | None = None


def play_side_by_side(
    config: EvaluateConfig, players: Sequence[Player], jobs: int, updates: int | None
) -> list[list[float]]:
    """The returns of whole games of each player.

    Args:
      config: of the evaluation.
      players: who are loaded by the workers.
      jobs: how many play at once.
      updates: that the run's student has had, if one plays: a run may go on meanwhile.

    Raises:
      UserError: a player could not be loaded, or its process ended.
      Interrupted: an end was asked for.
    """
    settings = to_plain(to_mapping(config))
    tasks = [
        Task(f"{player.game} {player.who}", {"config": settings, "updates": updates, "player": list(player)})
        for player in players
    ]
    returns: dict[str, list[float]] = {}
    with (
        Interrupts() as interrupts,
        Progress(f"evaluate {len(players)} players") as progress,
        Workers("pd_jax.deploy.workers:play", jobs) as workers,
    ):
        meters = TaskMeters(progress)
        for event in workers.run(tasks, interrupts):
            if isinstance(event, Advanced):
                meters.show(event)
            elif isinstance(event, Said):
                progress.print(event.text)
            elif isinstance(event, Ended):
                failure = event.failure or event.result.get("failure")
                if failure is not None:
                    raise UserError(f"{event.task.name}: {failure}" if event.failure else failure)
                returns[event.task.name] = event.result["returns"]
    return [returns[task.name] for task in tasks]


@computing()
def play(payload: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
    """Plays one player's games, in a worker.

    Args:
      payload: ``config`` of the evaluation, the `Player`, and ``updates`` of the student.
      stop: ends it.

    Returns:
      ``returns``, or why there are none: ``failure``.

    Raises:
      Interrupted: ``stop`` was set.
    """
    config = from_mapping(EvaluateConfig, payload["config"])
    player = Player(*payload["player"])
    task = get_task(player.game)
    protocol = Protocol.of(config, task)
    try:
        if player.teacher is not None:
            teacher = load_teacher(player.teacher, player.taught, config.credibility, in_play=True)
            apply, variables = teacher.network.apply, teacher.variables
        else:
            trained = _student(config)
            if trained.counters.updates != payload["updates"]:
                raise UserError(f"{config.run}: has gone on meanwhile; score it when it has ended, or without --jobs")
            apply, variables = trained.student.player(trained.names.index(player.game)), trained.variables
    except UserError as error:
        return {"failure": str(error)}
    with stopped_by(stop), Interrupts() as interrupts, Progress(player.game) as progress:
        on_progress = heeding(interrupts, progress.add("games", protocol.episodes))
        played = play_games(apply, variables, task, protocol, on_progress=on_progress)
    return {"returns": played.returns.tolist()}


@functools.cache
def _student(config: EvaluateConfig) -> TrainedStudent:
    assert config.run is not None
    return load_trained(config.run, checkpoint=config.checkpoint)
