"""Who is shown: a finished run's student in each of its games, and who taught it."""

from __future__ import annotations

import dataclasses

from pd_jax.config.video import MOST_PAIRS, VideoConfig
from pd_jax.deploy.pairs import Reading, credibility_of, reading_of, teacher_of, was_taught_by
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.deploy.student import load_trained
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.runs.directory import read_run
from pd_jax.runs.students import load_teacher
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import check_teacher_plays
from pd_jax.trainers.teacher_writer import FINAL_SEED_OFFSET
from pd_jax.video.scenes import SCENES


@dataclasses.dataclass(frozen=True)
class Players:
    """A teacher and a student of one game.

    Attributes:
      task: the game.
      teacher, student: of it.
      reading: how their outputs become policies.
      taught_by: whether the teacher is the one that the student learnt from: None where that is not known.
      protocol: of the run's evaluation, but for what the settings say.
      lanes: of it that are shown.
    """

    task: Task
    teacher: Teacher
    student: StudentPolicy
    reading: Reading
    taught_by: bool | None
    protocol: Protocol
    lanes: tuple[int, ...]

    @property
    def policies(self) -> dict[str, GreedyPolicy]:
        """By who they are."""
        return {"teacher": self.teacher, "student": self.student}


def load_players(config: VideoConfig) -> list[Players]:
    """Everyone whom the settings name, for each game.

    Raises:
      UserError: the run has not ended or has no student, somebody is not there, not whole or of another game, or the
        evaluation has no such lane.
    """
    run = read_run(config.run)
    trained = load_trained(config.run, checkpoint=config.checkpoint)
    if not run.is_complete:
        raise UserError(f"{config.run}: has not ended, and its student has no score yet; go on with it by --resume")
    student = StudentPolicy(trained, config.run)
    games = config.game or student.games
    if len(games) * len(config.lanes) > MOST_PAIRS:
        raise UserError(
            f"{config.run}: {len(games)} games on {len(config.lanes)} lanes are more than the {MOST_PAIRS} pairs that "
            "a picture has room for; choose some with --game"
        )
    if config.teacher is not None and len(config.teacher) != len(games):
        raise UserError(f"teacher: {len(config.teacher)} for {len(games)} games; give one for each")
    # The games that these runs end with start elsewhere than those on the way.
    offset = FINAL_SEED_OFFSET if run.command in ("online", "train-teacher") else 0
    found = []
    for place, game in enumerate(games):
        own = student.for_game(game)
        if not own.shown.is_console and own.shown.name not in SCENES:
            raise UserError(f"game: there is no picture of {own.shown.name} ({', '.join(SCENES)}, or a game of Atari)")
        teacher = _teacher(own, None if config.teacher is None else config.teacher[place])
        protocol = Protocol.of(trained.config, own.task, seed_offset=offset)
        if config.seed is not None:
            protocol = dataclasses.replace(protocol, seed=config.seed)
        if config.epsilon is not None:
            protocol = dataclasses.replace(protocol, epsilon=config.epsilon)
        _check_lanes(config, protocol)
        taught_by = was_taught_by(own, teacher.sha256)
        found.append(Players(own.shown, teacher, own, reading_of(own, teacher), taught_by, protocol, config.lanes))
    return found


def _teacher(student: StudentPolicy, named: str | None) -> Teacher:
    own = named or teacher_of(student)
    if own is None:
        raise UserError(f"{student.source}: names no teacher; give --teacher NAME_OR_FILE")
    try:
        teacher = load_teacher(own, student.task.name, credibility_of(student), in_play=True)
    except UserError as error:
        hint = "" if named else "; give --teacher NAME_OR_FILE"
        raise UserError(f"teacher: {error}{hint}") from None
    check_teacher_plays(teacher, student.task)
    return teacher


def _check_lanes(config: VideoConfig, protocol: Protocol) -> None:
    lanes = min(protocol.num_lanes, protocol.episodes)
    for lane in config.lanes:
        if lane >= lanes:
            raise UserError(f"lanes: {lane}, and the run's evaluation has {lanes}, from 0 to {lanes - 1}")
